//! The gateway's own Listeners: a datagram that comes back to one of them would circle for ever (contract section 4.4).
//!
//! Theory. A datagram comes back if this machine delivers its address locally, and a Listener is bound to its port there:
//! to that very address, or to every address. Which addresses are delivered locally is the kernel's decision, so the I/O
//! layer keeps a copy of its routes here. The port is looked at first: hardly any packet gets as far as the routes.

use ipnet::IpNet;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A bag: how often each thing is in it.
type Counted<T> = HashMap<T, u32, ahash::RandomState>;

/// The addresses and ports at which the gateway's Listeners receive. Never a remote, not even for a Tag.
#[derive(Clone, Debug, Default)]
pub struct OwnEndpoints {
    /// Ports of all Listeners.
    ports: Counted<u16>,
    /// Where they are bound. A dual-stack Listener is bound to `0.0.0.0` and `::`.
    bound: Counted<SocketAddr>,
    /// The kernel's routes to this machine.
    pub routes: LocalRoutes,
    /// Looks up the index of the interface with this name: a zone of a link-local address may be written so.
    pub interface: Option<fn(&str) -> Option<u32>>,
}

impl OwnEndpoints {
    /// A Listener has been bound; `dual_stack`: its IPv6 wildcard receives IPv4 too.
    pub fn listen(&mut self, bound: SocketAddr, dual_stack: bool) {
        let bound = SocketAddr::new(bound.ip(), bound.port()); // without the zone of a link-local address
        put(&mut self.ports, bound.port());
        each_family(bound, dual_stack, |bound| put(&mut self.bound, bound));
    }

    /// A Listener has been closed; the arguments are those of [`listen`](Self::listen).
    pub fn close(&mut self, bound: SocketAddr, dual_stack: bool) {
        let bound = SocketAddr::new(bound.ip(), bound.port());
        take(&mut self.ports, bound.port());
        each_family(bound, dual_stack, |bound| take(&mut self.bound, bound));
    }

    /// True if a datagram to `ip:port` would come back to one of the Listeners. `ip` is canonical ([`crate::canonical`]).
    #[inline]
    pub fn contains(&self, ip: IpAddr, port: u16) -> bool {
        self.ports.contains_key(&port) && self.receives(ip, port)
    }

    fn receives(&self, ip: IpAddr, port: u16) -> bool {
        // The kernel puts an address of this machine in the place of the unspecified one: any of them.
        if ip.is_unspecified() || self.bound.contains_key(&SocketAddr::new(ip, port)) {
            return true;
        }
        let every = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        self.bound.contains_key(&SocketAddr::new(every, port)) && self.comes_back(ip)
    }

    /// True if this machine gets a copy of what is sent to `ip`: its own addresses, and groups that any of its programs
    /// may have joined (IP_MULTICAST_LOOP is on by default).
    fn comes_back(&self, ip: IpAddr) -> bool {
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        ip.is_loopback() || ip.is_multicast() || broadcast || self.routes.contains(ip)
    }
}

/// What a route to this machine makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Local {
    /// It is this machine's own: of an interface, or anycast. Packets may leave from it.
    Address,
    /// It is in a prefix that somebody routes here (`ip route add local 203.0.113.0/24 dev lo`). Packets may leave from it,
    /// for IPv6 if the socket says so (IPV6_FREEBIND).
    Routed,
    /// It stands for several machines: broadcast or multicast. No packet leaves from it.
    Group,
}

/// The prefixes that the kernel delivers locally: addresses of interfaces, locally routed prefixes, broadcast and anycast
/// addresses. One may be there several times, as several routes.
#[derive(Clone, Debug, Default)]
pub struct LocalRoutes {
    routes: Counted<(IpNet, Local)>,
    /// Lengths of prefixes in use, the longest first. Few ever are, so that a look-up tries each of them.
    lengths: [Vec<(u8, u32)>; 2],
    /// The broadcast addresses of IPv4 networks.
    broadcasts: Counted<Ipv4Addr>,
    generation: u64,
}

