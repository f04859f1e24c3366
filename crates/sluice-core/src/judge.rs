//! What an entry asks for, and whether it may have it (contract sections 3, 4.1 and 4.4).
//!
//! Three steps, in the contract's order: [`read`] turns JSON into a datagram or names what is malformed; then, after
//! de-duplication, [`permit`] checks expiry and policy. Answers of handlers need no permission beyond the last rule: never
//! to one of the gateway's own Listeners. What is for the peers of a tunnel is judged in `tunnel.rs`.

use crate::{
    Now, OwnEndpoints,
    address::{address_of, malformed_remote},
    document::Origin,
    format::Formatter,
    message::{Element, Entry, RemoteField, Scalar},
    outgoing::To,
    reason::{Reason, Refused},
    session::PlainSessions,
    shared::Shared,
    spec::ListenerSpec,
    tag::TagError,
    time,
    tunnel::Tunnels,
};
use std::net::{IpAddr, SocketAddr};

/// Largest UDP payload: 65,535 less the headers that count into the length (IPv4: RFC 791, RFC 768; in IPv6 the length
/// excludes the IP header, RFC 8200).
pub const PAYLOAD_LIMIT_V4: usize = 65_507;
/// See [`PAYLOAD_LIMIT_V4`].
pub const PAYLOAD_LIMIT_V6: usize = 65_527;
/// Longest `Id` in bytes: it is kept in a journal and shown in events.
const ID_LIMIT: usize = 256;

/// What judging an entry needs to know, borrowed from the Listener for the length of one document.
pub struct Surroundings<'a> {
    /// The moment.
    pub now: Now,
    /// The Listener's resource.
    pub spec: &'a ListenerSpec,
    /// Its address and port as bound.
    pub bound: SocketAddr,
    /// Keys and names of the gateway.
    pub shared: &'a Shared,
    /// Remotes that have spoken lately.
    pub sessions: &'a PlainSessions,
    /// The gateway's own Listeners.
    pub own: &'a OwnEndpoints,
}

/// A well-formed entry.
pub struct Read {
    /// For de-duplication.
    pub id: Option<String>,
    /// The address came from a Tag.
    pub tagged: bool,
    /// Where to.
    pub to: To,
    /// What: for a peer, its plaintext.
    pub payload: Vec<u8>,
    /// Size of the application's data.
    pub bytes: usize,
    /// Unix milliseconds after which it is not sent.
    pub expires_ms: u64,
}

/// What handlers may answer without asking for a packet: null elements, no `Tag`, null `Data` (contract section 3).
pub fn tolerates(origin: Origin, element: &Element) -> bool {
    match (origin, element) {
        (Origin::Source(_), _) | (_, Element::Malformed(_)) => false,
        (_, Element::Null) => true,
        (_, Element::Entry(entry)) => entry.tag.is_none() || entry.data.is_none(),
    }
}

/// Parse and validate.
pub fn read(
    around: &Surroundings,
    tunnels: Option<&Tunnels>,
    origin: Origin,
    published_ms: Option<u64>,
    element: &Element,
) -> Result<Read, Refused> {
    let entry = match element {
        Element::Entry(entry) => entry,
        Element::Null => return Err((Reason::MalformedMessage, "the entry is null".to_owned())),
        Element::Malformed(detail) => return Err((Reason::MalformedMessage, detail.clone())),
    };
    let Scalar::Text(data) = &entry.data else {
        return Err((Reason::MalformedData, "Data is missing or not a string".to_owned()));
    };
    let (formatter, expires_ms, id) = match origin {
        Origin::Destination(index) => (around.spec.destinations[index].formatter, u64::MAX, None),
        Origin::Source(index) => (formatter_of(entry)?, expiry(around, index, published_ms, entry)?, id_of(entry)?),
    };
    let tagged = !entry.tag.is_none();
    let done = |to, payload, bytes| Ok(Read { id, tagged, to, payload, bytes, expires_ms });
    if let Some(tunnels) = tunnels {
        let (to, inner) = match tag_of(entry)? {
            Some(tag) => tunnels.by_tag(around, tag)?,
            None => tunnels.by_key(entry)?,
        };
        let data = formatter.read(data).map_err(malformed_data)?;
        let bytes = data.len();
        let (to, payload) = tunnels.wrap(to, inner, data)?;
        return done(To::Peer(to), payload, bytes);
    }
    let (local, remote) = match tag_of(entry)? {
        Some(tag) => by_tag(around, tag)?,
        None => (None, remote_of(&entry.remote)?),
    };
    let payload = formatter.read(data).map_err(malformed_data)?;
    let limit = if remote.is_ipv4() { PAYLOAD_LIMIT_V4 } else { PAYLOAD_LIMIT_V6 };
    if payload.len() > limit {
        let detail = format!("{} bytes; a datagram to {} carries at most {limit}", payload.len(), remote.ip());
        return Err((Reason::PayloadTooLarge, detail));
    }
    let bytes = payload.len();
    done(To::Remote { local, remote }, payload, bytes)
}

fn malformed_data(detail: String) -> Refused {
    (Reason::MalformedData, detail)
}

