//! How much the kernel takes of one remote's packets at once (UDP_SEGMENT).
//!
//! Theory. A run leaves as one large datagram that the kernel or the interface cuts. It is refused where the segments do
//! not fit the way to this remote: its MTU (EINVAL, EMSGSIZE), or an interface or IPsec that does not cut (EIO). That says
//! nothing about other ways, so it is remembered for the remote alone.

use sluice_core::RunLimit;
use std::{collections::HashMap, net::IpAddr};

/// Largest segment offered: Ethernet's 1,500 less the headers of IPv6 and UDP.
const SEGMENT: usize = 1_452;
/// Size of a segment below which a refusal is not about the MTU (RFC 791: every host accepts 576 bytes).
const SEGMENT_LEAST: usize = 508;
/// Most bytes of a run, which is one UDP datagram to the kernel.
const BYTES: usize = 65_000;
/// Remotes with a limit of their own. If there are more, all are tried again.
const NARROW: usize = 1_024;

/// The limits of one socket.
pub struct Offload {
    wide: RunLimit,
    /// The largest segment for remotes that take less.
    narrow: HashMap<IpAddr, usize>,
}

impl Offload {
    /// The kernel offers to cut a run into so many segments at most.
    pub fn new(segments: usize) -> Offload {
        Offload { wide: RunLimit { segments, segment: SEGMENT, bytes: BYTES }, narrow: HashMap::new() }
    }

    /// The limit of a run to `remote`.
    #[inline]
    pub fn limit(&self, remote: IpAddr) -> RunLimit {
        match self.narrow.is_empty() {
            true => self.wide,
            false => RunLimit { segment: *self.narrow.get(&remote).unwrap_or(&self.wide.segment), ..self.wide },
        }
    }

    /// The kernel refused a run to `remote` with segments of this size. Any other error comes again with a single
    /// datagram, which then says whose fault it is.
    pub fn refused(&mut self, remote: IpAddr, segment: usize, errno: Option<i32>) {
        let limit = match errno {
            Some(libc::EIO) => 0,
            Some(libc::EINVAL | libc::EMSGSIZE) if segment > SEGMENT_LEAST => segment - 1,
            Some(libc::EINVAL | libc::EMSGSIZE) => 0,
            _ => return,
        };
        if self.narrow.len() >= NARROW {
            self.narrow.clear();
        }
        self.narrow.insert(remote, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_narrows_one_way() {
        let mut offload = Offload::new(64);
        let [small, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        offload.refused(small, 1_400, Some(libc::EINVAL));
        assert_eq!((offload.limit(small).segment, offload.limit(other).segment), (1_399, SEGMENT));
        offload.refused(small, 500, Some(libc::EMSGSIZE));
        assert_eq!(offload.limit(small).segment, 0);
        offload.refused(other, 1_000, Some(libc::ENETUNREACH));
        assert_eq!(offload.limit(other).segment, SEGMENT);
        offload.refused(other, 1_000, Some(libc::EIO));
        assert_eq!(offload.limit(other).segment, 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut offload = Offload::new(64);
        for number in 0..3 * NARROW as u32 {
            offload.refused(IpAddr::from(number.to_be_bytes()), 1_000, Some(libc::EINVAL));
        }
        assert!(offload.narrow.len() <= NARROW);
    }
}
