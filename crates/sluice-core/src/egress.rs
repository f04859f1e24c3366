//! Packets out: sourced messages and handlers' answers become datagrams (contract sections 3 and 4).
//!
//! Theory. Both kinds of document share one path: parse, judge each entry by itself, queue the packets that may leave.
//! The document is remembered until each of its entries has completed as sent, duplicate or failed. Only then its
//! [`Completion`] comes out.
//!
//! Sending is asynchronous, because pacing and a full socket take time. So the queue belongs to the Listener, and the
//! I/O layer works it off in order: packets for one remote leave in the order in which they came. A packet for a
//! WireGuard peer is sealed when it enters that queue. Until the peer has a session, it waits in the [`Lobby`].

use crate::{
    Counters, Now, OwnEndpoints,
    answers::Answers,
    coap::exchange::{Answer, Exchanges},
    document::{Completion, Failure, Origin, Submission},
    entry::{self, Read},
    event::{About, Event, Kinds},
    judge::{Surroundings, may_converse},
    lobby::{self, Lobby},
    message::{self, Element, Entry, Target},
    outgoing::{EntryRef, OneOf, Outgoing, Queue, RunLimit},
    reason::{Reason, Refused},
    scheduled::{Scheduled, WAITING_LIMIT},
    sender::Sender,
    session::{
        Departure, Session,
        wireguard::{Endpoint, HandshakeOutcome, Transmit},
    },
    shared::Shared,
    spec::{ListenerSpec, SourceSpec},
    time::SECOND,
};
use slab::Slab;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

/// Most bytes of packets that the `Remotes` of one message may ask for.
const SPREAD_LIMIT: usize = 64 << 20;
/// How long a handler's answer waits for its peer's session, in nanoseconds.
const REPLY_HOLD: u64 = 60 * SECOND;
/// Length of the queue from which on WireGuard's own datagrams are dropped: the protocol repeats those that matter.
const PROTOCOL_LIMIT: usize = 4_096;

/// What an outcome is of: a document, an entry of it, or one of the entry's `Remotes`.
#[derive(Clone, Copy)]
struct Place {
    document: usize,
    index: Option<u32>,
    remote: Option<u32>,
}

struct Document {
    completion: Completion,
    /// Entries that have not completed, and one more while the document is read.
    outstanding: u32,
    /// It was scheduled before: it is not to be put off again.
    due: bool,
    /// And should have left before now.
    overdue: bool,
}

/// The `Id` by which an entry is remembered: each of its `Remotes` by its own.
#[inline]
fn remembered<'e>(id: &'e str, one_of: &'e Option<Box<OneOf>>) -> &'e str {
    one_of.as_ref().and_then(|one| one.id.as_deref()).unwrap_or(id)
}

/// The sending side of one Listener.
pub struct Egress {
    documents: Slab<Document>,
    senders: Vec<Sender>,
    /// Paced entries by the moment at which they leave; the number keeps those of one moment in order.
    held: BTreeMap<(u64, u64), Outgoing>,
    held_so_far: u64,
    lobby: Lobby,
    /// Who was answered, and what came back.
    pub answers: Answers,
    /// What the gateway does of CoAP by itself, if it does.
    pub exchanges: Option<Exchanges>,
    outgoing: Queue,
    /// The protocol has put something into `outgoing` that [`judge_protocol`](Self::judge_protocol) has not seen.
    unjudged: bool,
    completions: VecDeque<Completion>,
    sent_ids: Vec<(usize, String)>,
    /// Kinds of events that somebody watches.
    pub watched: Kinds,
    events: Vec<Event>,
}

impl Egress {
    /// An egress for the PacketSources of `spec`.
    pub fn new(spec: &ListenerSpec) -> Egress {
        Egress {
            documents: Slab::new(),
            senders: spec.sources.iter().map(Sender::new).collect(),
            held: BTreeMap::new(),
            held_so_far: 0,
            lobby: Lobby::default(),
            answers: Answers::default(),
            exchanges: None,
            outgoing: Queue::default(),
            unjudged: false,
            completions: VecDeque::new(),
            sent_ids: Vec::new(),
            watched: Kinds::default(),
            events: Vec::new(),
        }
    }

