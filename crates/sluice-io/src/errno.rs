//! The kernel's errors as reasons and words.

use sluice_core::{Reason, reason::Refused};
use std::io;

/// A packet that will not be sent, as its outcome says it.
pub fn refusal(error: &io::Error) -> Refused {
    let errno = error.raw_os_error().unwrap_or(0);
    let reason = match errno {
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ECONNREFUSED
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EADDRNOTAVAIL
        | libc::EAFNOSUPPORT => Reason::RemoteUnreachable,
        libc::EMSGSIZE => Reason::PayloadTooLarge,
        _ => Reason::SendFailed,
    };
    (reason, format!("the kernel refused the packet: {}", name_of(errno)))
}

/// What an ICMP error says, from the errno that the kernel makes of it (net/ipv4/icmp.c, net/ipv6/icmp.c).
const ICMP: [(&str, &[i32]); 8] = [
    ("PortUnreachable", &[libc::ECONNREFUSED]),
    ("HostUnreachable", &[libc::EHOSTUNREACH, libc::EHOSTDOWN]),
    ("NetworkUnreachable", &[libc::ENETUNREACH, libc::ENONET]),
    ("ProtocolUnreachable", &[libc::ENOPROTOOPT]),
    ("TooLarge", &[libc::EMSGSIZE]),
    ("Prohibited", &[libc::EACCES]),
    ("ParameterProblem", &[libc::EPROTO]),
    ("Other", &[]),
];

/// The name under which an ICMP error is counted.
pub fn icmp_name(errno: i32) -> &'static str {
    ICMP.iter().find(|(_, errnos)| errnos.contains(&errno)).map_or("Other", |(name, _)| name)
}

/// The names under which ICMP errors are counted.
pub fn icmp_names() -> impl Iterator<Item = &'static str> {
    ICMP.iter().map(|(name, _)| *name)
}

fn name_of(errno: i32) -> &'static str {
    match errno {
        libc::ECONNREFUSED => "port unreachable (ECONNREFUSED)",
        libc::EHOSTUNREACH => "host unreachable (EHOSTUNREACH)",
        libc::ENETUNREACH => "network unreachable (ENETUNREACH)",
        libc::EACCES => "not permitted (EACCES)",
        libc::EPERM => "not permitted by the packet filter (EPERM)",
        libc::EMSGSIZE => "too large for the path (EMSGSIZE)",
        libc::EBUSY => "errors of other packets kept coming back",
        libc::EINVAL => "invalid source or destination address (EINVAL)",
        libc::ENOBUFS => "the interface's queue is full (ENOBUFS)",
        libc::ENODEV => "no such interface (ENODEV)",
        libc::ENETDOWN => "network down (ENETDOWN)",
        libc::EHOSTDOWN => "host down (EHOSTDOWN)",
        libc::EADDRNOTAVAIL => "address not available (EADDRNOTAVAIL)",
        libc::EAFNOSUPPORT => "address family not supported (EAFNOSUPPORT)",
        _ => "another error",
    }
}
