//! Ports of releases.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that the system gives to outgoing connections: under load those come and
/// go all the time, and one could sit on a port between our choice and the release's start.
const RELEASES: Range<u16> = 10_000..18_000;
/// The fixed addresses of targets; for the same reason.
pub(super) const TARGETS: Range<u16> = 18_000..32_000;
/// A loopback address that nobody else uses.
const CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 83, 7, 1);

/// A port that no other supervisor gives to a release as long as the value lives.
#[derive(Debug)]
pub(super) struct PortClaim {
    port: u16,
    /// The system frees it when we end, however we end. It is bound to another address and
    /// protocol, so that it is in nobody's way.
    _token: Option<UdpSocket>,
}

impl PortClaim {
    /// Claims a port that is free for a server to listen on at 127.0.0.1.
    pub(super) fn new() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let start = COUNT.fetch_add(1, Ordering::Relaxed);
        for port in spread(RELEASES, start) {
            let token = match UdpSocket::bind((CLAIMS, port)) {
                Ok(token) => Some(token),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                // Without that address there is nothing to claim with.
                Err(_) => None,
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self {
                    port,
                    _token: token,
                });
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    #[cfg(test)]
    pub(super) fn of(port: u16) -> Self {
        Self { port, _token: None }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// All ports of a range, from one that differs between processes and between `start`s, so
/// that supervisors do not try the same ones at the same time.
pub(super) fn spread(range: Range<u16>, start: u32) -> impl Iterator<Item = u16> {
    let span = u32::from(range.end - range.start);
    let first = std::process::id()
        .wrapping_mul(7919)
        .wrapping_add(start.wrapping_mul(101))
        % span;
    (0..span).map(move |step| {
        let offset = (first + step) % span;
        range.start + u16::try_from(offset).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_claimed_port_is_given_once_and_can_be_listened_on() {
        let claims: Vec<_> = (0..50).map(|_| PortClaim::new().unwrap()).collect();
        let ports: BTreeSet<_> = claims.iter().map(PortClaim::port).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            assert!(RELEASES.contains(&port));
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        }
    }

    #[test]
    fn every_port_of_the_range_comes_once() {
        let ports: Vec<_> = spread(10..15, 3).collect();
        assert_eq!(ports.len(), 5);
        assert_eq!(
            ports.into_iter().collect::<BTreeSet<_>>(),
            (10..15).collect()
        );
    }
}