    /// Changes PacketSource `index` from `before` (None: it is new) to `after`. Accepted entries are sent as they were
    /// judged.
    pub fn update(&mut self, index: usize, before: Option<&SourceSpec>, after: &SourceSpec) {
        match before {
            Some(before) => self.senders[index].update(before, after),
            None if index < self.senders.len() => self.senders[index] = Sender::new(after),
            None => self.senders.push(Sender::new(after)),
        }
    }

    /// Takes a document: its entries are queued or fail, each by itself.
    pub fn submit(
        &mut self,
        around: &Surroundings,
        session: &mut Session,
        counters: &mut Counters,
        submission: Submission,
    ) {
        let Submission { id, origin, published_ms, body, refusal, due } = submission;
        if let (Origin::Source(source), None) = (origin, &due) {
            counters.sources[source].messages += 1;
        }
        let (failures, scheduled) = (Vec::new(), Vec::new());
        let completion =
            Completion { id, origin, entries: 0, sent: 0, duplicates: 0, failures, scheduled, bytes: body.len() };
        let overdue = due.as_ref().is_some_and(|due| due.overdue);
        let document = self.documents.insert(Document { completion, outstanding: 1, due: due.is_some(), overdue });
        let first = due.as_ref().map_or(0, |due| due.index);
        if let (Origin::Source(source), Some(due)) = (origin, due) {
            due.ids.iter().for_each(|id| self.senders[source].window.release(id));
        }
        let parsed = match origin {
            Origin::Source(_) => message::parse_message(&body),
            Origin::Destination(_) => message::parse_replies(&body),
        };
        match parsed {
            Err(detail) => {
                self.begin(counters, document, 1);
                self.fail(counters, Place { document, index: None, remote: None }, (Reason::MalformedMessage, detail));
            }
            Ok(elements) => {
                let mut spread = SPREAD_LIMIT;
                for (index, element) in (first..).zip(elements) {
                    if entry::tolerates(origin, &element) {
                        continue;
                    }
                    let place = Place { document, index: Some(index), remote: None };
                    if let Some((source, entry, targets)) = entry::remotes(origin, &element) {
                        let count = targets.iter().filter(|target| self.concerns(document, target)).count();
                        self.begin(counters, document, count as u32);
                        let common = match &refusal {
                            Some(refused) => Err(refused.clone()),
                            None => entry::read_common(around, source, published_ms, entry),
                        };
                        self.spread(around, session, counters, place, (entry, common, targets), &mut spread);
                        continue;
                    }
                    self.begin(counters, document, 1);
                    let outcome = match &refusal {
                        Some(refused) => Err(refused.clone()),
                        None => entry::read(around, session, self.exchanges.as_mut(), origin, published_ms, &element)
                            .and_then(|read| self.admit(around, session, counters, place, read)),
                    };
                    if let Err(refused) = outcome {
                        let entry = if let Element::Entry(entry) = &element { Some(entry) } else { None };
                        self.fail_or_put_off(around, counters, place, entry, None, refused);
                    }
                }
            }
        }
        self.documents[document].outstanding -= 1;
        if self.documents[document].due {
            around.shared.waiting.leave(u64::from(self.documents[document].completion.entries));
        }
        self.complete_if_ended(document);
    }

    /// Takes each of an entry's `Remotes` for an entry of its own; `left` is what their packets may still have in bytes.
    #[allow(clippy::too_many_arguments)] // half of them is what every entry needs
    fn spread(
        &mut self,
        around: &Surroundings,
        session: &mut Session,
        counters: &mut Counters,
        place: Place,
        (entry, common, targets): (&Entry, Result<entry::Common, Refused>, &[Target]),
        left: &mut usize,
    ) {
        for (remote, target) in (0u32..).zip(targets) {
            if !self.concerns(place.document, target) {
                continue;
            }
            let place = Place { remote: Some(remote), ..place };
            let read = match &common {
                Ok(common) => common.read(around, session, self.exchanges.as_mut(), remote, target),
                Err(refused) => Err(refused.clone()),
            };
            let outcome = read.and_then(|read| {
                *left = left.checked_sub(read.payload.len()).ok_or_else(|| {
                    let detail = format!("the Remotes of a message ask for more than {SPREAD_LIMIT} bytes in all");
                    (Reason::PayloadTooLarge, detail)
                })?;
                self.admit(around, session, counters, place, read)
            });
            if let Err(refused) = outcome {
                self.fail_or_put_off(around, counters, place, Some(entry), Some(target), refused);
            }
        }
    }

