//! Which address of this machine a packet leaves from, and which one a packet came to (contract section 3).
//!
//! Theory. A packet leaves from the address that its remote last spoke to, so that firewalls and NAT on the way let it in.
//! That address may be gone: the provider gave the machine another one, a Tag or the state is older than that. An address
//! is used while the kernel's routes call it local ([`LocalRoutes`]), whether an interface has it or a prefix is routed
//! here. Otherwise the kernel chooses. A socket that is bound to one address has no other to choose.
//!
//! A datagram to a broadcast address or a group came to no address that packets may leave from. Its answer leaves from the
//! one that the kernel would choose for its remote at the interface by which it came.

use crate::sys;
use sluice_core::own::{Local, LocalRoutes};
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

/// Addresses that are gone, remembered so that they are looked up and reported once.
const GONE: usize = 1_024;
// linux/in6.h
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_FREEBIND: i32 = 78;

/// The address that the socket is bound to is not on this machine.
#[derive(Debug)]
pub struct NotHere;

/// The local addresses of one socket. Looked up at most once for each change of the routes, if the address stays the same.
#[derive(Default)]
pub struct LocalAddresses {
    /// The one that the socket is bound to. None: all.
    bound: Option<IpAddr>,
    /// The routes when `here`, `gone` and `answered` were looked up.
    generation: u64,
    /// The last one that was there.
    here: Option<IpAddr>,
    gone: HashSet<IpAddr>,
    reported: HashSet<IpAddr>,
    unreported: Vec<IpAddr>,
    /// The interface and the remote of the last datagram to a group, and where its answer leaves from.
    answered: Option<(Option<u32>, SocketAddr, IpAddr)>,
    /// The socket may send from addresses that no interface has.
    free: bool,
}

impl LocalAddresses {
    /// Of a socket that is bound to `bound`.
    pub fn new(bound: IpAddr) -> LocalAddresses {
        LocalAddresses { bound: Some(bound).filter(|bound| !bound.is_unspecified()), ..LocalAddresses::default() }
    }

    /// The address to send from to a remote that spoke to `local`. None: the kernel chooses.
    #[inline]
    pub fn leave_from(
        &mut self,
        socket: BorrowedFd,
        routes: &LocalRoutes,
        local: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, NotHere> {
        self.follow(routes);
        if let Some(bound) = self.bound
            && !self.is_here(socket, routes, bound)
        {
            return Err(NotHere);
        }
        let Some(local) = local.filter(|local| !local.is_unspecified()) else { return Ok(None) };
        if self.is_here(socket, routes, local) {
            return Ok(Some(local));
        }
        if self.reported.insert(local) {
            self.unreported.push(local);
        }
        Ok(None)
    }

    /// The kernel does not send from `local`, which its routes call local. True if it may choose another one.
    pub fn lost(&mut self, local: IpAddr) -> bool {
        if self.bound.is_none() {
            self.here = self.here.filter(|here| *here != local);
            self.remember_gone(local);
        }
        self.bound.is_none()
    }

    /// The address to which a datagram from `remote` came by `interface`: `to`, if packets may leave from there.
    #[inline]
    pub fn spoken_to(
        &mut self,
        routes: &LocalRoutes,
        to: IpAddr,
        interface: Option<u32>,
        remote: SocketAddr,
    ) -> IpAddr {
        self.follow(routes);
        if self.here == Some(to) || !stands_for_many(routes, to) {
            return to;
        }
        match self.answered {
            Some((by, whom, from)) if (by, whom.ip()) == (interface, remote.ip()) => from,
            _ => {
                let from = answer_from(interface, remote).or_else(|| answer_from(None, remote));
                let from = from.unwrap_or(match remote {
                    SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                });
                self.answered = Some((interface, remote, from));
                from
            }
        }
    }

    /// Addresses that packets were to leave from and that are gone: each once, until it comes back.
    pub fn take_gone(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.unreported)
    }

    #[inline]
    fn follow(&mut self, routes: &LocalRoutes) {
        if self.generation != routes.generation() {
            self.generation = routes.generation();
            (self.here, self.answered) = (None, None);
            self.gone.clear();
        }
    }

    #[inline]
    fn is_here(&mut self, socket: BorrowedFd, routes: &LocalRoutes, ip: IpAddr) -> bool {
        self.here == Some(ip) || self.look(socket, routes, ip)
    }

    fn look(&mut self, socket: BorrowedFd, routes: &LocalRoutes, ip: IpAddr) -> bool {
        if self.gone.contains(&ip) {
            return false;
        }
        let here = match routes.find(ip) {
            Some(Local::Routed) => {
                // IPv6 wants to hear that the address is meant, though no interface has it.
                if ip.is_ipv6() && !self.free {
                    self.free = sys::set_option(socket, libc::IPPROTO_IPV6, IPV6_FREEBIND, 1).is_ok();
                }
                true
            }
            Some(Local::Address) => true,
            Some(Local::Group) => false,
            None => can_be_bound(ip), // the table of a VRF is not among those that are followed
        };
        if here {
            self.here = Some(ip);
            self.reported.remove(&ip);
        } else {
            self.remember_gone(ip);
        }
        here
    }

