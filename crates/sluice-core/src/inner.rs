//! What is inside a WireGuard tunnel (contract section 5): whole IP packets, or anything else; and, where a Listener
//! decapsulates, UDP payloads with their inner addresses.
//!
//! Any plaintext is legal, so what is an IP packet must be told by its form. The first half byte is not enough: a CoAP
//! message or a line of text may begin alike. It is one if its lengths agree, IPv4's header checksum is right, and what
//! comes after it is padding as the protocol makes it: fewer than 16 bytes, all zero.
//!
//! That is for reading a packet. What a peer *may* send is judged by less ([`claimed_source`]): whoever writes a wrong length
//! into a packet must not pass by it, because the packet's reader may not look at the length.

use crate::{
    reason::Rejected,
    wire::{icmp, ipv4, ipv6, protocol, udp},
};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

const PADDING: usize = 16;

/// Inner addresses as RequestPacket has them: the source is always the client's side, the destination the gateway's, in
/// both directions. Both are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inner {
    /// The client's side.
    pub source: SocketAddr,
    /// The gateway's side.
    pub destination: SocketAddr,
}

/// How a peer of a decapsulating Listener spoke last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recent {
    /// The peer has not spoken yet.
    #[default]
    None,
    /// In plaintext that is no IP packet. It is spoken to in the same way.
    Raw,
    /// In UDP between these addresses.
    Udp(Inner),
}

/// An IP packet without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip<'a> {
    /// IPv4
    V4(ipv4::Packet<'a>),
    /// IPv6
    V6(ipv6::Packet<'a>),
}

impl Recent {
    /// The client's side.
    pub fn client(&self) -> Option<SocketAddr> {
        match self {
            Recent::Udp(inner) => Some(inner.source),
            Recent::None | Recent::Raw => None,
        }
    }
}

/// What an inner packet is to a Listener that decapsulates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwrapped<'a> {
    /// UDP.
    Udp(Inner, &'a [u8]),
    /// An echo request; this answers it.
    Echo(Vec<u8>),
    /// Nothing to deliver.
    Dropped(Rejected),
}

/// The source address of what begins like an IP packet and is long enough to have one, whatever else is wrong with it.
pub fn claimed_source(plaintext: &[u8]) -> Option<IpAddr> {
    match plaintext.first()? >> 4 {
        4 => ipv4::claimed_source(plaintext).map(IpAddr::from),
        6 => ipv6::claimed_source(plaintext).map(IpAddr::from),
        _ => None,
    }
}

impl<'a> Ip<'a> {
    /// The IP packet that `plaintext` is, if it is one.
    pub fn new(plaintext: &'a [u8]) -> Option<Ip<'a>> {
        let ip = match plaintext.first()? >> 4 {
            4 => Ip::V4(ipv4::Packet::new(plaintext)?),
            6 => Ip::V6(ipv6::Packet::new(plaintext)?),
            _ => return None,
        };
        let padding = &plaintext[ip.bytes().len()..];
        (padding.len() < PADDING && padding.iter().all(|&byte| byte == 0)).then_some(ip)
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Ip::V4(packet) => packet.bytes(),
            Ip::V6(packet) => packet.bytes(),
        }
    }

    /// Who sent it.
    pub fn source(&self) -> IpAddr {
        match self {
            Ip::V4(packet) => packet.source().into(),
            Ip::V6(packet) => packet.source().into(),
        }
    }

    /// Who is to have it.
    pub fn destination(&self) -> IpAddr {
        match self {
            Ip::V4(packet) => packet.destination().into(),
            Ip::V6(packet) => packet.destination().into(),
        }
    }

    fn protocol(&self) -> u8 {
        match self {
            Ip::V4(packet) => packet.protocol(),
            Ip::V6(packet) => packet.next_header(),
        }
    }

    fn payload(&self) -> &'a [u8] {
        match self {
            Ip::V4(packet) => packet.payload(),
            Ip::V6(packet) => packet.payload(),
        }
    }

    fn is_fragment(&self) -> bool {
        match self {
            Ip::V4(packet) => packet.is_fragment(),
            Ip::V6(packet) => packet.next_header() == protocol::FRAGMENT,
        }
    }

    /// Takes the packet out of its headers.
    pub fn unwrap(&self) -> Unwrapped<'a> {
        if self.is_fragment() {
            return Unwrapped::Dropped(Rejected::InnerFragment);
        }
        let (source, destination) = (self.source(), self.destination());
        match self.protocol() {
            protocol::UDP => match udp::Packet::new(self.payload(), source, destination) {
                None => Unwrapped::Dropped(Rejected::InnerMalformed),
                Some(packet) => {
                    let source = SocketAddr::new(source, packet.source_port());
                    let destination = SocketAddr::new(destination, packet.destination_port());
                    Unwrapped::Udp(Inner { source, destination }, packet.payload())
                }
            },
            protocol::ICMP if source.is_ipv4() => self.echo(),
            protocol::ICMPV6 if source.is_ipv6() => self.echo(),
            _ => Unwrapped::Dropped(Rejected::InnerProtocol),
        }
    }

    /// Every inner address is the gateway's; so it answers for every one that can be a source.
    fn echo(&self) -> Unwrapped<'a> {
        let (client, gateway) = (self.source(), self.destination());
        if !icmp::is_echo_request(self.payload(), client, gateway) || !is_host(client) || !is_host(gateway) {
            return Unwrapped::Dropped(Rejected::InnerProtocol);
        }
        let mut packet = packet(gateway, client, self.protocol(), self.payload().len());
        let at = packet.len() - self.payload().len();
        packet[at..].copy_from_slice(self.payload());
        icmp::emit_echo_reply(gateway, client, &mut packet[at..]);
        Unwrapped::Echo(packet)
    }
}

fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_multicast() || ip.is_unspecified() || broadcast)
}

impl Inner {
    /// Bytes that [`wrap`](Self::wrap) adds.
    pub fn overhead(&self) -> usize {
        udp::HEADER + if self.source.is_ipv4() { ipv4::HEADER } else { ipv6::HEADER }
    }

    /// An IP packet with `payload`, from the gateway's side to the client's. It must fit into 16 bits.
    pub fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = (self.destination.ip(), self.source.ip());
        let mut packet = packet(source, destination, protocol::UDP, udp::HEADER + payload.len());
        let at = packet.len() - payload.len();
        packet[at..].copy_from_slice(payload);
        let ports = udp::Repr { source_port: self.destination.port(), destination_port: self.source.port() };
        ports.emit(source, destination, &mut packet[at - udp::HEADER..]);
        packet
    }
}

/// A header, and room for so many bytes.
fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: usize) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0; ipv4::HEADER + payload];
            let head = packet.first_chunk_mut().expect("it begins with a header");
            ipv4::Repr { source, destination, protocol, payload }.emit(head);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0; ipv6::HEADER + payload];
            let head = packet.first_chunk_mut().expect("it begins with a header");
            ipv6::Repr { source, destination, next_header: protocol, payload }.emit(head);
            packet
        }
        _ => unreachable!("both addresses are of one family"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inner(client: &str, gateway: &str) -> Inner {
        Inner { source: client.parse().unwrap(), destination: gateway.parse().unwrap() }
    }

    fn both() -> [Inner; 2] {
        [inner("10.1.0.2:5000", "10.1.0.1:5683"), inner("[fd00::2]:5000", "[fd00::1]:5683")]
    }

    /// What the client sends: the gateway's packet with sides changed.
    fn from_client(inner: Inner, payload: &[u8]) -> Vec<u8> {
        Inner { source: inner.destination, destination: inner.source }.wrap(payload)
    }

    #[test]
    fn udp_comes_out_as_payload_and_addresses() {
        for inner in both() {
            let packet = from_client(inner, b"hello");
            let padded = [&packet[..], &vec![0; packet.len().next_multiple_of(16) - packet.len()]].concat();
            for plaintext in [&packet, &padded] {
                let ip = Ip::new(plaintext).unwrap();
                assert_eq!(ip.bytes(), &packet);
                assert_eq!(ip.source(), inner.source.ip());
                assert_eq!(ip.unwrap(), Unwrapped::Udp(inner, b"hello"));
            }
            assert_eq!(packet.len(), inner.overhead() + 5);
        }
    }

    #[test]
    fn what_only_begins_like_a_packet_is_none() {
        let coap = b"\x45\x01\x00\x1etokentoken-and-a-longer-payload"; // message id 30
        assert_eq!(Ip::new(coap), None);
        assert_eq!(Ip::new(b"Even a line of text, which is long enough for a header"), None);
        assert_eq!(Ip::new(b"hello"), None);
        assert_eq!(Ip::new(b""), None);
        for inner in both() {
            let packet = from_client(inner, b"hello");
            assert_eq!(Ip::new(&[&packet[..], &[0; 16]].concat()), None, "no padding is so long");
            assert_eq!(Ip::new(&[&packet[..], &[1]].concat()), None, "padding is zeros");
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_dropped() {
        let dropped = |plaintext: &[u8]| match Ip::new(plaintext).unwrap().unwrap() {
            Unwrapped::Dropped(why) => why,
            other => panic!("{other:?}"),
        };
        let [v4, v6] = both();
        let (a, b) = (v4.source.ip(), v4.destination.ip());
        assert_eq!(dropped(&packet(a, b, 6, 20)), Rejected::InnerProtocol);
        assert_eq!(dropped(&packet(a, b, protocol::ICMPV6, 20)), Rejected::InnerProtocol);
        assert_eq!(dropped(&packet(v6.source.ip(), v6.destination.ip(), protocol::ICMP, 20)), Rejected::InnerProtocol);
        assert_eq!(dropped(&packet(v6.source.ip(), v6.destination.ip(), 44, 20)), Rejected::InnerFragment);
        assert_eq!(dropped(&packet(a, b, protocol::UDP, 7)), Rejected::InnerMalformed);
        let mut wrong = from_client(v6, b"hello");
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(dropped(&wrong), Rejected::InnerMalformed);
    }

    #[test]
    fn echo_is_answered_for_any_address_that_can_answer() {
        let request = |client: &str, gateway: &str| {
            let (client, gateway): (IpAddr, IpAddr) = (client.parse().unwrap(), gateway.parse().unwrap());
            let number = if client.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
            let mut request = packet(client, gateway, number, 12);
            let at = request.len() - 12;
            request[at..].copy_from_slice(b"\0\0\0\0\x12\x34\0\x01ping");
            // A reply's checksum, but for the type: which the request has.
            icmp::emit_echo_reply(client, gateway, &mut request[at..]);
            let (reply, request_type) = (request[at], if client.is_ipv4() { 8 } else { 128 });
            let sum = u16::from_be_bytes([request[at + 2], request[at + 3]]);
            let sum = i32::from(sum) + (i32::from(reply) - i32::from(request_type)) * 256;
            request[at] = request_type;
            request[at + 2..at + 4].copy_from_slice(&(sum.rem_euclid(0xffff) as u16).to_be_bytes());
            request
        };
        for (client, gateway) in [("10.1.0.2", "10.9.9.9"), ("fd00::2", "fd00::9")] {
            let plaintext = request(client, gateway);
            let Unwrapped::Echo(reply) = Ip::new(&plaintext).unwrap().unwrap() else { panic!("no answer") };
            let reply = Ip::new(&reply).unwrap();
            assert_eq!((reply.source().to_string(), reply.destination().to_string()), (gateway.into(), client.into()));
            assert_eq!(reply.payload()[4..], *b"\x12\x34\0\x01ping");
        }
        for (client, gateway) in [("10.1.0.2", "224.0.0.1"), ("10.1.0.2", "255.255.255.255"), ("::", "fd00::9")] {
            let plaintext = request(client, gateway);
            assert_eq!(Ip::new(&plaintext).unwrap().unwrap(), Unwrapped::Dropped(Rejected::InnerProtocol), "{gateway}");
        }
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(v6: bool, payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let inner = both()[usize::from(v6)];
            let packet = from_client(inner, &payload);
            prop_assert_eq!(Ip::new(&packet).unwrap().unwrap(), Unwrapped::Udp(inner, &payload));
        }

        #[test]
        fn never_panics(kind in 0usize..4, at in 0usize..60, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut plaintext = match kind {
                0 | 1 => from_client(both()[kind], &bytes),
                2 => packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 1, bytes.len()),
                _ => bytes.clone(),
            };
            for (to, from) in plaintext.iter_mut().skip(at).zip(&bytes) {
                *to = *from;
            }
            if let Some(ip) = Ip::new(&plaintext) {
                let _ = ip.unwrap();
            }
        }
    }
}
