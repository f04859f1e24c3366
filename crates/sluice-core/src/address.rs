//! Addresses in the one form that users know, and as entries of messages write them (contract section 4.1).

use crate::{
    message::Scalar,
    own::OwnEndpoints,
    reason::{Reason, Refused},
};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The address in the form that users know: IPv4-mapped IPv6 as IPv4 (a dual-stack socket reports clients so), no flow
/// label, a zone only where it means something.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => {
                let zone = if needs_zone(v6.ip()) { v6.scope_id() } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, zone))
            }
        },
    }
}

/// True for an address that every interface has its own of: link-local ones, and groups on one link (RFC 4007).
fn needs_zone(ip: &Ipv6Addr) -> bool {
    ip.is_unicast_link_local() || ip.is_multicast() && matches!(ip.segments()[0] & 0xf, 1 | 2)
}

/// Refuses an address that may be at any interface.
pub fn at_one_interface(remote: SocketAddr) -> Result<(), Refused> {
    match remote {
        SocketAddr::V6(v6) if v6.scope_id() == 0 && needs_zone(v6.ip()) => {
            let ip = v6.ip();
            Err(malformed_remote(&format!(
                "{ip} is link-local and has no zone, so that it may be at any interface: write {ip}%INTERFACE, as \
                 {ip}%eth0 or {ip}%2"
            )))
        }
        _ => Ok(()),
    }
}

/// The address of a `Remote`, which calls it `spelling`, and `Remote.Port`. `bound` is the Listener's address: its zone is
/// that of its remotes.
pub fn address_of(
    own: &OwnEndpoints,
    bound: SocketAddr,
    address: &Scalar,
    spelling: &str,
    port: &Scalar,
) -> Result<SocketAddr, Refused> {
    let Scalar::Text(address) = address else {
        return Err(malformed_remote(&format!("Remote.{spelling} is missing or not a string")));
    };
    let (ip, zone) = parse_address(own, bound, address, spelling)?;
    let port = port_of(port, 1).ok_or_else(|| malformed_remote("Remote.Port is not a whole number from 1 to 65535"))?;
    Ok(match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => canonical(SocketAddr::V6(SocketAddrV6::new(v6, port, 0, zone))),
    })
}

/// A whole number from `least` to 65535.
pub fn port_of(port: &Scalar, least: u16) -> Option<u16> {
    match port {
        Scalar::Number(port) if port.fract() == 0.0 && (f64::from(least)..=65_535.0).contains(port) => {
            Some(*port as u16)
        }
        _ => None,
    }
}

/// A refusal of `Remote` or `Inner`.
pub fn malformed_remote(detail: &str) -> Refused {
    (Reason::MalformedRemote, detail.to_owned())
}

/// An address as RequestPacket writes it: strict dotted decimals (no `127.1`), IPv6, with a zone (the index or the name of an
/// interface) if it is link-local.
fn parse_address(own: &OwnEndpoints, bound: SocketAddr, text: &str, spelling: &str) -> Result<(IpAddr, u32), Refused> {
    let no_address = || malformed_remote(&format!("Remote.{spelling} is not an IP address"));
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let ip: IpAddr = address.parse().map_err(|_| no_address())?;
    let IpAddr::V6(v6) = ip else { return if zone.is_none() { Ok((ip, 0)) } else { Err(no_address()) } };
    match zone {
        None => match bound {
            SocketAddr::V6(bound) if needs_zone(&v6) => Ok((ip, bound.scope_id())),
            _ => Ok((ip, 0)),
        },
        Some(_) if !needs_zone(&v6) => Err(malformed_remote(&format!(
            "Remote.{spelling} has a zone and is not link-local: write {v6} without what follows the %"
        ))),
        Some(zone) if !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_digit()) => match zone.parse() {
            Ok(index) if index != 0 => Ok((ip, index)),
            _ => Err(malformed_remote(&format!("the zone of Remote.{spelling} is no index of an interface"))),
        },
        Some(zone) => match own.interface.and_then(|look_up| look_up(zone)) {
            Some(index) => Ok((ip, index)),
            None => Err(malformed_remote(&format!(
                "the zone of Remote.{spelling} names no interface of this machine (`ip link` lists them)"
            ))),
        },
    }
}