    /// False for the places of `Remotes` that are not meant any more, in a document that was scheduled before.
    fn concerns(&self, document: usize, target: &Target) -> bool {
        !self.documents[document].due || *target != Target::default()
    }

    /// Fails an entry, unless it has until its `SendAt` for what it lacks.
    fn fail_or_put_off(
        &mut self,
        around: &Surroundings,
        counters: &mut Counters,
        place: Place,
        entry: Option<&Entry>,
        target: Option<&Target>,
        refused: Refused,
    ) {
        let put_off = match (entry, self.documents[place.document].completion.origin) {
            (Some(entry), Origin::Source(source)) if !self.documents[place.document].due => {
                entry::put_off(around, entry, target, refused.0).map(|(at, id)| (source, at, id))
            }
            _ => None,
        };
        let outcome = match put_off {
            Some((source, at, id)) => self.put_off(around, counters, place, source, at, id),
            None => Err(refused),
        };
        if let Err(refused) = outcome {
            self.fail(counters, place, refused);
        }
    }

    /// Leaves an entry to whoever submitted it until its `SendAt`.
    fn put_off(
        &mut self,
        around: &Surroundings,
        counters: &mut Counters,
        place: Place,
        source: usize,
        at_ms: u64,
        id: Option<String>,
    ) -> Result<(), Refused> {
        let window = &mut self.senders[source].window;
        let completion = &mut self.documents[place.document].completion;
        let key = match &id {
            None => None,
            Some(id) => match window.begin(around.now, id) {
                Some(key) => Some(key),
                None => {
                    completion.duplicates += 1;
                    counters.sources[source].duplicates += 1;
                    return Ok(());
                }
            },
        };
        if !around.shared.waiting.enter() {
            if let Some(key) = key {
                window.end(around.now, key, false);
            }
            return Err((Reason::RateLimited, format!("{WAITING_LIMIT} entries wait already for their SendAt")));
        }
        counters.sources[source].scheduled += 1;
        let index = place.index.unwrap_or(0);
        completion.scheduled.push(Scheduled { index, remote_index: place.remote, at_ms, id });
        Ok(())
    }

    /// Takes an entry through de-duplication, expiry, policy and pacing (contract section 4.3) into the queue.
    fn admit(
        &mut self,
        around: &Surroundings,
        session: &mut Session,
        counters: &mut Counters,
        place: Place,
        read: Read,
    ) -> Result<(), Refused> {
        let Read { id, tagged, to, payload, bytes, expires_ms, later, one_of, answer } = read;
        let (now, document, index) = (around.now, place.document, place.index.unwrap_or(0));
        // A payload that was wrapped for a tunnel ends in the application's data.
        let data = &payload[payload.len() - bytes..];
        let entry = |id, one_of, hold: u64| {
            let hold_until = now.mono.saturating_add(hold);
            EntryRef { document, index, id, one_of, bytes, hold_until }
        };
        let Origin::Source(source) = self.documents[document].completion.origin else {
            let local = session.permit_answer(around, &to)?;
            self.answers.permit(now, &around.shared.answers, &to, session.remote_of(&to), data)?;
            self.documents[document].outstanding += 1;
            self.answered(now, answer);
            let outgoing = Outgoing::new(entry(None, None, REPLY_HOLD), to, local, expires_ms, payload);
            self.leave(now, session, counters, outgoing);
            return Ok(());
        };
        if let (Some(at_ms), false) = (later, self.documents[document].due) {
            let id = id.map(|id| remembered(&id, &one_of).to_owned());
            return self.put_off(around, counters, place, source, at_ms, id);
        }
        let patience = if self.documents[document].overdue { u64::MAX } else { self.senders[source].hold };
        let sender = &mut self.senders[source];
        let id = match id {
            None => None,
            Some(id) => match sender.window.begin(now, remembered(&id, &one_of)) {
                Some(key) => Some((id, key)),
                None => {
                    self.documents[document].completion.duplicates += 1;
                    counters.sources[source].duplicates += 1;
                    return Ok(());
                }
            },
        };
        // The entry must leave before the millisecond in which it expires.
        let ttl = expires_ms.saturating_sub(now.unix_ms).saturating_sub(1).saturating_mul(1_000_000);
        let hold = sender.hold.min(ttl);
        let placed = session.permit(around, source, tagged, &to, expires_ms).and_then(|local| {
            if tagged {
                self.answers.permit(now, &around.shared.answers, &to, session.remote_of(&to), data)?;
            }
            let leaves = sender.reserve(now, &to, patience.min(ttl), self.held.len())?;
            Ok((leaves, local))
        });
        let (leaves, local) = match placed {
            Ok(placed) => placed,
            Err(refused) => {
                if let Some((_, key)) = id {
                    sender.window.end(now, key, false);
                }
                return Err(refused);
            }
        };
        self.documents[document].outstanding += 1;
        self.answered(now, answer);
        let outgoing = Outgoing::new(entry(id, one_of, hold), to, local, expires_ms, payload);
        if leaves <= now.mono {
            self.leave(now, session, counters, outgoing);
        } else {
            self.held.insert((leaves, self.held_so_far), outgoing);
            self.held_so_far += 1;
        }
        Ok(())
    }

