//! Messages of rtnetlink(7) about routes: what is asked, and what an answer or an event says.

use ipnet::IpNet;
use sluice_core::own::{Local, LocalRoutes};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h: sizes and places in the structures.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;
const LINK_FLAGS: usize = 8;
/// Asks for routes of every type.
pub const NO_TYPE: u8 = libc::RTN_UNSPEC;
/// The types of routes that bring a datagram back.
pub const BACK: [u8; 4] = [libc::RTN_LOCAL, libc::RTN_BROADCAST, libc::RTN_MULTICAST, libc::RTN_ANYCAST];

/// A route that brings datagrams back, with what tells it from others to the same prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    prefix: IpNet,
    table: u32,
    kind: u8,
    tos: u8,
    priority: u32,
    interface: u32,
    local: Local,
}

/// What a batch of messages said beside single routes.
#[derive(Default)]
pub struct Heard {
    /// The tables must be read anew.
    pub anew: bool,
    /// The end of an answer.
    pub done: bool,
    /// The errno with which the kernel refuses to answer.
    pub refused: Option<i32>,
    /// A route has gone.
    pub gone: bool,
}

/// The sequence number of our requests.
const REQUEST: u32 = 0x5C1C_0001;

/// RTM_GETROUTE for all routes of one type ([`NO_TYPE`]: all types) in a table.
pub fn request(family: u8, table: u8, kind: u8) -> [u8; HEADER + ROUTE] {
    let mut out = [0; HEADER + ROUTE];
    out[..4].copy_from_slice(&((HEADER + ROUTE) as u32).to_ne_bytes());
    out[4..6].copy_from_slice(&libc::RTM_GETROUTE.to_ne_bytes());
    out[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    out[8..12].copy_from_slice(&REQUEST.to_ne_bytes());
    (out[HEADER], out[HEADER + 4], out[HEADER + 7]) = (family, table, kind);
    out
}

impl Heard {
    /// Looks at each message of a datagram from the kernel.
    pub fn take(&mut self, mut bytes: &[u8], known: &mut HashSet<Route>, routes: &mut LocalRoutes) {
        while let Some(header) = bytes.get(..HEADER) {
            let length = u32_at(header, 0) as usize;
            let Some(body) = bytes.get(HEADER..length) else { break };
            let (kind, flags) = (u16_at(header, 4), i32::from(u16_at(header, 6)));
            self.anew |= flags & libc::NLM_F_DUMP_INTR != 0;
            match (kind, route(body)) {
                (END | ERROR, _) if u32_at(header, 8) == REQUEST => {
                    self.done = true;
                    self.refused = self.refused.or(refusal(kind, body));
                }
                (libc::RTM_NEWROUTE, Some(_)) if flags & libc::NLM_F_REPLACE != 0 => self.anew = true,
                (libc::RTM_NEWROUTE, Some(route)) if !known.contains(&route) => {
                    routes.add(route.prefix, route.local);
                    known.insert(route);
                }
                (libc::RTM_DELROUTE, Some(route)) => {
                    self.gone = true;
                    if known.remove(&route) {
                        routes.remove(route.prefix, route.local);
                    }
                }
                (libc::RTM_DELLINK, _) => self.anew = true,
                (libc::RTM_NEWLINK, _) => {
                    let up = body.len() >= LINK_FLAGS + 4 && u32_at(body, LINK_FLAGS) & libc::IFF_UP as u32 != 0;
                    self.anew |= !up;
                }
                _ => {}
            }
            bytes = bytes.get(aligned(length)..).unwrap_or_default();
        }
    }
}

const END: u16 = libc::NLMSG_DONE as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;

/// The errno of an answer. A table that does not exist yet, and a family that the kernel does not have, are empty.
fn refusal(kind: u16, body: &[u8]) -> Option<i32> {
    let errno = if kind == ERROR && body.len() >= 4 { (u32_at(body, 0) as i32).wrapping_neg() } else { 0 };
    (!matches!(errno, 0 | libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)).then_some(errno)
}

/// The route in a message's body, if it brings datagrams back and its table counts.
fn route(body: &[u8]) -> Option<Route> {
    let head = body.get(..ROUTE)?;
    let (family, length, tos, protocol, kind) = (head[0], head[1], head[3], head[5], head[7]);
    if !BACK.contains(&kind) {
        return None;
    }
    let unspecified = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut to, mut priority, mut interface) = (u32::from(head[4]), unspecified, 0, 0);
    let mut attributes = &body[ROUTE..];
    while let Some(head) = attributes.get(..ATTRIBUTE) {
        let (size, name) = (usize::from(u16_at(head, 0)), u16_at(head, 2));
        let Some(value) = attributes.get(ATTRIBUTE..size) else { break };
        match name {
            libc::RTA_DST => to = address(value).unwrap_or(to),
            libc::RTA_TABLE if value.len() == 4 => table = u32_at(value, 0),
            libc::RTA_PRIORITY if value.len() == 4 => priority = u32_at(value, 0),
            libc::RTA_OIF if value.len() == 4 => interface = u32_at(value, 0),
            _ => {}
        }
        attributes = attributes.get(aligned(size)..).unwrap_or_default();
    }
    let counts = [libc::RT_TABLE_LOCAL, libc::RT_TABLE_MAIN].map(u32::from).contains(&table);
    let prefix = IpNet::new(to, length).ok()?;
    let local = match kind {
        libc::RTN_LOCAL if protocol > libc::RTPROT_KERNEL => Local::Routed,
        libc::RTN_LOCAL | libc::RTN_ANYCAST => Local::Address,
        _ => Local::Group,
    };
    counts.then_some(Route { prefix, table, kind, tos, priority, interface, local })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about a route: `(type, table, kind, prefix, flags)`.
    fn message(kind: u16, table: u32, route: u8, prefix: &str, flags: i32, interface: u32) -> Vec<u8> {
        let prefix: IpNet = prefix.parse().unwrap();
        let (family, address) = match prefix.addr() {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let small = if table < 256 { table as u8 } else { libc::RT_TABLE_COMPAT };
        let mut body = vec![family as u8, prefix.prefix_len(), 0, 0, small, 0, 0, route, 0, 0, 0, 0];
        for (name, value) in [
            (libc::RTA_TABLE, table.to_ne_bytes().to_vec()),
            (libc::RTA_DST, address),
            (libc::RTA_OIF, interface.to_ne_bytes().to_vec()),
        ] {
            body.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
            body.extend(name.to_ne_bytes());
            body.extend(value);
        }
        let mut out = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend((flags as u16).to_ne_bytes());
        out.extend([0; 8]);
        out.extend(body);
        out
    }

    #[derive(Default)]
    struct Kept(HashSet<Route>, LocalRoutes);

    impl Kept {
        fn hear(&mut self, messages: &[Vec<u8>]) -> Heard {
            let mut heard = Heard::default();
            heard.take(&messages.concat(), &mut self.0, &mut self.1);
            heard
        }

        fn has(&self, ip: &str) -> bool {
            self.1.contains(ip.parse().unwrap())
        }
    }

    const NEW: u16 = libc::RTM_NEWROUTE;
    const GONE: u16 = libc::RTM_DELROUTE;
    const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
    const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

    #[test]
    fn routes_come_and_go() {
        let mut kept = Kept::default();
        kept.hear(&[
            message(NEW, LOCAL, libc::RTN_LOCAL, "203.0.113.0/24", 0, 1),
            message(NEW, MAIN, libc::RTN_ANYCAST, "2001:db8::/64", 0, 2),
            message(NEW, LOCAL, libc::RTN_BROADCAST, "192.0.2.255/32", 0, 2),
        ]);
        assert!(kept.has("203.0.113.9") && kept.has("2001:db8::9") && kept.has("192.0.2.255"));
        assert!(!kept.has("203.0.114.9"));
        let heard = kept.hear(&[message(GONE, LOCAL, libc::RTN_LOCAL, "203.0.113.0/24", 0, 1)]);
        assert!(!kept.has("203.0.113.9") && heard.gone && !heard.anew);
    }

    #[test]
    fn what_is_told_twice_is_there_once_and_two_routes_are_two() {
        let mut kept = Kept::default();
        let route = |kind, interface| message(kind, LOCAL, libc::RTN_LOCAL, "203.0.113.0/24", 0, interface);
        kept.hear(&[route(NEW, 1), route(NEW, 1), route(NEW, 2), route(GONE, 1)]);
        assert!(kept.has("203.0.113.9"));
        kept.hear(&[route(GONE, 2), route(GONE, 2)]);
        assert!(!kept.has("203.0.113.9"));
    }

    #[test]
    fn routes_to_others_and_those_behind_rules_do_not_count() {
        let mut kept = Kept::default();
        kept.hear(&[
            message(NEW, 100, libc::RTN_LOCAL, "0.0.0.0/0", 0, 1),
            message(NEW, 100_000, libc::RTN_LOCAL, "::/0", 0, 1),
            message(NEW, MAIN, libc::RTN_UNICAST, "0.0.0.0/0", 0, 2),
            message(NEW, MAIN, libc::RTN_BLACKHOLE, "198.51.100.0/24", 0, 2),
        ]);
        assert!(!kept.has("8.8.8.8") && !kept.has("2001:db8::1") && !kept.has("198.51.100.1"));
    }

    #[test]
    fn what_the_kernel_does_not_tell_one_by_one_is_read_anew() {
        let mut kept = Kept::default();
        let mut link = vec![0; HEADER + 16];
        link[..4].copy_from_slice(&((HEADER + 16) as u32).to_ne_bytes());
        link[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        assert!(kept.hear(&[link.clone()]).anew, "an interface went down");
        link[HEADER + LINK_FLAGS] = libc::IFF_UP as u8;
        assert!(!kept.hear(&[link]).anew, "it came up");
        let replaced = message(NEW, LOCAL, libc::RTN_LOCAL, "203.0.113.0/24", libc::NLM_F_REPLACE, 1);
        assert!(kept.hear(&[replaced]).anew);
    }

    #[test]
    fn a_message_that_is_cut_is_no_message() {
        let whole = message(NEW, LOCAL, libc::RTN_LOCAL, "203.0.113.0/24", 0, 1);
        for length in 0..whole.len() {
            let mut kept = Kept::default();
            kept.hear(&[whole[..length].to_vec()]);
            assert!(!kept.has("203.0.113.9"), "{length}");
        }
    }
}
