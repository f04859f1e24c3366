//! Special-purpose addresses against IANA's registries (`special-registry.csv`): every row, and the addresses on both sides
//! of each of its ends.

use ipnet::IpNet;
use proptest::prelude::*;
use sluice_core::special::special;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const REGISTRY: &str = include_str!("special-registry.csv");
/// What the project adds to the registries (`special.rs` says why).
const ADDED: [&str; 9] =
    ["224.0.0.0/4", "::/3", "2001:20::/28", "4000::/2", "8000::/2", "c000::/3", "e000::/4", "f000::/5", "f800::/5"];
/// Forms of IPv4 addresses and nothing else: the address inside is judged, not the form.
const FORMS: [&str; 4] = ["::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Networks with what the most specific one says of an address: true for special.
fn rules() -> Vec<(IpNet, bool)> {
    let rows = REGISTRY.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (block, rest) = line.split_once(',').unwrap();
        let (name, reachable) = rest.rsplit_once(',').unwrap();
        assert!(["True", "False", "N/A", "-"].contains(&reachable), "{line}");
        (net(block), reachable != "True" && !name.starts_with("Documentation"))
    });
    let ordinary = FORMS.iter().map(|form| (net(form), false));
    ordinary.chain(rows).chain(ADDED.iter().map(|added| (net(added), true))).collect()
}

fn expected(rules: &[(IpNet, bool)], ip: IpAddr) -> bool {
    let inside = rules.iter().filter(|(net, _)| net.contains(&ip));
    let most_specific = inside.max_by_key(|(net, _)| net.prefix_len());
    most_specific.is_some_and(|&(_, special)| special)
}

fn neighbours(ip: IpAddr) -> [Option<IpAddr>; 3] {
    match ip {
        IpAddr::V4(v4) => {
            let at = u32::from(v4);
            [at.checked_sub(1), Some(at), at.checked_add(1)].map(|at| at.map(|at| Ipv4Addr::from(at).into()))
        }
        IpAddr::V6(v6) => {
            let at = u128::from(v6);
            [at.checked_sub(1), Some(at), at.checked_add(1)].map(|at| at.map(|at| Ipv6Addr::from(at).into()))
        }
    }
}

/// True for an address that carries an IPv4 address, which is judged as well.
fn carries(ip: IpAddr) -> bool {
    let IpAddr::V6(v6) = ip else { return false };
    let isatap = v6.segments()[4] & !0x300 == 0 && v6.segments()[5] == 0x5efe;
    isatap || FORMS.iter().any(|form| net(form).contains(&ip))
}

#[test]
fn every_row_and_its_ends() {
    let rules = rules();
    assert_eq!(rules.len(), 52 - 1 + ADDED.len() + FORMS.len());
    let mut judged = 0;
    for (net, _) in &rules {
        for ip in [net.network(), net.broadcast()].into_iter().flat_map(neighbours).flatten() {
            if !carries(ip) || ip == self::ip("::1") || ip == self::ip("::") {
                assert_eq!(special(ip).is_some(), expected(&rules, ip), "{ip} at an end of {net}");
                judged += 1;
            }
        }
    }
    assert!(judged > 250, "{judged}");
}

