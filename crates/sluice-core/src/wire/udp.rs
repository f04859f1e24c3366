//! UDP (RFC 768; over IPv6: RFC 8200, section 8.1).

use super::{Checksum, protocol, u16_at};
use std::net::IpAddr;

mod field {
    use std::ops::Range;
    pub const SOURCE: Range<usize> = 0..2;
    pub const DESTINATION: Range<usize> = 2..4;
    pub const LENGTH: Range<usize> = 4..6;
    pub const CHECKSUM: Range<usize> = 6..8;
}

/// Bytes of the header.
pub const HEADER: usize = 8;

/// A datagram without what may follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// The datagram at the start of `bytes`: its length fits, and so does its checksum. IPv4 may do without one.
    pub fn new(bytes: &'a [u8], source: IpAddr, destination: IpAddr) -> Option<Packet<'a>> {
        if bytes.len() < HEADER {
            return None;
        }
        let length = usize::from(u16_at(bytes, field::LENGTH.start));
        let datagram = bytes.get(..length).filter(|_| length >= HEADER)?;
        let unchecked = source.is_ipv4() && u16_at(datagram, field::CHECKSUM.start) == 0;
        let sum = Checksum::default().cover_pseudo_header(source, destination, protocol::UDP, length).cover(datagram);
        let given = u16_at(datagram, field::CHECKSUM.start) != 0;
        (unchecked || given && sum.is_right()).then_some(Packet(datagram))
    }

    /// Port of the sender.
    pub fn source_port(&self) -> u16 {
        u16_at(self.0, field::SOURCE.start)
    }

    /// Port of the receiver.
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0, field::DESTINATION.start)
    }

    /// What it carries.
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER..]
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the protocol's
pub struct Repr {
    pub source_port: u16,
    pub destination_port: u16,
}

impl Repr {
    /// Writes the header before the payload that `datagram` has already; it must fit into 16 bits.
    pub fn emit(&self, source: IpAddr, destination: IpAddr, datagram: &mut [u8]) {
        let length = u16::try_from(datagram.len()).expect("the caller bounds it");
        datagram[field::SOURCE].copy_from_slice(&self.source_port.to_be_bytes());
        datagram[field::DESTINATION].copy_from_slice(&self.destination_port.to_be_bytes());
        datagram[field::LENGTH].copy_from_slice(&length.to_be_bytes());
        datagram[field::CHECKSUM].fill(0);
        let sum = Checksum::default().cover_pseudo_header(source, destination, protocol::UDP, datagram.len());
        let checksum = match sum.cover(datagram).finish() {
            0 => 0xffff, // zero would say that there is none
            checksum => checksum,
        };
        datagram[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(v6: bool) -> (IpAddr, IpAddr) {
        match v6 {
            true => ("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap()),
            false => ("10.1.0.2".parse().unwrap(), "10.1.0.1".parse().unwrap()),
        }
    }

    fn datagram(v6: bool, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = addresses(v6);
        let mut datagram = [&[0; HEADER], payload].concat();
        Repr { source_port: 5000, destination_port: 5683 }.emit(source, destination, &mut datagram);
        datagram
    }

    #[test]
    fn only_ipv4_may_do_without_a_checksum() {
        for v6 in [false, true] {
            let (source, destination) = addresses(v6);
            let mut datagram = datagram(v6, b"hello");
            datagram[field::CHECKSUM].fill(0);
            assert_eq!(Packet::new(&datagram, source, destination).is_some(), !v6);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_its_other_zero() {
        let (source, destination) = addresses(true);
        let found = (0..=u16::MAX).map(|i| datagram(true, &i.to_be_bytes())).find(|d| d[6..8] == [0xff, 0xff]).unwrap();
        assert!(Packet::new(&found, source, destination).is_some());
        assert!((0..=u16::MAX).all(|i| datagram(true, &i.to_be_bytes())[6..8] != [0, 0]));
    }

    #[test]
    fn lengths() {
        let (source, destination) = addresses(false);
        let good = datagram(false, b"hello");
        assert!(Packet::new(&good[..good.len() - 1], source, destination).is_none());
        let padded = [&good[..], &[0; 3]].concat();
        assert_eq!(Packet::new(&padded, source, destination).unwrap().payload(), b"hello");
        let mut short = good.clone();
        short[field::LENGTH].copy_from_slice(&[0, 7]);
        short[field::CHECKSUM].fill(0);
        assert!(Packet::new(&short, source, destination).is_none());
        assert!(Packet::new(&good[..7], source, destination).is_none());
    }

    proptest! {
        #[test]
        fn round_trip_and_every_flipped_bit(v6: bool, payload in prop::collection::vec(any::<u8>(), 0..40), bit in 0usize..64) {
            let (source, destination) = addresses(v6);
            let mut datagram = datagram(v6, &payload);
            let packet = Packet::new(&datagram, source, destination).unwrap();
            prop_assert_eq!((packet.source_port(), packet.destination_port()), (5000, 5683));
            prop_assert_eq!(packet.payload(), &payload);
            datagram[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Packet::new(&datagram, source, destination).is_none(), "bit {}", bit);
        }
    }
}
