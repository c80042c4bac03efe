//! Removes what a local target does not need any more.

use std::fs;
use std::io;
use std::path::PathBuf;

use tokio::task::spawn_blocking;

use super::LocalTarget;
use super::client::Client;
use super::folders::absent;
use crate::target::DeployError;

/// How many releases that never went live keep their logs.
const FAILED_LOGS: usize = 5;

impl LocalTarget {
    pub(super) async fn sweep(&self, paths: &[PathBuf]) -> Result<(), DeployError> {
        for path in paths {
            // Only what is directly below `releases/`, whatever the plan says.
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
                && parent == self.folders().releases()
            {
                let name = name.to_string_lossy().into_owned();
                self.remove(&name).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn remove(&self, folder: &str) -> Result<(), DeployError> {
        let (folders, name) = (self.folders().clone(), folder.to_owned());
        let removed = spawn_blocking(move || folders.remove(&name)).await;
        let removed = removed.unwrap_or_else(|error| Err(io::Error::other(error)));
        removed.map_err(|e| DeployError::files("remove", &self.folders().release(folder), e))
    }

    /// Removes the oldest releases, and logs that belong to none for long.
    pub(super) async fn prune(&self, client: &mut Client) -> Result<(), DeployError> {
        let list = |error| DeployError::files("list", &self.folders().releases(), error);
        let status = client.status().await?;
        let live = status.live.map(|live| live.folder).unwrap_or_default();
        let (complete, _) = self.folders().list().map_err(list)?;
        let former: Vec<_> = complete.into_iter().filter(|name| *name != live).collect();
        let keep = self.app.keep.max(1);
        for name in &former[..former.len().saturating_sub(keep)] {
            if !status.in_use.contains(name) {
                self.remove(name).await?;
                let logs = self.folders().logs(name);
                let removed = absent(fs::remove_dir_all(&logs));
                removed.map_err(|error| DeployError::files("remove", &logs, error))?;
            }
        }
        // Logs of releases that never went live: some, for whoever looks into it.
        let known = |name: &String| self.folders().release(name).exists();
        let logs = self.folders().log_folders().map_err(list)?;
        let orphaned: Vec<_> = logs.into_iter().filter(|name| !known(name)).collect();
        for name in &orphaned[..orphaned.len().saturating_sub(FAILED_LOGS)] {
            let logs = self.folders().logs(name);
            let removed = absent(fs::remove_dir_all(&logs));
            removed.map_err(|error| DeployError::files("remove", &logs, error))?;
        }
        Ok(())
    }
}