impl LocalRoutes {
    /// One more route to `prefix`.
    pub fn add(&mut self, prefix: IpNet, what: Local) {
        let prefix = prefix.trunc();
        put(&mut self.routes, (prefix, what));
        broadcast(prefix, what).into_iter().for_each(|ip| put(&mut self.broadcasts, ip));
        let lengths = &mut self.lengths[family(prefix.addr())];
        match lengths.binary_search_by(|(length, _)| prefix.prefix_len().cmp(length)) {
            Ok(at) => lengths[at].1 += 1,
            Err(at) => lengths.insert(at, (prefix.prefix_len(), 1)),
        }
        self.generation += 1;
    }

    /// One route less to `prefix`, which was added.
    pub fn remove(&mut self, prefix: IpNet, what: Local) {
        let prefix = prefix.trunc();
        take(&mut self.routes, (prefix, what));
        broadcast(prefix, what).into_iter().for_each(|ip| take(&mut self.broadcasts, ip));
        let lengths = &mut self.lengths[family(prefix.addr())];
        if let Some((_, count)) = lengths.iter_mut().find(|(length, _)| *length == prefix.prefix_len()) {
            *count -= 1;
        }
        lengths.retain(|(_, count)| *count > 0);
        self.generation += 1;
    }

    /// All routes have been read anew.
    pub fn replace(&mut self, routes: LocalRoutes) {
        let generation = self.generation + 1;
        *self = LocalRoutes { generation, ..routes };
    }

    /// Another number after each change: what was looked up before may hold no more.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// True if a route leads from `ip` to this machine.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.find(ip).is_some()
    }

    /// True if `ip` is the broadcast address of a network that this machine is in.
    #[inline]
    pub fn is_broadcast(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(v4) if self.broadcasts.contains_key(&v4))
    }

    /// What `ip` is to this machine: the longest prefix decides, as in the kernel. None: no route leads here.
    pub fn find(&self, ip: IpAddr) -> Option<Local> {
        let of = |prefix| [Local::Address, Local::Routed, Local::Group].map(|what| (prefix, what));
        self.lengths[family(ip)].iter().find_map(|&(length, _)| {
            let prefix = IpNet::new(ip, length).ok()?.trunc();
            of(prefix).into_iter().find(|route| self.routes.contains_key(route)).map(|(_, what)| what)
        })
    }
}

fn broadcast(prefix: IpNet, what: Local) -> Option<Ipv4Addr> {
    match prefix {
        IpNet::V4(v4) if v4.prefix_len() == 32 && what == Local::Group => Some(v4.addr()),
        _ => None,
    }
}

fn family(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

fn each_family(bound: SocketAddr, dual_stack: bool, mut each: impl FnMut(SocketAddr)) {
    if dual_stack && bound.is_ipv6() && bound.ip().is_unspecified() {
        each(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), bound.port()));
    }
    each(bound);
}

fn put<T: Eq + Hash>(bag: &mut Counted<T>, thing: T) {
    *bag.entry(thing).or_default() += 1;
}