    #[inline]
    fn answered(&mut self, now: Now, answer: Option<Box<Answer>>) {
        if let (Some(exchanges), Some(answer)) = (&mut self.exchanges, answer) {
            exchanges.answered(now, *answer);
        }
    }

    /// Sends what the gateway itself has to say in CoAP, where an answer might go.
    pub fn converse(
        &mut self,
        now: Now,
        spec: &ListenerSpec,
        shared: &Shared,
        session: &mut Session,
        counters: &mut Counters,
    ) {
        while let Some((way, datagram)) = self.exchanges.as_mut().and_then(Exchanges::poll_transmit) {
            let remote = session.remote_of(&way.to).filter(|remote| may_converse(spec, *remote));
            let leaves = self.outgoing.len() < PROTOCOL_LIMIT
                && remote.is_some()
                && self.answers.permit(now, &shared.answers, &way.to, remote, &datagram).is_ok();
            match session.wrap(&way, datagram) {
                Ok((to, payload)) if leaves => {
                    self.unjudged = true;
                    self.leave(now, session, counters, Outgoing::unasked(to, payload));
                }
                _ => self.exchanges.iter_mut().for_each(Exchanges::not_sent),
            }
        }
        counters.coap = self.exchanges.as_ref().map(|exchanges| exchanges.counters().clone());
    }

    /// Takes a packet through the session into the queue for the socket, or lets it wait for its peer's handshake.
    fn leave(&mut self, now: Now, session: &mut Session, counters: &mut Counters, mut outgoing: Outgoing) {
        let refused = match session.seal(now, &mut outgoing) {
            Ok(Departure::Now) => return self.outgoing.push(outgoing),
            Ok(Departure::AfterHandshake(peer)) if self.lobby.has_room(&peer) => {
                let until = outgoing.entry.as_ref().map_or(now.mono, |entry| entry.hold_until);
                return self.lobby.enter(peer, until, outgoing);
            }
            Ok(Departure::AfterHandshake(_)) => {
                (Reason::NoSession, format!("{} packets wait already for the peer's handshake", lobby::PER_PEER))
            }
            Err(refused) => refused,
        };
        self.conclude(now, counters, outgoing, Err(refused));
    }

    /// Ends the wait of a peer's packets for its handshake: they leave, or fail.
    pub fn settle(&mut self, now: Now, session: &mut Session, counters: &mut Counters, outcome: HandshakeOutcome) {
        let (peer, refused) = match outcome {
            HandshakeOutcome::Ready(peer) => (peer, None),
            HandshakeOutcome::GaveUp(peer) => (peer, Some((Reason::NoSession, "the peer does not answer".to_owned()))),
            HandshakeOutcome::Gone(peer) => (peer, Some((Reason::UnknownPeer, "the peer was removed".to_owned()))),
        };
        for outgoing in self.lobby.take(&peer) {
            match &refused {
                None => self.leave(now, session, counters, outgoing),
                Some(refused) => self.conclude(now, counters, outgoing, Err(refused.clone())),
            }
        }
    }

