//! What holds for every entry, whatever its session (contract sections 2 and 4.4): it is not stale, it goes to none of the
//! gateway's own Listeners, an answer goes to no address that only the gateway's surroundings have, and a Tag answers only
//! where it was made.

use crate::{
    Now, OwnEndpoints, policy,
    reason::{Reason, Refused},
    shared::Shared,
    spec::ListenerSpec,
    tag::TagError,
};
use std::net::SocketAddr;

/// Largest UDP payload: 65,535 less the headers that count into the length (IPv4: RFC 791, RFC 768; in IPv6 the length
/// excludes the IP header, RFC 8200).
pub const PAYLOAD_LIMIT_V4: usize = 65_507;
/// See [`PAYLOAD_LIMIT_V4`].
pub const PAYLOAD_LIMIT_V6: usize = 65_527;

/// What judging an entry needs to know, borrowed from the Listener for the length of one document.
pub struct Surroundings<'a> {
    /// The moment of the judgement.
    pub now: Now,
    /// The Listener's resource.
    pub spec: &'a ListenerSpec,
    /// The Listener's address and port as bound.
    pub bound: SocketAddr,
    /// Keys and names of the gateway.
    pub shared: &'a Shared,
    /// The gateway's own Listeners.
    pub own: &'a OwnEndpoints,
}

/// Refuses an entry that is older than its TTL.
pub fn in_time(around: &Surroundings, expires_ms: u64) -> Result<(), Refused> {
    match expires_ms <= around.now.unix_ms {
        true => Err((Reason::Expired, "it is older than its TTL".to_owned())),
        false => Ok(()),
    }
}

/// Judges an answer: a handler's, or one by a Tag in a message. Its remote may be anybody's invention.
pub fn permit_answer(around: &Surroundings, remote: SocketAddr) -> Result<(), Refused> {
    permit_remote(around, remote)?;
    match policy::refuse_answer(&around.spec.client_networks, &around.own.routes, remote.ip()) {
        Some(detail) => Err((Reason::AnswerRefused, detail)),
        None => Ok(()),
    }
}

/// True if a protocol that answers by itself may speak with `remote`: answers go there, or a PacketSource may send there.
#[inline]
pub fn may_converse(spec: &ListenerSpec, remote: SocketAddr) -> bool {
    let named = || spec.sources.iter().any(|source| !source.removed && source.egress_networks.names(remote.ip()));
    remote.port() != 0 && (policy::unanswered(&spec.client_networks, remote.ip()).is_none() || named())
}

/// Judges by the rules that hold for whatever leaves: never to port 0 or to an own Listener, and only where the socket
/// reaches.
pub fn permit_remote(around: &Surroundings, remote: SocketAddr) -> Result<(), Refused> {
    if remote.port() == 0 {
        return Err((Reason::RemoteDenied, format!("nothing can be sent to port 0 of {}", remote.ip())));
    }
    if around.own.contains(remote.ip(), remote.port()) {
        return Err((Reason::RemoteDenied, format!("{remote} is a Listener of this gateway")));
    }
    let reachable = match around.bound {
        SocketAddr::V4(_) => remote.is_ipv4(),
        SocketAddr::V6(bound) if around.spec.dual_stack && bound.ip().is_unspecified() => true,
        SocketAddr::V6(_) => remote.is_ipv6(),
    };
    if !reachable {
        let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
        let detail = format!("the Listener is bound to {} and has no {family}", around.bound);
        return Err((Reason::RemoteUnreachable, detail));
    }
    Ok(())
}

/// Why a Tag was not opened.
pub fn invalid_tag(error: TagError) -> Refused {
    let detail = match error {
        TagError::Invalid => "the Tag is not one that this gateway made",
        TagError::Expired => "the Tag has expired",
    };
    (Reason::InvalidTag, detail.to_owned())
}

/// A Tag answers only through the Listener and node that made it.
pub fn made_here(around: &Surroundings, listener: u32, node: u16) -> Result<(), Refused> {
    match listener == around.spec.id && node == around.shared.node {
        true => Ok(()),
        false => Err((Reason::InvalidTag, "the Tag was made by another Listener".to_owned())),
    }
}
