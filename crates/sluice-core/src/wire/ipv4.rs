//! IPv4 (RFC 791).

use super::{Checksum, u16_at};
use std::net::Ipv4Addr;

mod field {
    use std::ops::Range;
    pub const VERSION_IHL: usize = 0;
    pub const LENGTH: Range<usize> = 2..4;
    pub const FLAGS: Range<usize> = 6..8;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: Range<usize> = 10..12;
    pub const SOURCE: Range<usize> = 12..16;
    pub const DESTINATION: Range<usize> = 16..20;
}

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Any of: more fragments, an offset.
const FRAGMENT: u16 = 0x3fff;
const DONT_FRAGMENT: u16 = 0x4000;
const HOPS: u8 = 64;

/// A packet without what may follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`: lengths fit and the header's checksum is right.
    pub fn new(bytes: &'a [u8]) -> Option<Packet<'a>> {
        if bytes.len() < HEADER || bytes[field::VERSION_IHL] >> 4 != 4 {
            return None;
        }
        let header = header_length(bytes);
        let length = usize::from(u16_at(bytes, field::LENGTH.start));
        let fits = header >= HEADER && length >= header && length <= bytes.len();
        (fits && Checksum::default().cover(&bytes[..header]).is_right()).then(|| Packet(&bytes[..length]))
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Who sent it.
    pub fn source(&self) -> Ipv4Addr {
        address(&self.0[field::SOURCE])
    }

    /// Who is to have it.
    pub fn destination(&self) -> Ipv4Addr {
        address(&self.0[field::DESTINATION])
    }

    /// The protocol of the payload.
    pub fn protocol(&self) -> u8 {
        self.0[field::PROTOCOL]
    }

    /// True if the packet is a part of a larger one.
    pub fn is_fragment(&self) -> bool {
        u16_at(self.0, field::FLAGS.start) & FRAGMENT != 0
    }

    /// The bytes after the header and its options.
    pub fn payload(&self) -> &'a [u8] {
        &self.0[header_length(self.0)..]
    }
}

fn header_length(bytes: &[u8]) -> usize {
    usize::from(bytes[field::VERSION_IHL] & 15) * 4
}

/// Where the source would be, if these bytes are the start of a packet, or all that there is of it.
pub fn claimed_source(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.get(field::SOURCE).map(address)
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(bytes).expect("four bytes").into()
}

/// A header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the protocol's
pub struct Repr {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub payload: usize,
}

impl Repr {
    /// Writes the header; the payload must fit into 16 bits with it.
    pub fn emit(&self, out: &mut [u8; HEADER]) {
        let length = u16::try_from(HEADER + self.payload).expect("the caller bounds it");
        *out = [0; HEADER];
        out[field::VERSION_IHL] = 0x45;
        out[field::LENGTH].copy_from_slice(&length.to_be_bytes());
        // Without fragments its identification says nothing (RFC 6864).
        out[field::FLAGS].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
        out[field::TTL] = HOPS;
        out[field::PROTOCOL] = self.protocol;
        out[field::SOURCE].copy_from_slice(&self.source.octets());
        out[field::DESTINATION].copy_from_slice(&self.destination.octets());
        let checksum = Checksum::default().cover(&out[..]).finish();
        out[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An echo request that `ping` sent, as `tcpdump -x` shows its header.
    const PING: [u8; 20] = [
        0x45, 0x00, 0x00, 0x14, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0xb1, 0xfa, 0xac, 0x10, 0x0a, 0x63, 0xac, 0x10,
        0x0a, 0x0c,
    ];

    fn with(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = vec![0u8; 64];
        let repr = Repr { source: [10, 0, 0, 2].into(), destination: [10, 0, 0, 1].into(), protocol: 17, payload: 30 };
        repr.emit(bytes.first_chunk_mut().unwrap());
        change(&mut bytes);
        bytes[field::CHECKSUM].fill(0);
        let header = (header_length(&bytes)).min(bytes.len());
        let checksum = Checksum::default().cover(&bytes[..header]).finish();
        bytes[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn a_header_of_another_implementation() {
        let mut header = PING;
        header[field::CHECKSUM].fill(0);
        let checksum = Checksum::default().cover(&header).finish();
        header[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        let packet = Packet::new(&header).unwrap();
        assert_eq!((packet.source(), packet.destination()), ([172, 16, 10, 99].into(), [172, 16, 10, 12].into()));
        assert_eq!((packet.protocol(), packet.is_fragment(), packet.payload()), (6, false, &[][..]));
    }

    #[test]
    fn padding_is_no_part_of_it() {
        assert_eq!(Packet::new(&with(|_| {})).unwrap().bytes().len(), 50);
    }

    #[test]
    fn what_is_no_packet() {
        assert!(Packet::new(&with(|_| {})).is_some());
        assert!(Packet::new(&with(|_| {})[..49]).is_none(), "shorter than it says");
        assert!(Packet::new(&with(|b| b[0] = 0x65)).is_none(), "another version");
        assert!(Packet::new(&with(|b| b[0] = 0x44)).is_none(), "a header too short");
        assert!(
            Packet::new(&with(|b| b[field::LENGTH].copy_from_slice(&[0, 19]))).is_none(),
            "shorter than its header"
        );
        let mut wrong = with(|_| {});
        wrong[field::TTL] ^= 1;
        assert!(Packet::new(&wrong).is_none(), "its checksum is wrong");
    }

    #[test]
    fn options_and_fragments() {
        let options = with(|b| b[0] = 0x4f);
        assert!(Packet::new(&options).is_none(), "options longer than the packet");
        let options = with(|b| b[0] = 0x46);
        assert_eq!(Packet::new(&options).unwrap().payload().len(), 26);
        for (flags, fragment) in [([0x40, 0], false), ([0x20, 0], true), ([0, 1], true), ([0x1f, 0xff], true)] {
            let bytes = with(|b| b[field::FLAGS].copy_from_slice(&flags));
            assert_eq!(Packet::new(&bytes).unwrap().is_fragment(), fragment, "{flags:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(source: [u8; 4], destination: [u8; 4], protocol: u8, payload in 0usize..100) {
            let repr = Repr { source: source.into(), destination: destination.into(), protocol, payload };
            let mut bytes = vec![0; HEADER + payload];
            repr.emit(bytes.first_chunk_mut().unwrap());
            let packet = Packet::new(&bytes).unwrap();
            prop_assert_eq!((packet.source(), packet.destination()), (repr.source, repr.destination));
            prop_assert_eq!((packet.protocol(), packet.payload().len()), (protocol, payload));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = 0x40 | (*first & 15);
            }
            if let Some(packet) = Packet::new(&bytes) {
                let _ = (packet.payload(), packet.source(), packet.is_fragment());
            }
        }
    }
}
