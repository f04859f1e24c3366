//! Who may send to a Listener, and where a PacketSource may send (contract section 4.4).
//!
//! Sending UDP to any address that a message names would be an open relay into the gateway's own network: a publisher
//! could reach `169.254.169.254`, a database on `10.0.0.0/8` or the gateway itself. So an address must lie in the
//! source's networks, and a special-purpose address needs a network that names it: `0.0.0.0/0` and `::/0` do not.

use ipnet::IpNet;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A list of CIDRs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Networks(pub Vec<IpNet>);

impl Networks {
    /// True if any of the networks contains `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// True if a network other than `0.0.0.0/0` and `::/0` contains `ip`.
    fn names(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.prefix_len() > 0 && net.contains(&ip))
    }

    /// The egress policy for `ip`, which must be canonical ([`crate::canonical`]): why it is refused, if it is.
    pub fn refuse(&self, ip: IpAddr) -> Option<String> {
        if !self.contains(ip) {
            return Some(format!("{ip} is outside the source's EgressNetworks"));
        }
        match special_purpose(ip) {
            Some(what) if !self.names(ip) => {
                Some(format!("{ip} is {what}; list a network that contains it in EgressNetworks to allow it"))
            }
            _ => None,
        }
    }
}

/// What makes an address special, None for an ordinary one. Documentation ranges are ordinary: nothing answers there.
pub fn special_purpose(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let [a, b, ..] = ip.octets();
    Some(match (a, b) {
        (0, _) => "an unspecified address (0.0.0.0/8)",
        (10, _) | (172, 16..=31) | (192, 168) => "a private address",
        (100, 64..=127) => "a carrier-grade NAT address (100.64.0.0/10)",
        (127, _) => "a loopback address",
        (169, 254) => "a link-local address",
        (224..=239, _) => "a multicast address",
        _ if ip.is_broadcast() => "the broadcast address",
        (240..=255, _) => "a reserved address (240.0.0.0/4)",
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let s = ip.segments();
    if ip.is_unspecified() {
        return Some("the unspecified address");
    }
    if ip.is_loopback() {
        return Some("a loopback address");
    }
    if ip.is_multicast() {
        return Some("a multicast address");
    }
    if s[0] & 0xfe00 == 0xfc00 || s[0] & 0xffc0 == 0xfec0 {
        return Some("a private address");
    }
    if s[0] & 0xffc0 == 0xfe80 {
        return Some("a link-local address");
    }
    if s[..3] == [0x64, 0xff9b, 1] {
        return Some("a local-use NAT64 address (64:ff9b:1::/48)"); // RFC 8215
    }
    embedded_v4(ip).and_then(special_v4).map(|_| "an IPv6 form of a special-purpose IPv4 address")
}

/// The IPv4 address that an IPv6 form carries to: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056),
/// Teredo's client (RFC 4380, section 4: stored inverted).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(from(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        [0x2001, 0, .., high, low] => Some(from(!high, !low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        Networks(list.iter().map(|net| net.parse().unwrap()).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SPECIAL: [&str; 24] = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "250.1.1.1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        "fd00::1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001:0:1:2:3:4:80ff:fffe",
        "::7f00:1",
    ];

    #[test]
    fn special_addresses_need_a_network_that_names_them() {
        let open = networks(&["0.0.0.0/0", "::/0"]);
        for text in SPECIAL {
            assert!(open.refuse(ip(text)).is_some(), "{text}");
            let named = networks(&["0.0.0.0/0", &format!("{text}/{}", if text.contains(':') { 128 } else { 32 })]);
            assert_eq!(named.refuse(ip(text)), None, "{text}");
        }
    }

    #[test]
    fn ordinary_addresses_need_only_a_network() {
        let open = networks(&["0.0.0.0/0", "::/0"]);
        for text in [
            "203.0.113.42",
            "198.51.100.7",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2001:db8::1",
            "2606:4700::1",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert_eq!(open.refuse(ip(text)), None, "{text}");
            assert!(networks(&["192.0.2.0/24", "2001:4860::/32"]).refuse(ip(text)).is_some(), "{text}");
        }
    }
}
