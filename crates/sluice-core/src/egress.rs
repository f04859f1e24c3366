//! Packets out: sourced messages and handlers' answers become datagrams (contract sections 3 and 4).
//!
//! Theory. Both kinds of document share one path: parse, judge each entry by itself, queue what may go, and remember the
//! document until each of its entries has ended as sent or failed; only then its [`Completion`] comes out. Sending is
//! asynchronous because a socket fills up, so the queue is the Listener's and the I/O layer works it off in order:
//! packets for one remote leave in the order in which they came.

use crate::{
    Counters, Now, OwnEndpoints, canonical,
    format::Formatter,
    listener::Shared,
    message::{self, Element, Entry, RemoteField, Scalar},
    reason::Reason,
    session::PlainSessions,
    spec::ListenerSpec,
    tag::TagError,
    time,
};
use slab::Slab;
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

/// Largest UDP payload: 65,535 less the headers that count into the length (IPv4: RFC 791, RFC 768; in IPv6 the length
/// excludes the IP header, RFC 8200).
pub const PAYLOAD_LIMIT_V4: usize = 65_507;
/// See [`PAYLOAD_LIMIT_V4`].
pub const PAYLOAD_LIMIT_V6: usize = 65_527;

/// Where a document came from: an index into the Listener's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A PacketSource's message.
    Source(usize),
    /// The answer of a Destination's handler.
    Destination(usize),
}

/// A document to send.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Comes back in the [`Completion`].
    pub id: String,
    /// Who sends it.
    pub origin: Origin,
    /// When it was published (Unix milliseconds), if the source says so; ages count from here.
    pub published_ms: Option<u64>,
    /// `{"Messages": …}`, one flat entry, or `{"Replies": …}`.
    pub body: Vec<u8>,
    /// Every entry fails so, and nothing is sent.
    pub refusal: Option<(Reason, String)>,
}

/// An entry that was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The entry's place in its document; None: the document as a whole.
    pub index: Option<u32>,
    /// Why, as counted.
    pub reason: Reason,
    /// Why, for a person.
    pub detail: String,
}

/// A document of which every entry has ended: `entries == sent + duplicates + failures.len()`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Completion {
    pub id: String,
    pub origin: Origin,
    pub entries: u32,
    pub sent: u32,
    pub duplicates: u32,
    pub failures: Vec<Failure>,
    /// Size of the document, to give its room in the ring back.
    pub bytes: usize,
}

/// A datagram that waits for the socket.
#[derive(Debug)]
pub struct Outgoing {
    document: usize,
    index: u32,
    /// Unix milliseconds after which it is not sent.
    expires_ms: u64,
    /// The address to send from, where one is known.
    pub local: Option<IpAddr>,
    /// Where to.
    pub remote: SocketAddr,
    /// What.
    pub payload: Vec<u8>,
}

struct Document {
    completion: Completion,
    outstanding: u32,
}

/// One Listener's way out.
#[derive(Default)]
pub struct Egress {
    documents: Slab<Document>,
    outgoing: VecDeque<Outgoing>,
    completions: VecDeque<Completion>,
}

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

struct Approved {
    local: Option<IpAddr>,
    remote: SocketAddr,
    payload: Vec<u8>,
    expires_ms: u64,
}

type Refused = (Reason, String);

