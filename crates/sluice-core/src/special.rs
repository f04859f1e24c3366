//! Special-purpose addresses: those that mean something else than one host of the Internet (contract section 4.4).
//!
//! The tables follow IANA's special-purpose registries for IPv4 and IPv6, as of 2026-07-18: every row whose "Globally
//! Reachable" is False, N/A or blank, except the documentation ranges, where nothing answers. `tests/special.rs` compares
//! them with the registries, row by row. Three things stand in no such row and are added: multicast; ORCHIDv2, whose
//! addresses are names of hosts and no places (RFC 7343); and all of IPv6 outside of 2000::/3, from which no host of the
//! Internet has its address (RFC 4291, section 2.4).
//!
//! An IPv6 address that carries an IPv4 address is judged like that one too: a translator or a tunnel may send there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What is special about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    what: &'static str,
    /// The IPv4 address inside, if that is what makes it special.
    inside: Option<Ipv4Addr>,
    /// True if a UDP server answers a client with this address as it answers any other: on its own machine, on a LAN, in
    /// a container, behind carrier-grade NAT. False: an answer needs a network that names the address.
    pub answered: bool,
}

/// The broadcast address of a network that this machine is in: only its routes say so.
pub const BROADCAST: Special =
    Special { what: "the broadcast address of a network of this machine", inside: None, answered: false };

impl fmt::Display for Special {
    /// As the end of "ADDRESS is …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inside {
            None => f.write_str(self.what),
            Some(inside) => write!(f, "an IPv6 form of {inside}, {}", self.what),
        }
    }
}

