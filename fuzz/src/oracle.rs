//! The contract's rules a second time, written another way than in the core.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Contract 4.4: the ranges that a network has to name.
const SPECIAL_V4: [(&str, u32); 12] = [
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("172.16.0.0", 12),
    ("192.168.0.0", 16),
    ("224.0.0.0", 4),
    ("240.0.0.0", 4),
    ("255.255.255.255", 32),
    ("169.254.169.254", 32),
    ("0.0.0.0", 32),
];
const SPECIAL_V6: [(&str, u32); 7] =
    [("::", 128), ("::1", 128), ("fc00::", 7), ("fe80::", 10), ("fec0::", 10), ("ff00::", 8), ("64:ff9b:1::", 48)];

/// True for addresses that no publisher may reach by `0.0.0.0/0` or `::/0` alone.
pub fn special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => special_v4(u32::from(v4)),
        IpAddr::V6(v6) => special_v6(u128::from(v6)),
    }
}

fn special_v4(ip: u32) -> bool {
    SPECIAL_V4.iter().any(|&(net, length)| {
        let net: Ipv4Addr = net.parse().expect("an address");
        ip >> (32 - length) == u32::from(net) >> (32 - length)
    })
}

fn special_v6(ip: u128) -> bool {
    let under = |net: &str, length: u32| {
        let net: Ipv6Addr = net.parse().expect("an address");
        ip >> (128 - length) == u128::from(net) >> (128 - length)
    };
    // IPv4-compatible, mapped, NAT64; 6to4; Teredo, whose client is inverted.
    let embedded = if under("::", 96) || under("::ffff:0:0", 96) || under("64:ff9b::", 96) {
        Some(ip as u32)
    } else if under("2002::", 16) {
        Some((ip >> 80) as u32)
    } else if under("2001::", 32) {
        Some(!(ip as u32))
    } else {
        None
    };
    SPECIAL_V6.iter().any(|&(net, length)| under(net, length)) || embedded.is_some_and(special_v4)
}