impl Egress {
    /// Takes a document: its entries are queued or fail, each by itself.
    pub fn submit(&mut self, around: &Surroundings, counters: &mut Counters, submission: Submission) {
        let Submission { id, origin, published_ms, body, refusal } = submission;
        if let Origin::Source(source) = origin {
            counters.sources[source].messages += 1;
        }
        let completion =
            Completion { id, origin, entries: 0, sent: 0, duplicates: 0, failures: Vec::new(), bytes: body.len() };
        let document = self.documents.insert(Document { completion, outstanding: 0 });
        let parsed = match origin {
            Origin::Source(_) => message::parse_message(&body),
            Origin::Destination(_) => message::parse_replies(&body),
        };
        match parsed {
            Err(detail) => {
                self.begin(counters, document);
                self.fail(counters, document, None, Reason::MalformedMessage, detail);
            }
            Ok(elements) => {
                for (index, element) in (0u32..).zip(elements) {
                    let verdict = match (element, &refusal) {
                        (element, _) if origin_tolerates(origin, &element) => continue,
                        (_, Some((reason, detail))) => Err((*reason, detail.clone())),
                        (Element::Entry(entry), None) => judge(around, origin, published_ms, &entry),
                        (Element::Null, None) => Err((Reason::MalformedMessage, "the entry is null".to_owned())),
                        (Element::Malformed(detail), None) => Err((Reason::MalformedMessage, detail)),
                    };
                    self.begin(counters, document);
                    match verdict {
                        Err((reason, detail)) => self.fail(counters, document, Some(index), reason, detail),
                        Ok(Approved { local, remote, payload, expires_ms }) => {
                            self.documents[document].outstanding += 1;
                            self.outgoing.push_back(Outgoing { document, index, expires_ms, local, remote, payload });
                        }
                    }
                }
            }
        }
        self.complete_if_ended(document);
    }

    /// The next datagram to send; those that have become too old by now fail here.
    pub fn next(&mut self, now: Now, counters: &mut Counters) -> Option<&Outgoing> {
        while self.outgoing.front()?.expires_ms <= now.unix_ms {
            self.ended(counters, Err((Reason::Expired, "it waited longer than its TTL to be sent".to_owned())));
        }
        self.outgoing.front()
    }

    /// What became of the datagram that `next` showed.
    pub fn ended(&mut self, counters: &mut Counters, outcome: Result<(), Refused>) {
        let Some(Outgoing { document, index, payload, .. }) = self.outgoing.pop_front() else { return };
        self.documents[document].outstanding -= 1;
        match outcome {
            Ok(()) => {
                let completion = &mut self.documents[document].completion;
                completion.sent += 1;
                let bytes = payload.len() as u64;
                counters.sent_packets += 1;
                counters.sent_bytes += bytes;
                match completion.origin {
                    Origin::Source(source) => {
                        counters.sources[source].sent += 1;
                        counters.sources[source].sent_bytes += bytes;
                    }
                    Origin::Destination(destination) => counters.destinations[destination].replies_sent += 1,
                }
            }
            Err((reason, detail)) => self.fail(counters, document, Some(index), reason, detail),
        }
        self.complete_if_ended(document);
    }

    /// The next document of which everything has ended.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Datagrams that wait.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    fn begin(&mut self, counters: &mut Counters, document: usize) {
        let completion = &mut self.documents[document].completion;
        completion.entries += 1;
        match completion.origin {
            Origin::Source(source) => counters.sources[source].entries += 1,
            Origin::Destination(destination) => counters.destinations[destination].replies += 1,
        }
    }

    fn fail(&mut self, counters: &mut Counters, document: usize, index: Option<u32>, reason: Reason, detail: String) {
        let completion = &mut self.documents[document].completion;
        completion.failures.push(Failure { index, reason, detail });
        let failed = match completion.origin {
            Origin::Source(source) => &mut counters.sources[source].failed,
            Origin::Destination(destination) => &mut counters.destinations[destination].replies_failed,
        };
        *failed.entry(reason).or_default() += 1;
    }

    fn complete_if_ended(&mut self, document: usize) {
        if self.documents[document].outstanding == 0 {
            self.completions.push_back(self.documents.remove(document).completion);
        }
    }
}

/// What handlers may answer without asking for a packet: null elements, no `Tag`, null `Data` (contract section 3).
fn origin_tolerates(origin: Origin, element: &Element) -> bool {
    match (origin, element) {
        (Origin::Source(_), _) | (_, Element::Malformed(_)) => false,
        (_, Element::Null) => true,
        (_, Element::Entry(entry)) => entry.tag.is_none() || entry.data.is_none(),
    }
}