fn tag_of<'a>(entry: &'a Entry) -> Result<Option<&'a str>, Refused> {
    match &entry.tag {
        Scalar::Absent | Scalar::Null => Ok(None),
        Scalar::Text(tag) => Ok(Some(tag)),
        _ => Err((Reason::InvalidTag, "Tag is not a string".to_owned())),
    }
}

/// Expiry and egress policy of a sourced entry. Yields the address that its remote last spoke to, if it has a session.
pub fn permit(
    around: &Surroundings,
    source: usize,
    tagged: bool,
    remote: SocketAddr,
    expires_ms: u64,
) -> Result<Option<IpAddr>, Refused> {
    in_time(around, expires_ms)?;
    let source = &around.spec.sources[source];
    let session = around.sessions.local_of(around.now, remote);
    if session.is_none()
        && !tagged
        && let Some(detail) = source.egress_networks.refuse(remote.ip())
    {
        return Err((Reason::RemoteDenied, detail));
    }
    permit_answer(around, remote)?;
    if session.is_none() && source.require_session {
        return Err((Reason::NoSession, format!("{remote} has not spoken to the Listener lately")));
    }
    Ok(session)
}

/// It is not stale.
pub fn in_time(around: &Surroundings, expires_ms: u64) -> Result<(), Refused> {
    match expires_ms <= around.now.unix_ms {
        true => Err((Reason::Expired, "it is older than its TTL".to_owned())),
        false => Ok(()),
    }
}

/// What holds for Tags too: never to an own Listener, and only where the socket reaches.
pub fn permit_answer(around: &Surroundings, remote: SocketAddr) -> Result<(), Refused> {
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

fn id_of(entry: &Entry) -> Result<Option<String>, Refused> {
    match &entry.id {
        Scalar::Absent | Scalar::Null => Ok(None),
        Scalar::Text(id) if (1..=ID_LIMIT).contains(&id.len()) => Ok(Some(id.clone().into_owned())),
        _ => Err((Reason::MalformedMessage, format!("Id is not a string of 1 to {ID_LIMIT} bytes"))),
    }
}

fn formatter_of(entry: &Entry) -> Result<Formatter, Refused> {
    let unknown = || (Reason::MalformedData, "Formatter is none of base64, hex, utf8, ascii".to_owned());
    match &entry.formatter {
        Scalar::Absent | Scalar::Null => Ok(Formatter::default()),
        Scalar::Text(name) => Formatter::from_name(name).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

/// The Unix millisecond at which an entry becomes stale: the earlier of its TTL (or the source's default) and `ExpiresAt`.
fn expiry(around: &Surroundings, source: usize, published_ms: Option<u64>, entry: &Entry) -> Result<u64, Refused> {
    let ttl = match &entry.ttl_seconds {
        Scalar::Absent | Scalar::Null => around.spec.sources[source].default_ttl_seconds,
        Scalar::Number(seconds) if *seconds >= 0.0 => Some(*seconds),
        _ => return Err((Reason::MalformedMessage, "TtlSeconds is not a number of at least 0".to_owned())),
    };
    let born = published_ms.unwrap_or(around.now.unix_ms);
    let by_ttl = ttl.map_or(u64::MAX, |seconds| born.saturating_add(time::nanos(seconds) / 1_000_000));
    let at = match &entry.expires_at {
        Scalar::Absent | Scalar::Null => u64::MAX,
        Scalar::Text(text) => time::parse_rfc3339(text).ok_or_else(|| {
            (Reason::MalformedMessage, "ExpiresAt is not a time such as 2026-06-09T10:00:00Z".to_owned())
        })?,
        _ => return Err((Reason::MalformedMessage, "ExpiresAt is not a string".to_owned())),
    };
    Ok(by_ttl.min(at))
}

fn by_tag(around: &Surroundings, tag: &str) -> Result<(Option<IpAddr>, SocketAddr), Refused> {
    let refused = |detail: &str| (Reason::InvalidTag, detail.to_owned());
    let address = around.shared.tag_keys.open(around.now, tag).map_err(invalid_tag)?;
    made_here(around, address.listener, address.node)?;
    if address.local.port() != around.bound.port() {
        return Err(refused("the Listener's port has changed since the Tag was made"));
    }
    if address.remote.port() == 0 {
        return Err((Reason::RemoteDenied, "the packet came from port 0".to_owned()));
    }
    Ok((Some(address.local.ip()), address.remote))
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

fn remote_of(field: &RemoteField) -> Result<SocketAddr, Refused> {
    let RemoteField::Object { address, port, peer_key } = field else {
        return Err(malformed_remote("Remote (or Tag) is missing or not an object"));
    };
    let remote = address_of(address, port)?;
    match peer_key {
        Scalar::Absent | Scalar::Null => {}
        Scalar::Text(key) if key.is_empty() => {}
        // Sending in the clear what was meant for a peer would be worse than not sending it.
        Scalar::Text(_) => {
            return Err((Reason::UnknownPeer, "Remote.PeerKey is set, but the Listener's protocol is udp".to_owned()));
        }
        _ => return Err(malformed_remote("Remote.PeerKey is not a string")),
    }
    Ok(remote)
}
