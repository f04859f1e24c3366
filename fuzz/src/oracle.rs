//! The contract's rules a second time, written another way than in the core.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Contract 4.4: the ranges that a network has to name.
const SPECIAL_V4: [(&str, u32); 15] = [
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
    ("192.0.0.0", 24),
    ("192.88.99.0", 24),
    ("198.18.0.0", 15),
];
const REACHABLE_V4: [&str; 2] = ["192.0.0.9", "192.0.0.10"];
const SPECIAL_V6: [(&str, u32); 4] = [("2001::", 23), ("2002::", 16), ("::", 128), ("::1", 128)];
const REACHABLE_V6: [(&str, u32); 6] = [
    ("2001:1::1", 128),
    ("2001:1::2", 127),
    ("2001:3::", 32),
    ("2001:4:112::", 48),
    ("2001:30::", 28),
    ("64:ff9b::", 96),
];

/// True for addresses that no publisher may reach by `0.0.0.0/0` or `::/0` alone.
pub fn special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => special_v4(u32::from(v4)),
        IpAddr::V6(v6) => special_v6(u128::from(v6)),
    }
}

fn special_v4(ip: u32) -> bool {
    let reachable = |text: &&str| u32::from(text.parse::<Ipv4Addr>().expect("an address")) == ip;
    !REACHABLE_V4.iter().any(reachable)
        && SPECIAL_V4.iter().any(|&(net, length)| {
            let net: Ipv4Addr = net.parse().expect("an address");
            ip >> (32 - length) == u32::from(net) >> (32 - length)
        })
}

fn special_v6(ip: u128) -> bool {
    let under = |net: &str, length: u32| {
        let net: Ipv6Addr = net.parse().expect("an address");
        ip >> (128 - length) == u128::from(net) >> (128 - length)
    };
    // Nothing but a form of an IPv4 address: compatible, mapped, translated, NAT64.
    let form = ["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"].iter().any(|prefix| under(prefix, 96));
    // 6to4; Teredo's server, and its client, which is inverted; ISATAP.
    let isatap = (ip >> 32) as u32 & !0x0300_0000 == 0x5efe;
    let embedded = [
        (form || isatap).then_some(ip as u32),
        under("2002::", 16).then_some((ip >> 80) as u32),
        under("2001::", 32).then_some((ip >> 64) as u32),
        under("2001::", 32).then_some(!(ip as u32)),
    ];
    let any = |ranges: &[(&str, u32)]| ranges.iter().any(|&(net, length)| under(net, length));
    let outside = !under("2000::", 3) && !form;
    let itself = !any(&REACHABLE_V6) && (any(&SPECIAL_V6) || outside || under("5f00::", 16));
    itself || any(&SPECIAL_V6[2..]) || embedded.into_iter().flatten().any(special_v4)
}
