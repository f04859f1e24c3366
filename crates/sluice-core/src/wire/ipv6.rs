//! IPv6 (RFC 8200). Extension headers are not followed: UDP and ICMPv6 come without them.

use super::u16_at;
use std::net::Ipv6Addr;

mod field {
    use std::ops::Range;
    pub const VERSION: usize = 0;
    pub const LENGTH: Range<usize> = 4..6;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SOURCE: Range<usize> = 8..24;
    pub const DESTINATION: Range<usize> = 24..40;
}

/// Bytes of the header.
pub const HEADER: usize = 40;
const HOPS: u8 = 64;

/// A packet without what may follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`, if its length fits.
    pub fn new(bytes: &'a [u8]) -> Option<Packet<'a>> {
        if bytes.len() < HEADER || bytes[field::VERSION] >> 4 != 6 {
            return None;
        }
        bytes.get(..HEADER + usize::from(u16_at(bytes, field::LENGTH.start))).map(Packet)
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Who sent it.
    pub fn source(&self) -> Ipv6Addr {
        address(&self.0[field::SOURCE])
    }

    /// Who is to have it.
    pub fn destination(&self) -> Ipv6Addr {
        address(&self.0[field::DESTINATION])
    }

    /// What it carries, or which extension header comes first.
    pub fn next_header(&self) -> u8 {
        self.0[field::NEXT_HEADER]
    }

    /// What comes after the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER..]
    }
}

/// Where the source would be, if these bytes are the start of a packet, or all that there is of it.
pub fn claimed_source(bytes: &[u8]) -> Option<Ipv6Addr> {
    bytes.get(field::SOURCE).map(address)
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(bytes).expect("sixteen bytes").into()
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the protocol's
pub struct Repr {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub next_header: u8,
    pub payload: usize,
}

impl Repr {
    /// Writes the header; the payload must fit into 16 bits.
    pub fn emit(&self, out: &mut [u8; HEADER]) {
        let length = u16::try_from(self.payload).expect("the caller bounds it");
        *out = [0; HEADER];
        out[field::VERSION] = 0x60;
        out[field::LENGTH].copy_from_slice(&length.to_be_bytes());
        out[field::NEXT_HEADER] = self.next_header;
        out[field::HOP_LIMIT] = HOPS;
        out[field::SOURCE].copy_from_slice(&self.source.octets());
        out[field::DESTINATION].copy_from_slice(&self.destination.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(source: [u8; 16], destination: [u8; 16], next_header: u8, payload in 0usize..99, more in 0usize..16) {
            let repr = Repr { source: source.into(), destination: destination.into(), next_header, payload };
            let mut bytes = vec![0; HEADER + payload + more];
            repr.emit(bytes.first_chunk_mut().unwrap());
            let packet = Packet::new(&bytes).unwrap();
            prop_assert_eq!((packet.source(), packet.destination()), (repr.source, repr.destination));
            prop_assert_eq!((packet.next_header(), packet.payload().len()), (next_header, payload));
            prop_assert_eq!(packet.bytes().len(), HEADER + payload);
            prop_assert!(Packet::new(&bytes[..HEADER + payload]).is_some());
            prop_assert!(Packet::new(&bytes[..HEADER + payload - 1]).is_none(), "shorter than it says");
            bytes[0] = 0x45;
            prop_assert!(Packet::new(&bytes).is_none(), "another version");
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = 0x60;
            }
            if let Some(packet) = Packet::new(&bytes) {
                let _ = (packet.payload(), packet.source());
            }
        }
    }
}