fn take<T: Eq + Hash>(bag: &mut Counted<T>, thing: T) {
    if let Some(count) = bag.get_mut(&thing) {
        *count -= 1;
        if *count == 0 {
            bag.remove(&thing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn own(bound: &str, dual_stack: bool, routes: &[&str]) -> OwnEndpoints {
        let mut own = OwnEndpoints::default();
        own.listen(bound.parse().unwrap(), dual_stack);
        routes.iter().for_each(|route| own.routes.add(route.parse().unwrap(), Local::Address));
        own
    }

    const ROUTES: [&str; 4] = ["192.0.2.10/32", "203.0.113.0/24", "2001:db8:1::/48", "fe80::1/128"];

    #[test]
    fn a_listener_on_every_address_is_reached_by_every_address_of_the_machine() {
        let own = own("[::]:2048", true, &ROUTES);
        let back = ["192.0.2.10", "203.0.113.77", "127.9.9.9", "0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255"];
        for text in back.into_iter().chain(["::1", "::", "2001:db8:1:2::3", "fe80::1", "ff02::1"]) {
            assert!(own.contains(ip(text), 2048), "{text}");
            assert!(!own.contains(ip(text), 2049), "{text}");
        }
        for text in ["192.0.2.11", "203.0.114.1", "2001:db8:2::3", "fe80::2"] {
            assert!(!own.contains(ip(text), 2048), "{text}");
        }
    }

    #[test]
    fn a_listener_on_one_address_is_reached_by_that_one() {
        let own = own("192.0.2.10:2048", false, &ROUTES);
        for text in ["192.0.2.10", "0.0.0.0"] {
            assert!(own.contains(ip(text), 2048), "{text}");
        }
        for text in ["203.0.113.77", "127.0.0.1", "::1", "224.0.0.1"] {
            assert!(!own.contains(ip(text), 2048), "{text}");
        }
    }

    #[test]
    fn a_listener_of_one_family_is_not_reached_by_the_other() {
        let own = own("[::]:2048", false, &ROUTES);
        assert!(own.contains(ip("2001:db8:1::5"), 2048));
        assert!(!own.contains(ip("203.0.113.77"), 2048));
    }

    #[test]
    fn what_is_there_twice_stays_until_it_has_gone_twice() {
        let mut own = own("0.0.0.0:2048", false, &["203.0.113.0/24", "203.0.113.9/24"]);
        own.listen("192.0.2.10:2048".parse().unwrap(), false);
        own.routes.remove("203.0.113.0/24".parse().unwrap(), Local::Address);
        assert!(own.contains(ip("203.0.113.1"), 2048));
        own.routes.remove("203.0.113.0/24".parse().unwrap(), Local::Address);
        assert!(!own.contains(ip("203.0.113.1"), 2048));
        own.close("0.0.0.0:2048".parse().unwrap(), false);
        assert!(own.contains(ip("192.0.2.10"), 2048));
        assert!(!own.contains(ip("127.0.0.1"), 2048));
        own.close("192.0.2.10:2048".parse().unwrap(), false);
        assert!(!own.contains(ip("192.0.2.10"), 2048));
    }

    #[test]
    fn a_route_to_everything_is_one() {
        let mut routes = LocalRoutes::default();
        routes.add("0.0.0.0/0".parse().unwrap(), Local::Routed);
        assert!(routes.contains(ip("8.8.8.8")));
        assert!(!routes.contains(ip("2001:db8::1")));
    }

    #[test]
    fn the_longest_prefix_says_what_an_address_is() {
        let mut routes = LocalRoutes::default();
        routes.add("203.0.113.255/32".parse().unwrap(), Local::Group);
        routes.add("203.0.113.0/24".parse().unwrap(), Local::Routed);
        routes.add("203.0.113.7/32".parse().unwrap(), Local::Address);
        assert_eq!(routes.find(ip("203.0.113.255")), Some(Local::Group));
        assert!(routes.is_broadcast(ip("203.0.113.255")) && !routes.is_broadcast(ip("203.0.113.9")));
        assert_eq!(routes.find(ip("203.0.113.9")), Some(Local::Routed));
        assert_eq!(routes.find(ip("203.0.113.7")), Some(Local::Address));
        assert_eq!(routes.find(ip("203.0.114.1")), None);
        let before = routes.generation();
        routes.remove("203.0.113.7/32".parse().unwrap(), Local::Address);
        assert_eq!(routes.find(ip("203.0.113.7")), Some(Local::Routed));
        assert_ne!(routes.generation(), before);
    }

    #[test]
    fn a_listener_at_a_link_local_address_is_found_without_its_zone() {
        let mut own = own("[fe80::1%2]:2048", false, &ROUTES);
        assert!(own.contains(ip("fe80::1"), 2048));
        own.close("[fe80::1%2]:2048".parse().unwrap(), false);
        assert!(!own.contains(ip("fe80::1"), 2048));
    }
}