/// Parse → validate → expiry → policy → format, in the order of contract section 4.3.
fn judge(around: &Surroundings, origin: Origin, published_ms: Option<u64>, entry: &Entry) -> Result<Approved, Refused> {
    let Scalar::Text(data) = &entry.data else {
        return Err((Reason::MalformedData, "Data is missing or not a string".to_owned()));
    };
    let formatter = match origin {
        Origin::Destination(destination) => around.spec.destinations[destination].formatter,
        Origin::Source(_) => formatter_of(entry)?,
    };
    let expires_ms = match origin {
        Origin::Source(source) => expiry(around, source, published_ms, entry)?,
        Origin::Destination(_) => u64::MAX,
    };
    let (local, remote) = match (&entry.tag, origin) {
        (Scalar::Text(tag), _) => by_tag(around, tag)?,
        (Scalar::Absent | Scalar::Null, Origin::Source(source)) => by_remote(around, source, &entry.remote)?,
        _ => return Err((Reason::InvalidTag, "Tag is not a string".to_owned())),
    };
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
        return Err((
            Reason::RemoteUnreachable,
            format!("the Listener is bound to {} and has no {family}", around.bound),
        ));
    }
    if expires_ms <= around.now.unix_ms {
        return Err((Reason::Expired, "it is older than its TTL".to_owned()));
    }
    let payload = formatter.read(data).map_err(|detail| (Reason::MalformedData, detail))?;
    let limit = if remote.is_ipv4() { PAYLOAD_LIMIT_V4 } else { PAYLOAD_LIMIT_V6 };
    if payload.len() > limit {
        let detail = format!("{} bytes; a datagram to {} carries at most {limit}", payload.len(), remote.ip());
        return Err((Reason::PayloadTooLarge, detail));
    }
    Ok(Approved { local, remote, payload, expires_ms })
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
    let address = around.shared.tag_keys.open(around.now, tag).map_err(|error| match error {
        TagError::Invalid => refused("the Tag is not one that this gateway made"),
        TagError::Expired => refused("the Tag has expired"),
    })?;
    if address.listener != around.spec.id || address.node != around.shared.node {
        return Err(refused("the Tag was made by another Listener"));
    }
    if address.local.port() != around.bound.port() {
        return Err(refused("the Listener's port has changed since the Tag was made"));
    }
    if address.remote.port() == 0 {
        return Err((Reason::RemoteDenied, "the packet came from port 0".to_owned()));
    }
    Ok((Some(address.local.ip()), address.remote))
}

fn by_remote(
    around: &Surroundings,
    source: usize,
    field: &RemoteField,
) -> Result<(Option<IpAddr>, SocketAddr), Refused> {
    let malformed = |detail: String| (Reason::MalformedRemote, detail);
    let RemoteField::Object { address, port, peer_key } = field else {
        return Err(malformed("Remote (or Tag) is missing or not an object".to_owned()));
    };
    let Scalar::Text(address) = address else {
        return Err(malformed("Remote.Address is missing or not a string".to_owned()));
    };
    let ip_and_zone = parse_address(address);
    let (ip, zone) = ip_and_zone.ok_or_else(|| malformed("Remote.Address is not an IP address".to_owned()))?;
    let port = match port {
        Scalar::Number(port) if port.fract() == 0.0 && (1.0..=65_535.0).contains(port) => *port as u16,
        _ => return Err(malformed("Remote.Port is not a whole number from 1 to 65535".to_owned())),
    };
    match peer_key {
        Scalar::Absent | Scalar::Null => {}
        Scalar::Text(key) if key.is_empty() => {}
        // Sending in the clear what was meant for a peer would be worse than not sending it.
        Scalar::Text(_) => {
            return Err((Reason::UnknownPeer, "Remote.PeerKey is set, but the Listener's protocol is udp".to_owned()));
        }
        _ => return Err(malformed("Remote.PeerKey is not a string".to_owned())),
    }
    let remote = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => canonical(SocketAddr::V6(SocketAddrV6::new(v6, port, 0, zone))),
    };
    let session = around.sessions.local_of(around.now, remote);
    if session.is_none()
        && let Some(detail) = around.spec.sources[source].egress_networks.refuse(remote.ip())
    {
        return Err((Reason::RemoteDenied, detail));
    }
    Ok((session, remote))
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
