//! Which addresses this machine delivers to itself, as the kernel's routes say: kept up to date by its events (rtnetlink,
//! rtnetlink(7)), so that nobody has to ask for each packet.
//!
//! Theory. The kernel looks into its table `local` first and then into `main`. A route of the type `local` (or broadcast,
//! multicast, anycast) there brings a datagram back, whether it stands for an address of an interface or for a whole
//! prefix (`ip route add local 203.0.113.0/24 dev lo`). Other tables are left alone: a transparent proxy routes the whole
//! internet to itself in one, behind a firewall mark that our packets do not have.
//!
//! A new route is an event of its own, and so is its end. What the kernel does not tell one by one makes us read the
//! tables anew: a lost event, a replaced route, an interface that goes down and takes its routes with it.
//!
//! Where netlink is forbidden, `/proc` is read from time to time.

use crate::{
    rtnetlink::{BACK, Heard, NO_TYPE, Route, request},
    sys,
};
use ipnet::IpNet;
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
};
use sluice_core::{
    OwnEndpoints,
    own::{Local, LocalRoutes},
};
use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How often the addresses are looked up where events cannot be had, and a reading is tried again that failed.
const INTERVAL: Duration = Duration::from_secs(10);
/// Bytes of events that the kernel may keep for us. More of them are lost, and the tables read anew.
const QUEUE: i32 = 1 << 20;
/// Larger than any message of the kernel.
const BUFFER: usize = 1 << 16;
/// Readings in a row, if the tables change meanwhile.
const READINGS: usize = 4;
/// Messages that are looked at in one turn of the I/O thread.
const MESSAGES: usize = 64;

// linux/netlink.h
const NETLINK_GET_STRICT_CHK: i32 = 12;
/// The protocol of the number 0, which rustix has no name for.
const NETLINK_ROUTE: Option<Protocol> = None;

/// Keeps [`OwnEndpoints::routes`] as the kernel has them. Belongs to the I/O thread.
pub(crate) struct Routes {
    socket: Option<OwnedFd>,
    known: HashSet<Route>,
    /// There are events, or they have failed.
    ready: bool,
    /// When the addresses are to be read anew: where there are no events, or the last reading failed.
    again: Option<Instant>,
    buffer: Box<[u8]>,
}

impl Routes {
    /// Reads the routes into `own`, and why events of them cannot be had, if so.
    pub fn open(own: &mut OwnEndpoints) -> (Routes, Option<io::Error>) {
        own.interface = Some(index_of);
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let mut routes = Routes { socket: None, known: HashSet::new(), ready: false, again: None, buffer };
        let failed = match subscribe() {
            Ok(socket) => routes.read_tables(&socket, own).map(|()| routes.socket = Some(socket)).err(),
            Err(error) => Some(error),
        };
        if failed.is_some() {
            routes.poll(own);
        }
        (routes, failed)
    }

    /// Readable when there are events.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(OwnedFd::as_fd)
    }

    /// [`events`](Self::events) is readable: the next [`refresh`](Self::refresh) looks.
    pub fn wake(&mut self) {
        self.ready = true;
    }

    /// Takes over what has changed. Costs nothing if nothing has.
    #[inline]
    pub fn refresh(&mut self, own: &mut OwnEndpoints) {
        if self.ready {
            self.follow(own);
        }
        if self.again.is_some_and(|at| Instant::now() >= at) {
            self.poll(own);
        }
    }

    fn follow(&mut self, own: &mut OwnEndpoints) {
        self.ready = false;
        let Some(socket) = self.socket.take() else { return };
        let mut heard = Heard::default();
        for _ in 0..MESSAGES {
            match receive(&socket, &mut self.buffer) {
                Ok(length) => heard.take(&self.buffer[..length], &mut self.known, &mut own.routes),
                Err(Errno::AGAIN) => break,
                Err(_) => heard.anew = true, // ENOBUFS: events were lost
            }
        }
        if heard.anew && self.read_tables(&socket, own).is_err() {
            self.again = Some(Instant::now() + INTERVAL);
        }
        self.socket = Some(socket);
    }

    /// Reads the tables by netlink, or what `/proc` has of them.
    fn poll(&mut self, own: &mut OwnEndpoints) {
        let read = match self.socket.take() {
            Some(socket) => {
                let read = self.read_tables(&socket, own);
                self.socket = Some(socket);
                read.is_ok()
            }
            None => {
                own.routes.replace(listed());
                false
            }
        };
        self.again = (!read).then(|| Instant::now() + INTERVAL);
    }

    /// Reads both tables of both families. The kernel answers at once, so this does not wait.
    fn read_tables(&mut self, socket: &OwnedFd, own: &mut OwnEndpoints) -> io::Result<()> {
        for _ in 0..READINGS {
            let (mut known, mut routes, mut heard) = (HashSet::new(), LocalRoutes::default(), Heard::default());
            for family in [libc::AF_INET, libc::AF_INET6] {
                // Of `main`, which may hold the whole internet, the kernel is asked only for what brings back.
                let kinds = BACK.into_iter().map(|kind| (libc::RT_TABLE_MAIN, kind));
                for (table, kind) in [(libc::RT_TABLE_LOCAL, NO_TYPE)].into_iter().chain(kinds) {
                    rustix::net::send(socket, &request(family as u8, table, kind), SendFlags::empty())?;
                    heard.done = false;
                    while !heard.done {
                        match receive(socket, &mut self.buffer) {
                            Ok(length) => heard.take(&self.buffer[..length], &mut known, &mut routes),
                            Err(Errno::NOBUFS) => heard.anew = true,
                            Err(error) => return Err(error.into()),
                        }
                    }
                    if let Some(errno) = heard.refused {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                }
            }
            self.known = known;
            own.routes.replace(routes);
            // The kernel tells of a route's end before it ends: the reading may have met it still.
            if !heard.anew && !heard.gone {
                break;
            }
        }
        Ok(())
    }
}

