//! RequestPacket: a datagram as JSON (contract section 2).
//!
//! The parts that a Listener never changes are rendered once; what all Destinations share of one packet (Tag, addresses,
//! time) is rendered once per packet; only `Formatter` and `Data` differ between them.

use crate::{Now, format::View, inner::Inner, session::wireguard::keys::PublicKey, time};
use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
};

/// Renders the packets of one Listener.
pub struct PacketWriter {
    /// `},"Local":{"Domain":"…","IpAddress":"`
    local_head: Vec<u8>,
    /// `","Port":…,"Protocol":"…"}`
    local_tail: Vec<u8>,
    /// `","IngressRegion":"…","Formatter":"`
    region: Vec<u8>,
    /// The last millisecond rendered: bursts share it.
    received_at: (u64, [u8; time::ISO8601_LEN]),
    head: Vec<u8>,
}

impl PacketWriter {
    /// `port` is the Listener's, as bound; `protocol` is `udp` or `wg`.
    pub fn new(domain: &str, port: u16, protocol: &str, region: &str) -> PacketWriter {
        let quote = |text: &str| serde_json::to_string(text).expect("a string is JSON");
        PacketWriter {
            local_head: format!("}},\"Local\":{{\"Domain\":{},\"IpAddress\":\"", quote(domain)).into_bytes(),
            local_tail: format!("\",\"Port\":{port},\"Protocol\":\"{protocol}\"}}").into_bytes(),
            region: format!("\",\"IngressRegion\":{},\"Formatter\":\"", quote(region)).into_bytes(),
            received_at: (0, time::write_iso8601(0)),
            head: Vec::with_capacity(512),
        }
    }

    /// Starts a packet: everything up to the formatter's name. `write` then renders it for each Destination.
    /// `tunnel`: the peer that it came from, and its inner addresses if it was taken out of a packet.
    pub fn begin(
        &mut self,
        now: Now,
        tag: &[u8],
        remote: SocketAddr,
        local: IpAddr,
        tunnel: Option<(&PublicKey, Option<&Inner>)>,
    ) {
        if self.received_at.0 != now.unix_ms {
            self.received_at = (now.unix_ms, time::write_iso8601(now.unix_ms));
        }
        let head = &mut self.head;
        head.clear();
        head.extend_from_slice(b"{\"Tag\":\"");
        head.extend_from_slice(tag);
        head.extend_from_slice(b"\",\"Remote\":{\"IpAddress\":\"");
        write_ip(remote.ip(), head);
        if let SocketAddr::V6(v6) = remote
            && v6.scope_id() != 0
        {
            let _ = write!(head, "%{}", v6.scope_id());
        }
        head.extend_from_slice(b"\",\"Port\":");
        write_decimal(remote.port(), head);
        if let Some((key, _)) = tunnel {
            head.extend_from_slice(b",\"PeerKey\":\"");
            key.write_base64(head);
            head.push(b'"');
        }
        head.extend_from_slice(&self.local_head);
        write_ip(local, head);
        head.extend_from_slice(&self.local_tail);
        if let Some((_, Some(inner))) = tunnel {
            write_inner(inner, head);
        }
        head.extend_from_slice(b",\"ReceivedAt\":\"");
        head.extend_from_slice(&self.received_at.1);
        head.extend_from_slice(&self.region);
    }

    /// Appends the packet that `begin` started, with this payload.
    pub fn write(&self, payload: &View<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(payload.formatter().as_str().as_bytes());
        out.extend_from_slice(b"\",\"Data\":");
        payload.write(out);
        out.push(b'}');
    }
}

fn write_inner(Inner { source, destination }: &Inner, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"Inner\":{\"SourceAddress\":\"");
    write_ip(source.ip(), out);
    out.extend_from_slice(b"\",\"SourcePort\":");
    write_decimal(source.port(), out);
    out.extend_from_slice(b",\"DestinationAddress\":\"");
    write_ip(destination.ip(), out);
    out.extend_from_slice(b"\",\"DestinationPort\":");
    write_decimal(destination.port(), out);
    out.extend_from_slice(b",\"Version\":");
    out.push(if source.is_ipv4() { b'4' } else { b'6' });
    out.extend_from_slice(b",\"Protocol\":17}");
}

fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                write_decimal(u16::from(octet), out);
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

fn write_decimal(mut value: u16, out: &mut Vec<u8>) {
    let mut digits = [0u8; 5];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Formatter;
    use serde_json::{Value, json};

    fn packet(remote: &str, local: &str, formatter: Formatter, payload: &[u8]) -> Value {
        let mut writer = PacketWriter::new("ingress-1", 2101, "udp", "us-west-2");
        let now = Now { mono: 0, unix_ms: 1_780_999_200_123 };
        writer.begin(now, b"TAG", remote.parse().unwrap(), local.parse().unwrap(), None);
        let mut out = Vec::new();
        writer.write(&formatter.view(payload).unwrap(), &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_field_of_the_contract() {
        assert_eq!(
            packet("198.51.100.7:40001", "192.0.2.10", Formatter::Base64, b"hi"),
            json!({
                "Tag": "TAG",
                "Remote": {"IpAddress": "198.51.100.7", "Port": 40001},
                "Local": {"Domain": "ingress-1", "IpAddress": "192.0.2.10", "Port": 2101, "Protocol": "udp"},
                "ReceivedAt": "2026-06-09T10:00:00.123Z", "IngressRegion": "us-west-2",
                "Formatter": "base64", "Data": "aGk=",
            })
        );
    }

    #[test]
    fn a_packet_of_a_tunnel() {
        let mut writer = PacketWriter::new("ingress-1", 2101, "wg", "us-west-2");
        let inner = |a: &str, b: &str| Inner { source: a.parse().unwrap(), destination: b.parse().unwrap() };
        let key = PublicKey([0xab; 32]);
        let mut packet = |inner: Option<&Inner>| {
            let (remote, local) = ("198.51.100.7:40001".parse().unwrap(), "192.0.2.10".parse().unwrap());
            writer.begin(Now { mono: 0, unix_ms: 0 }, b"TAG", remote, local, Some((&key, inner)));
            let mut out = Vec::new();
            writer.write(&View::Bytes(Formatter::Base64, b"hi"), &mut out);
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let plain = packet(None);
        assert_eq!(plain["Remote"]["PeerKey"], "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=");
        assert_eq!((&plain["Local"]["Protocol"], plain.get("Inner")), (&json!("wg"), None));
        assert_eq!(
            packet(Some(&inner("10.1.0.2:5000", "10.1.0.1:5683")))["Inner"],
            json!({"SourceAddress": "10.1.0.2", "SourcePort": 5000, "DestinationAddress": "10.1.0.1",
                   "DestinationPort": 5683, "Version": 4, "Protocol": 17})
        );
        let v6 = packet(Some(&inner("[fd00::2]:5000", "[fd00::1]:5683")));
        assert_eq!((&v6["Inner"]["SourceAddress"], &v6["Inner"]["Version"]), (&json!("fd00::2"), &json!(6)));
        assert_eq!(v6["ReceivedAt"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn ipv6_with_and_without_a_zone() {
        let v6 = packet("[2001:db8::1]:5", "2001:db8::2", Formatter::Utf8, b"");
        assert_eq!(v6["Remote"], json!({"IpAddress": "2001:db8::1", "Port": 5}));
        assert_eq!(v6["Local"]["IpAddress"], "2001:db8::2");
        assert_eq!(v6["Data"], "");
        assert_eq!(packet("[fe80::1%3]:5", "fe80::2", Formatter::Hex, b"\xab")["Remote"]["IpAddress"], "fe80::1%3");
    }

    #[test]
    fn decimals() {
        for value in [0u16, 9, 10, 255, 9_999, 65_535] {
            let mut out = Vec::new();
            write_decimal(value, &mut out);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }
}