/// A range: its first and last address, what they are, and [`Special::answered`].
struct Row<T>(T, T, &'static str, bool);

const PRIVATE: &str = "a private address";
const PROTOCOL: &str = "an address for protocols of the IETF (192.0.0.0/24)";
/// In the order of the addresses, without overlaps.
const V4: [Row<u32>; 13] = [
    v4([0, 0, 0, 0], 8, "an unspecified address (0.0.0.0/8)", false),
    v4([10, 0, 0, 0], 8, PRIVATE, true),
    v4([100, 64, 0, 0], 10, "a carrier-grade NAT address (100.64.0.0/10)", true),
    v4([127, 0, 0, 0], 8, "a loopback address", true),
    v4([169, 254, 0, 0], 16, "a link-local address (169.254.0.0/16)", false),
    v4([172, 16, 0, 0], 12, PRIVATE, true),
    // 192.0.0.9 and 192.0.0.10 are anycast addresses of the Internet (RFC 7723, RFC 8155).
    Row(0xc000_0000, 0xc000_0008, PROTOCOL, false),
    Row(0xc000_000b, 0xc000_00ff, PROTOCOL, false),
    v4([192, 88, 99, 0], 24, "an address of deprecated relays (192.88.99.0/24)", false),
    v4([192, 168, 0, 0], 16, PRIVATE, true),
    v4([198, 18, 0, 0], 15, "a benchmarking address (198.18.0.0/15)", false),
    v4([224, 0, 0, 0], 4, "a multicast address (224.0.0.0/4)", false),
    v4([240, 0, 0, 0], 4, "a reserved or the broadcast address (240.0.0.0/4)", false),
];

const PROTOCOLS: &str = "an address for protocols of the IETF (2001::/23)";
const ORCHID: &str = "the name of a host in the form of an address (ORCHID)";
/// In the order of the addresses, without overlaps. Where `answered` is true for a form that carries an IPv4 address, that
/// one decides.
const V6: [Row<u128>; 21] = [
    v6([0x64, 0xff9b, 1, 0], 48, "a local-use NAT64 address (64:ff9b:1::/48)", true),
    v6([0x100, 0, 0, 0], 64, "a discard-only address (100::/64)", false),
    v6([0x100, 0, 0, 1], 64, "a dummy address (100:0:0:1::/64)", false),
    v6([0x2001, 0, 0, 0], 32, "a Teredo address (2001::/32)", true),
    // 2001:1::1 to 2001:1::3 are anycast addresses of the Internet (RFC 7723, RFC 8155, RFC 9665).
    Row(top([0x2001, 1, 0, 0]), top([0x2001, 1, 0, 0]), PROTOCOLS, false),
    Row(top([0x2001, 1, 0, 0]) + 4, top([0x2001, 2, 0, 0]) - 1, PROTOCOLS, false),
    v6([0x2001, 2, 0, 0], 48, "a benchmarking address (2001:2::/48)", false),
    Row(top([0x2001, 2, 1, 0]), top([0x2001, 3, 0, 0]) - 1, PROTOCOLS, false),
    // 2001:3::/32 (AMT) and 2001:4:112::/48 (AS112) are reachable.
    Row(top([0x2001, 4, 0, 0]), top([0x2001, 4, 0x112, 0]) - 1, PROTOCOLS, false),
    Row(top([0x2001, 4, 0x113, 0]), top([0x2001, 0x10, 0, 0]) - 1, PROTOCOLS, false),
    v6([0x2001, 0x10, 0, 0], 28, ORCHID, false),
    v6([0x2001, 0x20, 0, 0], 28, ORCHID, false),
    // 2001:30::/28 (drones) is reachable.
    Row(top([0x2001, 0x40, 0, 0]), top([0x2001, 0x200, 0, 0]) - 1, PROTOCOLS, false),
    v6([0x2002, 0, 0, 0], 16, "a 6to4 address (2002::/16)", true),
    v6([0x5f00, 0, 0, 0], 16, "a segment of a route (5f00::/16)", false),
    Row(top([0xfc00, 0, 0, 0]), top([0xfd00, 0xec2, 0, 0]) - 1, PRIVATE, true),
    v6([0xfd00, 0xec2, 0, 0], 32, "an address of a metadata service (fd00:ec2::/32)", false),
    Row(top([0xfd00, 0xec3, 0, 0]), top([0xfe00, 0, 0, 0]) - 1, PRIVATE, true),
    v6([0xfe80, 0, 0, 0], 10, "a link-local address", true),
    v6([0xfec0, 0, 0, 0], 10, "a private address (fec0::/10)", true),
    v6([0xff00, 0, 0, 0], 8, "a multicast address (ff00::/8)", false),
];

const fn v4(first: [u8; 4], prefix: u32, what: &'static str, answered: bool) -> Row<u32> {
    let first = u32::from_be_bytes(first);
    Row(first, first | (u32::MAX >> prefix), what, answered)
}

const fn v6(first: [u16; 4], prefix: u32, what: &'static str, answered: bool) -> Row<u128> {
    Row(top(first), top(first) | (u128::MAX >> prefix), what, answered)
}

/// The first address whose upper half is this.
const fn top([a, b, c, d]: [u16; 4]) -> u128 {
    ((a as u128) << 112) | ((b as u128) << 96) | ((c as u128) << 80) | ((d as u128) << 64)
}

/// What is special about `ip`; None for an ordinary address.
pub fn special(ip: IpAddr) -> Option<Special> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

#[inline]
fn special_v4(ip: Ipv4Addr) -> Option<Special> {
    find(&V4, u32::from(ip))
}

fn special_v6(ip: Ipv6Addr) -> Option<Special> {
    if ip.is_unspecified() {
        return Some(Special { what: "the unspecified address", inside: None, answered: false });
    }
    if ip.is_loopback() {
        return Some(Special { what: "a loopback address", inside: None, answered: true });
    }
    let (only_a_form, inside) = carried_v4(ip);
    let itself = find(&V6, u128::from(ip)).or_else(|| {
        let outside = ip.segments()[0] >> 13 != 1 && !only_a_form;
        outside.then_some(Special { what: "a reserved address (outside of 2000::/3)", inside: None, answered: false })
    });
    // Nothing that leaves for a form of a loopback address came in over the loopback interface.
    let inside = inside.into_iter().flatten().filter_map(|inside| {
        let special = special_v4(inside)?;
        Some(Special { inside: Some(inside), answered: special.answered && !inside.is_loopback(), ..special })
    });
    // Of several, what is not answered decides.
    itself.into_iter().chain(inside).min_by_key(|special| special.answered)
}

fn find<T: Copy + Ord>(rows: &[Row<T>], ip: T) -> Option<Special> {
    let place = rows.partition_point(|row| row.0 <= ip).checked_sub(1)?;
    let &Row(_, last, what, answered) = &rows[place];
    (ip <= last).then_some(Special { what, inside: None, answered })
}

/// The IPv4 addresses that an IPv6 address carries to, and whether it is nothing but a form of one.
fn carried_v4(ip: Ipv6Addr) -> (bool, [Option<Ipv4Addr>; 5]) {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    // ISATAP (RFC 5214, section 6.1), in any prefix. The universal and the group bit say nothing of the address inside.
    let isatap = if s[4] & !0x300 == 0 && s[5] == 0x5efe { v4(s[6], s[7]) } else { None };
    match s {
        // Compatible and mapped (RFC 4291, section 2.5.5), IPv4-translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (true, [v4(high, low), None, None, None, None]),
        [0x64, 0xff9b, 1, ..] => {
            let [a, b, c, d] = local_nat64(s);
            (false, [a, b, c, d, isatap])
        }
        // Teredo's server and client, which is stored inverted (RFC 4380, section 4).
        [0x2001, 0, high, low, .., x, y] => (false, [v4(high, low), v4(!x, !y), isatap, None, None]),
        // 6to4 (RFC 3056)
        [0x2002, high, low, ..] => (false, [v4(high, low), isatap, None, None, None]),
        _ => (false, [isatap, None, None, None, None]),
    }
}

/// What an address of 64:ff9b:1::/48 may carry (RFC 8215): who uses it chooses a prefix of 48, 56, 64 or 96 bits, and by it
/// the place of the IPv4 address (RFC 6052, section 2.2; the bits 64 to 71 are left out). No host has an address that
/// begins with 0, so the places with zeros are not the one in use; of the others each may be.
fn local_nat64(s: [u16; 8]) -> [Option<Ipv4Addr>; 4] {
    let at = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let across = |left: u16, right: u16| (left << 8) | (right >> 8);
    let low_byte = |left: u16, right: u16| (left << 8) | (right & 0xff);
    let [_, _, _, d, e, f, g, h] = s;
    let others = [at(d, across(e, f)), at(low_byte(d, e), f), at(across(e, f), across(f, g))];
    let [a, b, c] = others.map(|form| Some(form).filter(|form| form.octets()[0] != 0));
    let usual = Some(at(g, h)).filter(|form| form.octets()[0] != 0 || [a, b, c] == [None; 3]);
    [a, b, c, usual]
}
