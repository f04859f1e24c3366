//! Addresses in the one form that users know, and as entries of messages write them (contract section 4.1).

use crate::{
    message::Scalar,
    reason::{Reason, Refused},
};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The address in the form that users know: IPv4-mapped IPv6 as IPv4 (a dual-stack socket reports clients so), no flow
/// label, a zone only where it means something.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => {
                let zone = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, zone))
            }
        },
    }
}

/// The address of a `Remote`, which calls it `spelling`, and `Remote.Port`.
pub fn address_of(address: &Scalar, spelling: &str, port: &Scalar) -> Result<SocketAddr, Refused> {
    let Scalar::Text(address) = address else {
        return Err(malformed_remote(&format!("Remote.{spelling} is missing or not a string")));
    };
    let (ip, zone) =
        parse_address(address).ok_or_else(|| malformed_remote(&format!("Remote.{spelling} is not an IP address")))?;
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

/// An address as RequestPacket writes it: strict dotted decimals (no `127.1`), IPv6, a numeric zone if it is link-local.
fn parse_address(text: &str) -> Option<(IpAddr, u32)> {
    match text.split_once('%') {
        None => text.parse().ok().map(|ip| (ip, 0)),
        Some((address, zone)) => {
            let ip: std::net::Ipv6Addr = address.parse().ok()?;
            let digits = !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_digit());
            (ip.is_unicast_link_local() && digits).then_some((IpAddr::V6(ip), zone.parse().ok()?))
        }
    }
}