    /// Queues a datagram that WireGuard itself sends.
    pub fn transmit(&mut self, Transmit { endpoint: Endpoint { remote, local }, datagram: payload }: Transmit) {
        if self.outgoing.len() < PROTOCOL_LIMIT {
            self.outgoing.push(Outgoing {
                entry: None,
                peer: None,
                expires_ms: u64::MAX,
                local,
                remote,
                payload: payload.into(),
            });
            self.unjudged = true;
        }
    }

    /// Drops what the protocol would send to an own Listener, or to all of a network: whoever forges a source could have it say anything there.
    pub fn judge_protocol(&mut self, own: &OwnEndpoints) {
        if std::mem::take(&mut self.unjudged) {
            let leaves = |at: SocketAddr| !own.contains(at.ip(), at.port()) && !own.routes.is_broadcast(at.ip());
            self.outgoing.retain_protocol(leaves);
        }
    }

    /// Lets paced packets leave whose time has come, and fails packets that have waited too long for a session.
    pub fn release(&mut self, now: Now, session: &mut Session, counters: &mut Counters) {
        while let Some(entry) = self.held.first_entry()
            && entry.key().0 <= now.mono
        {
            let outgoing = entry.remove();
            self.leave(now, session, counters, outgoing);
        }
        while let Some(outgoing) = self.lobby.expire(now) {
            let detail = "the peer has not answered within HoldSeconds or the entry's TTL".to_owned();
            self.conclude(now, counters, outgoing, Err((Reason::NoSession, detail)));
        }
    }

    /// When [`release`](Self::release) has something to do.
    pub fn poll_timeout(&self) -> Option<u64> {
        let held = self.held.first_key_value().map(|(&(leaves, _), _)| leaves);
        let exchanges = self.exchanges.as_ref().and_then(Exchanges::poll_timeout);
        held.into_iter().chain(self.lobby.deadline()).chain(exchanges).min()
    }

    /// Lets every held packet leave now: the Listener is about to be closed. Packets for WireGuard peers fail, and
    /// nobody misses the protocol's own.
    pub fn release_all(&mut self, now: Now, counters: &mut Counters) {
        self.outgoing.retain_protocol(|_| false);
        let held = std::mem::take(&mut self.held).into_values();
        let (peers, others): (Vec<_>, Vec<_>) = held.partition(|outgoing| outgoing.peer.is_some());
        others.into_iter().for_each(|outgoing| self.outgoing.push(outgoing));
        for outgoing in peers.into_iter().chain(self.lobby.clear()) {
            let detail = "the gateway closed the Listener before it could be sent".to_owned();
            self.conclude(now, counters, outgoing, Err((Reason::SendFailed, detail)));
        }
    }

    /// The next datagram to send. Datagrams that have become too old fail here.
    pub fn next(&mut self, now: Now, counters: &mut Counters) -> Option<&Outgoing> {
        while self.outgoing.iter().next()?.expires_ms <= now.unix_ms {
            let detail = "it waited longer than its TTL to be sent".to_owned();
            self.ended(now, counters, Err((Reason::Expired, detail)));
        }
        self.outgoing.iter().next()
    }

    /// How many datagrams from the front on may leave as one run within `limit` ([`Queue::run`]).
    pub fn run(&self, now: Now, limit: RunLimit) -> usize {
        self.outgoing.run(now, limit)
    }

    /// How many datagrams from the front on may leave by one call, at most `limit` ([`Queue::mixed`]).
    pub fn mixed(&self, now: Now, limit: usize) -> usize {
        self.outgoing.mixed(now, limit)
    }

