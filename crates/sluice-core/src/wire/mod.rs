//! Packets inside tunnels: IPv4, IPv6, UDP and ICMP echo, as far as a gateway needs them.
//!
//! One file for each format, all of one form: `field` says where the fields lie, `Packet` is a view whose lengths have
//! been checked once (so that its getters cannot fail), and `Repr` is what is written. Numbers are big-endian.

pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod udp;

use std::net::IpAddr;

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// UDP
    pub const UDP: u8 = 17;
    /// IPv6's fragment header
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6
    pub const ICMPV6: u8 = 58;
}

/// The Internet checksum (RFC 1071), while it is being summed up.
#[derive(Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds bytes. Every part but the last must have an even length.
    pub fn cover(self, bytes: &[u8]) -> Checksum {
        // Wider words give the same sum once it is folded (RFC 1071, section 2).
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Checksum(fold(sum + u64::from(u32::from_be_bytes(last))))
    }

    /// Adds what UDP and ICMPv6 cover beside themselves (RFC 768; RFC 8200, section 8.1).
    pub fn cover_pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Checksum {
        let addresses = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.cover(&source.octets()).cover(&destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.cover(&source.octets()).cover(&destination.octets()),
            _ => unreachable!("both addresses are of one family"),
        };
        addresses.cover(&(length as u32).to_be_bytes()).cover(&[0, protocol])
    }

    /// The field's value.
    pub fn finish(self) -> u16 {
        !(fold(fold(self.0)) as u16)
    }

    /// True if what was added contains its own checksum, and it is right.
    pub fn is_right(self) -> bool {
        self.finish() == 0
    }
}

fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum & 0xffff) + (sum >> 16)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3.
    #[test]
    fn the_example_of_the_rfc() {
        let sum = Checksum::default().cover(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
        assert!(sum.cover(&sum.finish().to_be_bytes()).is_right());
        assert_eq!(Checksum::default().cover(&[0xff; 64]).cover(&[1]).finish(), !0x0100);
    }
}