/// The places of IPv4 addresses in IPv6 ones, with the RFC that says so.
fn forms(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = v4.octets();
    let hex = |x: u8, y: u8| format!("{:x}", u16::from_be_bytes([x, y]));
    let (high, low) = (hex(a, b), hex(c, d));
    let (not_high, not_low) = (hex(!a, !b), hex(!c, !d));
    [
        format!("::{high}:{low}"),                                          // RFC 4291, compatible
        format!("::ffff:{high}:{low}"),                                     // RFC 4291, mapped
        format!("::ffff:0:{high}:{low}"),                                   // RFC 2765, translated
        format!("64:ff9b::{high}:{low}"),                                   // RFC 6052
        format!("64:ff9b:1::{high}:{low}"),                                 // RFC 8215 with a prefix of 96 bits
        format!("64:ff9b:1:7::{high}:{low}"),                               // likewise, another one
        format!("64:ff9b:1:{high}:{}:{}::", hex(0, c), hex(d, 0)),          // 48 bits
        format!("64:ff9b:1:{}:{}:{}::", hex(9, a), hex(0, b), hex(c, d)),   // 56 bits
        format!("64:ff9b:1:9:{}:{}:{}:0", hex(0, a), hex(b, c), hex(d, 0)), // 64 bits
        format!("2002:{high}:{low}::1"),                                    // RFC 3056
        format!("2001:0:{high}:{low}:0:63bf:f7f7:f7f7"),                    // RFC 4380, server; the client is 8.8.8.8
        format!("2001:0:808:808:0:63bf:{not_high}:{not_low}"),              // client
        format!("2606:4700::5efe:{high}:{low}"),                            // RFC 5214
        format!("2606:4700::200:5efe:{high}:{low}"),
        format!("2606:4700::100:5efe:{high}:{low}"), // the group bit, and both
        format!("2606:4700::300:5efe:{high}:{low}"),
        format!("2606:4700:1:2:300:5efe:{high}:{low}"),
        format!("fe80::5efe:{high}:{low}"),
        format!("2002:808:808:0:0:5efe:{high}:{low}"),
    ]
    .iter()
    .map(|text| text.parse().unwrap_or_else(|_| panic!("{text}")))
    .collect()
}

#[test]
fn a_form_is_judged_like_the_address_inside() {
    for text in ["10.0.0.1", "172.16.0.9", "192.168.7.9", "100.64.0.1"] {
        for form in forms(text.parse().unwrap()) {
            let special = special(form.into()).unwrap_or_else(|| panic!("{form}"));
            assert!(special.answered, "{form}: {special}");
        }
    }
    for text in ["127.0.0.1", "169.254.169.254", "224.0.0.251", "255.255.255.255", "240.0.0.1", "198.18.0.1"] {
        for form in forms(text.parse().unwrap()) {
            let special = special(form.into()).unwrap_or_else(|| panic!("{form}"));
            assert!(!special.answered, "{form}: {special}");
            assert!(special.to_string().starts_with(&format!("an IPv6 form of {text}, ")), "{special}");
        }
    }
    for form in forms("203.0.113.9".parse().unwrap()) {
        assert!(special(form.into()).is_none_or(|special| special.answered), "{form}");
    }
    for form in ["::203.0.113.9", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::5efe:8.8.8.8"] {
        assert_eq!(special(ip(form)), None, "{form}");
    }
}

#[test]
fn whom_a_server_answers() {
    let answered = |text: &str| special(ip(text)).unwrap_or_else(|| panic!("{text}")).answered;
    for text in [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.127.255.255",
        "fd00::1",
        "fcff::1",
        "fe80::1",
    ] {
        assert!(answered(text), "{text}");
    }
    for text in [
        "0.0.0.0",
        "0.1.2.3",
        "169.254.0.1",
        "192.0.0.8",
        "192.88.99.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "100::1",
        "2001:2::1",
        "4000::1",
        "5f00::1",
        "fd00:ec2::254",
        "fe40::1",
        "ff02::1",
    ] {
        assert!(!answered(text), "{text}");
    }
    for text in ["fd00:ec1:ffff::1", "fd00:ec3::1"] {
        assert!(answered(text), "{text} is next to a metadata service");
    }
}

proptest! {
    #[test]
    fn ipv4_as_the_registry_has_it(bits: u32) {
        let ip = IpAddr::V4(bits.into());
        prop_assert_eq!(special(ip).is_some(), expected(&rules(), ip), "{}", ip);
    }

    #[test]
    fn ipv6_as_the_registry_has_it(row in 0usize..64, low: u128) {
        let rules = rules();
        let (net, _) = rules[row % rules.len()];
        let IpNet::V6(net) = net else { return Ok(()) };
        let ip = IpAddr::V6((u128::from(net.network()) | (low & u128::from(net.hostmask()))).into());
        if !carries(ip) {
            prop_assert_eq!(special(ip).is_some(), expected(&rules, ip), "{}", ip);
        }
    }
}