    fn remember_gone(&mut self, ip: IpAddr) {
        for known in [&mut self.gone, &mut self.reported] {
            if known.len() >= GONE {
                known.clear();
            }
        }
        self.gone.insert(ip);
    }
}

fn stands_for_many(routes: &LocalRoutes, ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    ip.is_multicast() || broadcast || routes.find(ip) == Some(Local::Group)
}

/// The kernel's word on whether `ip` is an address of this machine.
fn can_be_bound(ip: IpAddr) -> bool {
    let address = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), None);
    socket.is_ok_and(|socket| socket.bind(&SockAddr::from(address)).is_ok())
}

/// The address that the kernel sends from to `remote` by `interface`. No packet leaves for the question.
fn answer_from(interface: Option<u32>, remote: SocketAddr) -> Option<IpAddr> {
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM.cloexec(), None).ok()?;
    if let Some(index) = interface {
        let (level, name) = match remote {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, IPV6_UNICAST_IF),
        };
        sys::set_option(socket.as_fd(), level, name, index.to_be() as i32).ok()?;
    }
    socket.connect(&SockAddr::from(remote)).ok()?;
    socket.local_addr().ok()?.as_socket().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn routes(list: &[(&str, Local)]) -> LocalRoutes {
        let mut routes = LocalRoutes::default();
        list.iter().for_each(|(prefix, local)| routes.add(prefix.parse().unwrap(), *local));
        routes
    }

    #[test]
    fn an_address_is_used_while_it_is_local_and_reported_once_when_it_is_gone() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut routes = routes(&[("192.0.2.1/32", Local::Address), ("203.0.113.0/24", Local::Routed)]);
        let mut local = LocalAddresses::new(ip("0.0.0.0"));
        let mut from = |routes: &LocalRoutes, text: &str| {
            (local.leave_from(socket.as_fd(), routes, Some(ip(text))).unwrap(), local.take_gone())
        };
        assert_eq!(from(&routes, "192.0.2.1"), (Some(ip("192.0.2.1")), vec![]));
        assert_eq!(from(&routes, "203.0.113.9"), (Some(ip("203.0.113.9")), vec![]));
        routes.remove("192.0.2.1/32".parse().unwrap(), Local::Address);
        assert_eq!(from(&routes, "192.0.2.1"), (None, vec![ip("192.0.2.1")]));
        routes.remove("203.0.113.0/24".parse().unwrap(), Local::Routed);
        assert_eq!(from(&routes, "192.0.2.1"), (None, vec![]));
        assert_eq!(from(&routes, "203.0.113.9"), (None, vec![ip("203.0.113.9")]));
        routes.add("192.0.2.1/32".parse().unwrap(), Local::Address);
        assert_eq!(from(&routes, "192.0.2.1"), (Some(ip("192.0.2.1")), vec![]));
        routes.remove("192.0.2.1/32".parse().unwrap(), Local::Address);
        assert_eq!(from(&routes, "192.0.2.1"), (None, vec![ip("192.0.2.1")]));
        assert_eq!(from(&routes, "0.0.0.0"), (None, vec![]));
    }

    #[test]
    fn a_socket_with_one_address_has_no_other() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut routes = routes(&[("192.0.2.1/32", Local::Address)]);
        let mut local = LocalAddresses::new(ip("192.0.2.1"));
        assert!(local.leave_from(socket.as_fd(), &routes, None).is_ok());
        routes.remove("192.0.2.1/32".parse().unwrap(), Local::Address);
        assert!(local.leave_from(socket.as_fd(), &routes, None).is_err());
        assert!(local.leave_from(socket.as_fd(), &routes, Some(ip("127.0.0.1"))).is_err());
        assert!(!local.lost(ip("192.0.2.1")));
    }

    #[test]
    fn what_came_to_a_group_is_answered_from_an_address() {
        let routes = routes(&[("127.255.255.255/32", Local::Group), ("127.0.0.0/8", Local::Address)]);
        let mut local = LocalAddresses::new(ip("0.0.0.0"));
        let remote = "127.0.0.9:5000".parse().unwrap();
        for to in ["127.255.255.255", "255.255.255.255", "224.0.0.1"] {
            assert_eq!(local.spoken_to(&routes, ip(to), Some(1), remote), ip("127.0.0.1"), "{to}");
        }
        assert_eq!(local.spoken_to(&routes, ip("127.0.0.3"), Some(1), remote), ip("127.0.0.3"));
        let nowhere = "[fe80::9%99999]:5000".parse().unwrap();
        assert_eq!(local.spoken_to(&routes, ip("ff02::1"), Some(99_999), nowhere), ip("::"));
    }

    #[test]
    fn more_addresses_than_are_remembered_do_no_harm() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut local = LocalAddresses::new(ip("0.0.0.0"));
        for number in 0..3 * GONE as u32 {
            let gone = IpAddr::from(Ipv4Addr::from(0xcb00_7100 + number));
            assert_eq!(local.leave_from(socket.as_fd(), &LocalRoutes::default(), Some(gone)).unwrap(), None);
        }
        assert!(local.gone.len() <= GONE && local.reported.len() <= GONE);
    }
}
