//! Whether what is to be unpacked can fit.

use rustix::fs::{fstat, fstatvfs};

use super::ArchiveError;
use super::staging::Staging;

impl Staging {
    /// Fails when content cannot fit into the file systems of the destination. Those that do not
    /// say how large they are have room.
    pub(crate) fn check_room(&self, needed: u64) -> Result<(), ArchiveError> {
        let (mut devices, mut free) = (Vec::new(), 0_u64);
        for (base, _) in self.bases() {
            let (Ok(stat), Ok(room)) = (fstat(base), fstatvfs(base)) else {
                return Ok(());
            };
            if room.f_blocks == 0 {
                return Ok(());
            }
            if !devices.contains(&stat.st_dev) {
                devices.push(stat.st_dev);
                // What is kept for the super-user counts: it may be the one who restores.
                free = free.saturating_add(room.f_bfree.saturating_mul(room.f_frsize));
            }
        }
        match self.bases().next() {
            Some((_, path)) if needed > free => Err(ArchiveError::NoRoom {
                path: path.display().to_string(),
                needed,
                free,
            }),
            _ => Ok(()),
        }
    }
}