/// The index of the interface with this name.
fn index_of(interface: &str) -> Option<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, interface).ok()
}

fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, NETLINK_ROUTE)?;
    let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, QUEUE);
    // Without it (before Linux 4.20) the answers have more than was asked for.
    let _ = sys::set_option(socket.as_fd(), libc::SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
    let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, groups as u32))?;
    Ok(socket)
}

/// One message; its length. What does not fit is as good as lost.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (length, real) = rustix::net::recv(socket, &mut *buffer, RecvFlags::TRUNC | RecvFlags::DONTWAIT)?;
    if real > length { Err(Errno::NOBUFS) } else { Ok(length) }
}

/// What `/proc` has: the local routes of IPv4, and the addresses of IPv6.
fn listed() -> LocalRoutes {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut routes = LocalRoutes::default();
    listed_v4(&read("/proc/net/fib_trie")).into_iter().for_each(|(prefix, local)| routes.add(prefix, local));
    listed_v6(&read("/proc/net/if_inet6")).into_iter().for_each(|prefix| routes.add(prefix, Local::Address));
    routes
}

/// `/proc/net/fib_trie`: a line `|-- ADDRESS`, then a line `/LENGTH SCOPE TYPE` for each of its routes.
fn listed_v4(text: &str) -> Vec<(IpNet, Local)> {
    let (mut counts, mut last, mut found) = (false, None, Vec::new());
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            _ if !line.starts_with(' ') => counts = matches!(line, "Main:" | "Local:"),
            ["|--", address] => last = address.parse::<Ipv4Addr>().ok(),
            [length, _, kind @ ("LOCAL" | "BROADCAST" | "MULTICAST" | "ANYCAST"), ..] if counts => {
                let local = if matches!(kind, "LOCAL" | "ANYCAST") { Local::Address } else { Local::Group };
                let length = length.strip_prefix('/').and_then(|length| length.parse().ok());
                let prefix = last.zip(length).and_then(|(ip, length)| IpNet::new(ip.into(), length).ok());
                found.extend(prefix.map(|prefix| (prefix, local)));
            }
            _ => {}
        }
    }
    found
}

/// `/proc/net/if_inet6`: 32 hexadecimal digits, the interface and more.
fn listed_v6(text: &str) -> Vec<IpNet> {
    let address = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    text.lines().filter_map(address).map(|bits| IpNet::from(IpAddr::from(Ipv6Addr::from(bits)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_its_own_addresses() {
        let mut own = OwnEndpoints::default();
        let (routes, failed) = Routes::open(&mut own);
        assert!(failed.is_none(), "{failed:?}");
        assert!(routes.events().is_some());
        assert!(own.routes.contains("127.0.0.1".parse().unwrap()));
        assert!(!own.routes.contains("198.51.100.77".parse().unwrap()));
    }

    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.0.2.10
        /32 host LOCAL
Local:
     |-- 203.0.113.0
        /24 host LOCAL
        /32 link BROADCAST
Id 100:
     |-- 0.0.0.0
        /0 host LOCAL
";

    #[test]
    fn proc_is_read_where_netlink_is_forbidden() {
        let found: Vec<_> = listed_v4(FIB_TRIE).iter().map(|(prefix, local)| (prefix.to_string(), *local)).collect();
        let expected =
            [("192.0.2.10/32", Local::Address), ("203.0.113.0/24", Local::Address), ("203.0.113.0/32", Local::Group)];
        assert_eq!(found, expected.map(|(prefix, local)| (prefix.to_owned(), local)));
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000005 02 40 00 00 eth0\n";
        let found: Vec<_> = listed_v6(text).iter().map(IpNet::to_string).collect();
        assert_eq!(found, ["::1/128", "2001:db8::5/128"]);
        assert!(listed().contains("127.0.0.1".parse().unwrap()));
    }
}