    /// The datagrams that wait for the socket, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Outgoing> {
        self.outgoing.iter()
    }

    /// Takes the datagram in front off the queue, and reports what became of it.
    pub fn ended(&mut self, now: Now, counters: &mut Counters, outcome: Result<(), Refused>) {
        if let Some(outgoing) = self.outgoing.pop() {
            self.conclude(now, counters, outgoing, outcome);
        }
    }

    /// Reports what became of a packet: to its document, the counters, the window of `Id`s and whoever watches.
    fn conclude(&mut self, now: Now, counters: &mut Counters, outgoing: Outgoing, outcome: Result<(), Refused>) {
        let remote = outgoing.remote;
        let Some(EntryRef { document, index, id, one_of, bytes, .. }) = outgoing.entry else {
            return self.conclude_protocol(now, counters, remote, outcome);
        };
        let remote_index = one_of.as_ref().map(|one| one.index);
        let Document { completion, outstanding, .. } = &mut self.documents[document];
        *outstanding -= 1;
        if let (Origin::Source(source), Some((_, key))) = (completion.origin, &id) {
            self.senders[source].window.end(now, *key, outcome.is_ok());
        }
        match outcome {
            Ok(()) => {
                completion.sent += 1;
                counters.sent_packets += 1;
                counters.sent_bytes += bytes as u64;
                let kind = match completion.origin {
                    Origin::Source(source) => {
                        counters.sources[source].sent += 1;
                        counters.sources[source].sent_bytes += bytes as u64;
                        Kinds::PACKET_SOURCED
                    }
                    Origin::Destination(destination) => {
                        counters.destinations[destination].replies_sent += 1;
                        counters.destinations[destination].replies_sent_bytes += bytes as u64;
                        Kinds::REPLY_SENT
                    }
                };
                let id = id.map(|(id, _)| id);
                if self.watched.meets(kind) {
                    let (origin, document) = (completion.origin, completion.id.clone());
                    self.events.push(Event {
                        kind,
                        at_ms: now.unix_ms,
                        remote: Some(remote),
                        bytes: Some(bytes),
                        about: About::Sent { origin, document, index, remote_index, id: id.clone() },
                    });
                }
                if let (Origin::Source(source), Some(id)) = (completion.origin, id) {
                    self.sent_ids.push((source, one_of.and_then(|one| one.id).unwrap_or(id)));
                }
            }
            Err(refused) => self.fail(counters, Place { document, index: Some(index), remote: remote_index }, refused),
        }
        self.complete_if_ended(document);
    }

    /// Counts and reports what was not sent of the protocol's own: no document is told of it.
    fn conclude_protocol(
        &mut self,
        now: Now,
        counters: &mut Counters,
        remote: SocketAddr,
        outcome: Result<(), Refused>,
    ) {
        let Err((reason, detail)) = outcome else { return };
        *counters.protocol_failed.entry(reason).or_default() += 1;
        let kind = Kinds::PROTOCOL_SEND_FAILED;
        if self.watched.meets(kind) {
            let about = About::ProtocolFailed(reason, detail);
            self.events.push(Event { kind, at_ms: now.unix_ms, remote: Some(remote), bytes: None, about });
        }
    }

    /// Remembers that PacketSource `source` sent `id` before this start, `ago` nanoseconds ago.
    pub fn remember(&mut self, now: Now, source: usize, id: &str, ago: u64) {
        if let Some(sender) = self.senders.get_mut(source) {
            sender.window.remember(now, id, ago);
        }
    }

    /// PacketSource `source` has put off `id` to its `SendAt` before this start.
    pub fn expect(&mut self, source: usize, id: &str) {
        if let Some(sender) = self.senders.get_mut(source) {
            sender.window.expect(id);
        }
    }

    /// The next document whose entries have all completed.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Takes the PacketSource and `Id` of each entry that was sent since the last call, whether or not its document has
    /// completed.
    pub fn take_sent_ids(&mut self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.sent_ids)
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Datagrams that wait for the socket.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Datagrams that wait for their time, or for a session.
    pub fn held(&self) -> usize {
        self.held.len() + self.lobby.len()
    }

    fn begin(&mut self, counters: &mut Counters, document: usize, entries: u32) {
        let Document { completion, due, .. } = &mut self.documents[document];
        completion.entries += entries;
        if *due {
            return; // counted when it was put off
        }
        match completion.origin {
            Origin::Source(source) => counters.sources[source].entries += u64::from(entries),
            Origin::Destination(destination) => counters.destinations[destination].replies += u64::from(entries),
        }
    }

    fn fail(&mut self, counters: &mut Counters, place: Place, (reason, detail): Refused) {
        let completion = &mut self.documents[place.document].completion;
        completion.failures.push(Failure { index: place.index, remote_index: place.remote, reason, detail });
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
