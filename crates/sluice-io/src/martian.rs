//! Datagrams from loopback addresses that came over another interface: a neighbour speaks as this machine's own programs.
//!
//! Theory. The kernel drops them, unless `route_localnet` is set for an interface, as some networks of containers have it.
//! The packet info names the interface, but for a datagram of this machine to another of its own addresses it names the one
//! that has this address. So the interface decides only where `route_localnet` is set; there a program that is bound to
//! 127.0.0.1 and speaks to such an address is not heard.

use sluice_core::Now;
use std::fs;

/// The index of `lo` in every network namespace (LOOPBACK_IFINDEX of the kernel).
const LOOPBACK_INTERFACE: u32 = 1;
/// A directory for each interface (kernel: Documentation/networking/ip-sysctl.rst).
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";
/// Nanoseconds for which a look at the settings holds.
const FRESH: u64 = 1_000_000_000;

/// Tells them, and counts them until somebody takes account of them.
#[derive(Default)]
pub struct Martians {
    /// Datagrams that nobody has taken account of yet.
    pub count: usize,
    /// When the settings were read, and whether `route_localnet` was set anywhere.
    looked: Option<(u64, bool)>,
}

impl Martians {
    /// True if a datagram from a loopback address, with this interface in its packet info, did not come over `lo`.
    pub fn is_one(&mut self, now: Now, interface: Option<u32>) -> bool {
        interface.is_some_and(|index| index != LOOPBACK_INTERFACE) && self.lets_them_in(now)
    }

    fn lets_them_in(&mut self, now: Now) -> bool {
        match self.looked {
            Some((at, lets)) if now.mono.saturating_sub(at) < FRESH => lets,
            _ => {
                let lets = route_localnet().unwrap_or(true);
                self.looked = Some((now.mono, lets));
                lets
            }
        }
    }
}

/// True if `route_localnet` is set for any interface. None: it cannot be read.
fn route_localnet() -> Option<bool> {
    let interfaces = fs::read_dir(SETTINGS).ok()?.flatten();
    let mut values = interfaces.filter_map(|one| fs::read(one.path().join("route_localnet")).ok());
    Some(values.any(|value| value.first() != Some(&b'0')))
}
