//! One Listener as a state machine.

mod unread;

pub use unread::Unread;

use crate::{
    Batch, Completion, Counters, Now, Outgoing, OwnEndpoints, RunLimit, Submission,
    batch::Batcher,
    brex::Budget,
    coap::exchange::{CoapCounters, Exchanges},
    counters::{DestinationCounters, SourceCounters},
    egress::Egress,
    event::{About, Event, Kinds},
    format::{Formatter, View},
    intake::{Intake, Lots, Pushed},
    judge::{Surroundings, may_converse},
    pacing::Recipient,
    packet::PacketWriter,
    reason::{Dropped, Reason, Rejected},
    session::{
        Arrived, Delivery, Session, WireGuard,
        wireguard::{PeerId, PeerStatus, PublicKey, Secret, Stamps},
    },
    shared::Shared,
    spec::{DestinationSpec, ListenerSpec, PeerMemory, PeerSpec},
    tag::{ReturnAddress, TagSealer},
};
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// One Listener: datagrams, messages and time in; datagrams, batches and outcomes out.
///
/// # Calling contract
///
/// - Feed it with [`handle_datagram`](Self::handle_datagram), [`submit`](Self::submit) and, once
///   [`poll_timeout`](Self::poll_timeout) has passed, [`handle_timeout`](Self::handle_timeout). `now` never goes back.
/// - After each call (or after several, for a whole round of received packets) drain
///   [`poll_batch`](Self::poll_batch), [`next_outgoing`](Self::next_outgoing) with [`sent`](Self::sent) or
///   [`not_sent`](Self::not_sent), [`take_sent_ids`](Self::take_sent_ids), [`poll_completion`](Self::poll_completion) and,
///   if it is [watched](Self::watch), [`take_events`](Self::take_events).
/// - Datagrams from the network are counted, and are never an error. Each document of an application ends in a
///   [`Completion`].
/// - It does no I/O, reads no clock, and holds no more than it was given: the caller bounds what it submits
///   (by [`queued`](Self::queued)) and where it keeps batches.
pub struct Listener {
    spec: ListenerSpec,
    shared: Arc<Shared>,
    bound: SocketAddr,
    /// Random; what begins later begins somewhere else.
    lot: u32,
    sealer: TagSealer,
    session: Session,
    /// The plaintext that the session has just opened.
    plaintext: Vec<u8>,
    writer: PacketWriter,
    batchers: Vec<Batcher>,
    intakes: Vec<Intake>,
    /// The part of what arrives that is read, by lot.
    read: f64,
    lots: Lots,
    ready: VecDeque<(usize, Batch)>,
    egress: Egress,
    counters: Counters,
    events: Vec<Event>,
}

impl Listener {
    /// A Listener that was bound to `bound`. `salt`: fresh random bytes, see [`crate::tag`].
    pub fn new(mut spec: ListenerSpec, shared: Arc<Shared>, bound: SocketAddr, salt: [u8; 6]) -> Listener {
        let mut session = Session::new(&mut spec);
        if let Some(wg) = session.wire_guard_mut() {
            wg.share_stamps(&shared.stamps);
        }
        let mut egress = Egress::new(&spec);
        let [a, b, c, d, ..] = salt;
        let lot = u32::from_be_bytes([a, b, c, d]);
        egress.exchanges = spec.coap.as_ref().map(|coap| Exchanges::new(coap, lot));
        Listener {
            lot,
            sealer: TagSealer::new(salt),
            writer: PacketWriter::new(&spec.domain, bound.port(), session.protocol(), &shared.region),
            plaintext: Vec::new(),
            batchers: spec.destinations.iter().map(Batcher::new).collect(),
            intakes: spec.destinations.iter().map(|_| Intake::default()).collect(),
            read: 1.0,
            lots: Lots::default(),
            ready: VecDeque::new(),
            egress,
            events: Vec::new(),
            counters: Counters {
                destinations: spec.destinations.iter().map(|d| DestinationCounters::new(&d.name)).collect(),
                sources: spec.sources.iter().map(|s| SourceCounters::new(&s.name)).collect(),
                wire_guard: session.wire_guard_counters(),
                coap: spec.coap.as_ref().map(|_| CoapCounters::default()),
                ..Counters::default()
            },
            session,
            spec,
            shared,
            bound,
        }
    }

    /// A datagram from `remote` arrived at `local`; both canonical ([`crate::canonical`]). One with a loopback address as
    /// `remote` came over the loopback interface: the caller counts others as [`Rejected::RefusedNetwork`].
    pub fn handle_datagram(&mut self, now: Now, local: IpAddr, remote: SocketAddr, datagram: &[u8]) {
        self.counters.received_packets += 1;
        self.counters.received_bytes += datagram.len() as u64;
        let answers_itself = self.session.wire_guard().is_some();
        if !self.spec.client_networks.contains(remote.ip()) || answers_itself && !may_converse(&self.spec, remote) {
            self.reject(now, remote, datagram.len(), Rejected::RefusedNetwork);
            return;
        }
        let mut plaintext = std::mem::take(&mut self.plaintext);
        let arrived = self.session.receive(now, local, remote, datagram, &mut plaintext);
        self.settle(now);
        if let Some((key, clock)) = self.session.take_clock_report()
            && self.egress.watched.meets(Kinds::PEER_CLOCK)
        {
            self.event(Kinds::PEER_CLOCK, now, remote, datagram.len(), About::PeerClock(key, clock));
        }
        if let Arrived::Packet(delivery) = &arrived
            && !self.egress.answers.is_empty()
        {
            self.watch_for_loop(now, remote, delivery);
        }
        match arrived {
            Arrived::Protocol => {}
            Arrived::Refused(why) => self.reject(now, remote, datagram.len(), why),
            Arrived::RefusedInner(peer, source) => self.reject_inner(now, remote, datagram.len(), &peer, source),
            Arrived::Packet(_) if self.spec.destinations.iter().all(|destination| destination.removed) => {
                self.reject(now, remote, datagram.len(), Rejected::NoDestination);
            }
            Arrived::Packet(delivery) => {
                let known = match self.egress.exchanges.is_some() {
                    true => self.heard_of(now, local, remote, &delivery),
                    false => None,
                };
                match known {
                    Some(why) => self.reject(now, remote, datagram.len(), why),
                    None => self.deliver(now, local, remote, &delivery),
                }
            }
        }
        self.plaintext = plaintext;
    }

    fn refuse(&mut self, index: usize, packets: usize) {
        self.batchers[index].refuse(packets);
        self.dropped(index, Dropped::QueueFull, packets);
    }

    /// Answers to a remote that only returns them are limited; the first time is an event.
    fn watch_for_loop(&mut self, now: Now, remote: SocketAddr, delivery: &Delivery) {
        let peer = delivery.peer.as_ref().map(|peer| Recipient::Peer(peer.id));
        if self.egress.answers.heard(now, peer.unwrap_or(Recipient::Remote(remote)), delivery.payload) {
            self.counters.loops_suspected += 1;
            if self.egress.watched.meets(Kinds::LOOP_SUSPECTED) {
                self.event(Kinds::LOOP_SUSPECTED, now, remote, delivery.payload.len(), About::Loop);
            }
        }
    }

    /// Why a packet is not delivered that belongs to an exchange of CoAP.
    fn heard_of(&mut self, now: Now, local: IpAddr, remote: SocketAddr, delivery: &Delivery) -> Option<Rejected> {
        let exchanges = self.egress.exchanges.as_mut()?;
        let heard = exchanges.heard(now, delivery.way_back(local, remote).who(), delivery.payload);
        self.converse(now);
        heard
    }

    /// Renders a packet for each Destination that it may go to. What they share is made for the first of them.
    fn deliver(&mut self, now: Now, local: IpAddr, remote: SocketAddr, delivery: &Delivery) {
        let (mut begun, mut budget) = (false, Budget::default());
        for index in 0..self.batchers.len() {
            let spec = &self.spec.destinations[index];
            let (formatter, bound) = (spec.formatter, spec.bound);
            if spec.removed {
                continue;
            }
            if spec.filter.as_ref().is_some_and(|filter| !filter.passes(delivery.payload, &mut budget)) {
                self.counters.destinations[index].filtered += 1;
                continue;
            }
            self.counters.destinations[index].packets += 1;
            self.counters.destinations[index].bytes += delivery.payload.len() as u64;
            if bound && !self.intakes[index].admit(now, self.read) {
                self.refuse(index, 1);
                continue;
            }
            if !std::mem::replace(&mut begun, true) {
                self.begin(now, local, remote, delivery);
            }
            if !bound {
                self.dropped(index, Dropped::Unbound, 1);
                continue;
            }
            let view = match formatter.view(delivery.payload) {
                Ok(view) => view,
                Err(why) => {
                    self.dropped(index, why, 1);
                    continue;
                }
            };
            let (writer, ready, counters) = (&self.writer, &mut self.ready, &mut self.counters.destinations[index]);
            self.batchers[index].add(
                now,
                delivery.payload,
                &mut budget,
                |out| writer.write(&view, out),
                |batch| {
                    counters.batches += 1;
                    ready.push_back((index, batch));
                },
            );
            let number = self.intakes[index].number();
            if let (Some(exchanges), View::Coap(message)) = (&mut self.egress.exchanges, &view) {
                exchanges.begin(now, delivery.way_back(local, remote), message, number);
            }
        }
        self.counters.expression_limits += u64::from(budget.exceeded());
    }

    /// Seals a packet's Tag, and renders what all Destinations share.
    fn begin(&mut self, now: Now, local: IpAddr, remote: SocketAddr, delivery: &Delivery) {
        let address = ReturnAddress {
            listener: self.spec.id,
            node: self.shared.node,
            expires: (now.unix_ms / 1_000) as u32 + self.shared.tag_seconds,
            local: SocketAddr::new(local, self.bound.port()),
            remote,
        };
        let tag = delivery.seal_tag(&mut self.sealer, &self.shared.tag_keys, &address);
        let peer = delivery.peer.as_ref().map(|peer| (&peer.key, peer.inner.as_ref()));
        self.writer.begin(now, tag.as_bytes(), remote, local, peer);
        if self.egress.watched.meets(Kinds::PACKET_RECEIVED) {
            let about = About::Received(String::from_utf8_lossy(tag.as_bytes()).into_owned());
            self.event(Kinds::PACKET_RECEIVED, now, remote, delivery.payload.len(), about);
        }
    }

    /// Replaces the resource by `spec`. The Listener stays bound. Sessions, Tags, `Id`s, counters and queued packets
    /// stay with every Destination and PacketSource that stays (see [`ListenerSpec::destinations`] for places). The open
    /// batch of a removed Destination is closed here: drain [`poll_batch`](Self::poll_batch) before its queue is closed.
    pub fn update(&mut self, now: Now, mut spec: ListenerSpec) -> Result<(), String> {
        if (spec.id, &spec.name) != (self.spec.id, &self.spec.name) {
            return Err(format!("Listener {} cannot become {}", self.spec.name, spec.name));
        }
        let before = (&self.spec.destinations, &self.spec.sources);
        let destinations = before.0.len() <= spec.destinations.len()
            && before.0.iter().zip(&spec.destinations).all(|(before, after)| before.removed || before.stays(after));
        let sources = before.1.len() <= spec.sources.len()
            && before.1.iter().zip(&spec.sources).all(|(before, after)| before.removed || before.stays(after));
        if !destinations || !sources {
            return Err(format!("Listener {}: what is not removed must stay at its place", spec.name));
        }
        (spec.bind, spec.dual_stack) = (self.spec.bind, self.spec.dual_stack);
        spec.wire_guard = None; // peers change one by one (`set_peer`, `remove_peer`)
        self.session.update(&spec);
        self.writer = PacketWriter::new(&spec.domain, self.bound.port(), self.session.protocol(), &self.shared.region);
        match (&mut self.egress.exchanges, &spec.coap) {
            (Some(exchanges), Some(coap)) => exchanges.update(coap),
            (None, Some(coap)) => self.egress.exchanges = Some(Exchanges::new(coap, self.lot ^ now.mono as u32)),
            (exchanges, None) => *exchanges = None,
        }
        self.counters.coap = self.egress.exchanges.as_ref().map(|exchanges| exchanges.counters().clone());
        let before = std::mem::replace(&mut self.spec, spec);
        for index in 0..self.spec.destinations.len() {
            self.update_destination(now, index, before.destinations.get(index));
        }
        for (index, source) in self.spec.sources.iter().enumerate() {
            let before = before.sources.get(index).filter(|before| before.stays(source));
            self.egress.update(index, before, source);
            if before.is_none() {
                put(&mut self.counters.sources, index, SourceCounters::new(&source.name));
            }
            self.counters.sources[index].removed = source.removed;
        }
        Ok(())
    }

    fn update_destination(&mut self, now: Now, index: usize, before: Option<&DestinationSpec>) {
        let spec = &self.spec.destinations[index];
        if let (Some(exchanges), Formatter::Coap) = (&mut self.egress.exchanges, spec.formatter)
            && !before.is_some_and(|before| before.stays(spec) && before.formatter == spec.formatter)
        {
            exchanges.renumber();
        }
        let batch = match before {
            Some(before) if before.stays(spec) => {
                let batch = self.batchers[index].update(now, spec);
                let leaves = spec.removed || !spec.bound;
                batch.or_else(|| leaves.then(|| self.batchers[index].expire(now, true)).flatten())
            }
            _ => {
                put(&mut self.batchers, index, Batcher::new(spec));
                put(&mut self.intakes, index, Intake::default());
                put(&mut self.counters.destinations, index, DestinationCounters::new(&spec.name));
                None
            }
        };
        self.counters.destinations[index].removed = spec.removed;
        if let Some(batch) = batch {
            self.counters.destinations[index].batches += 1;
            self.ready.push_back((index, batch));
        }
    }

    /// Takes what the session has to send and to report.
    fn settle(&mut self, now: Now) {
        while let Some(outcome) = self.session.poll_outcome() {
            self.egress.settle(now, &mut self.session, &mut self.counters, outcome);
        }
        while let Some(transmit) = self.session.poll_transmit() {
            if may_converse(&self.spec, transmit.endpoint.remote) {
                self.egress.transmit(transmit);
            }
        }
        if let counters @ Some(_) = self.session.wire_guard_counters() {
            self.counters.wire_guard = counters;
        }
    }

    /// The public key of a `wg` Listener.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.session.wire_guard().map(WireGuard::public_key)
    }

    /// Adds or changes a peer of a `wg` Listener; its session goes on.
    pub fn set_peer(&mut self, now: Now, peer: &PeerSpec) {
        if let Some(wg) = self.session.wire_guard_mut() {
            wg.set_peer(now, peer);
        }
        self.settle(now);
    }

    /// Removes a peer and cuts its session at once. True if there was one.
    pub fn remove_peer(&mut self, now: Now, key: &PublicKey) -> bool {
        let removed = self.session.wire_guard_mut().is_some_and(|wg| wg.remove_peer(key));
        self.settle(now);
        removed
    }

    /// Sets `AllowUnknownPeers` and `UnknownPeerPreSharedKey`. If either changes, all unknown peers are removed.
    pub fn set_unknown_peers(&mut self, now: Now, allow: bool, psk: Option<&Secret>) {
        if let Some(wg) = self.session.wire_guard_mut() {
            wg.set_unknown(allow, psk);
        }
        self.settle(now);
    }

    /// What must be kept of peers over a restart and has changed since the last call. An entry without `Remote` means
    /// that nothing is kept any more. Ask for the changes, and write them, within a second.
    pub fn take_peer_changes(&mut self) -> Vec<PeerMemory> {
        self.session.wire_guard_mut().map(WireGuard::take_changes).unwrap_or_default()
    }

    /// The peers of a `wg` Listener.
    pub fn peers(&self, now: Now) -> impl Iterator<Item = PeerStatus> {
        self.session.wire_guard().into_iter().flat_map(move |wg| wg.status(now))
    }

    /// Accepts any stamp of the peer again; its session goes on. True if there is such a peer.
    pub fn forget_peer_stamp(&mut self, key: &PublicKey) -> bool {
        self.session.wire_guard_mut().is_some_and(|wg| wg.forget_stamp(key))
    }

    /// The stamps of a `wg` Listener's handshakes.
    pub fn stamps(&self) -> Option<&Arc<Stamps>> {
        self.session.wire_guard().map(WireGuard::stamps)
    }

    /// Takes a sourced message or a handler's answer.
    pub fn submit(&mut self, now: Now, own: &OwnEndpoints, submission: Submission) {
        let around = Surroundings { now, spec: &self.spec, bound: self.bound, shared: &self.shared, own };
        self.egress.submit(&around, &mut self.session, &mut self.counters, submission);
        self.settle(now);
    }

    /// Closes the batches whose time has come, and lets the paced packets leave whose time has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.close_batches(now, false);
        self.session.handle_timeout(now);
        self.settle(now);
        self.egress.release(now, &mut self.session, &mut self.counters);
        if let Some(exchanges) = &mut self.egress.exchanges {
            exchanges.handle_timeout(now);
            self.converse(now);
        }
        self.settle(now);
    }

    /// Sends what the gateway itself has to say in CoAP.
    fn converse(&mut self, now: Now) {
        self.egress.converse(now, &self.spec, &self.shared, &mut self.session, &mut self.counters);
    }

    /// Closes every open batch: the Listener will receive no more.
    pub fn flush(&mut self, now: Now) {
        self.close_batches(now, true);
    }

    /// Lets every held packet leave, or fail if it waits for a peer: the Listener is about to be closed.
    pub fn release_all(&mut self, now: Now) {
        self.egress.release_all(now, &mut self.counters);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, on the clock of [`Now::mono`].
    pub fn poll_timeout(&self) -> Option<u64> {
        let others = self.egress.poll_timeout().into_iter().chain(self.session.poll_timeout());
        self.batchers.iter().filter_map(Batcher::deadline).chain(others).min()
    }

    /// The next batch that is ready, with its Destination's index.
    pub fn poll_batch(&mut self) -> Option<(usize, Batch)> {
        self.ready.pop_front()
    }

    /// Call it before [`next_outgoing`](Self::next_outgoing): what a protocol sends by itself goes to no own Listener.
    pub fn judge_protocol(&mut self, own: &OwnEndpoints) {
        self.egress.judge_protocol(own);
    }

    /// The next datagram to send. It stays in front until [`sent`](Self::sent) or [`not_sent`](Self::not_sent).
    pub fn next_outgoing(&mut self, now: Now) -> Option<&Outgoing> {
        self.egress.next(now, &mut self.counters)
    }

    /// How many datagrams from the front on may leave as one run, within `limit`: at least 1 if there is one.
    pub fn outgoing_run(&self, now: Now, limit: RunLimit) -> usize {
        self.egress.run(now, limit)
    }

    /// How many datagrams from the front on may leave by one call, at most `limit`: up to where a run begins.
    pub fn outgoing_mixed(&self, now: Now, limit: usize) -> usize {
        self.egress.mixed(now, limit)
    }

    /// The datagrams that wait for the socket, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Outgoing> {
        self.egress.waiting()
    }

    /// The kernel accepted the datagram that [`next_outgoing`](Self::next_outgoing) showed.
    pub fn sent(&mut self, now: Now) {
        self.egress.ended(now, &mut self.counters, Ok(()));
    }

    /// The datagram that [`next_outgoing`](Self::next_outgoing) showed will not be sent.
    pub fn not_sent(&mut self, now: Now, reason: Reason, detail: String) {
        self.egress.ended(now, &mut self.counters, Err((reason, detail)));
    }

    /// The next document whose entries have all completed.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.egress.poll_completion()
    }

    /// Takes the PacketSource and `Id` of each entry that was sent since the last call: a second attempt at it is known
    /// by them after a restart, also while others of its document wait.
    pub fn take_sent_ids(&mut self) -> Vec<(usize, String)> {
        self.egress.take_sent_ids()
    }

    /// Datagrams that wait for the socket.
    pub fn queued(&self) -> usize {
        self.egress.queued()
    }

    /// Datagrams that wait for their time.
    pub fn held(&self) -> usize {
        self.egress.held()
    }

    /// Sets the kinds of events to make; none at first.
    pub fn watch(&mut self, kinds: Kinds) {
        self.egress.watched = kinds;
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        events.append(&mut self.egress.take_events());
        events
    }

    /// Remembers that PacketSource `source` sent `id` before this start, `ago` nanoseconds ago.
    pub fn remember(&mut self, now: Now, source: usize, id: &str, ago: u64) {
        self.egress.remember(now, source, id, ago);
    }

    /// Remembers that PacketSource `source` has put off `id` to its `SendAt` before this start.
    pub fn expect(&mut self, source: usize, id: &str) {
        self.egress.expect(source, id);
    }

    /// The Listener's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The resource as it is now.
    pub fn spec(&self) -> &ListenerSpec {
        &self.spec
    }

    /// Address and port as bound.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// The queue of Destination `index` took a batch. What it dropped for that counts as `QueueFull`; packets that come
    /// while it is full may be refused.
    pub fn pushed(&mut self, now: Now, index: usize, pushed: Pushed) {
        let lost = self.intakes[index].pushed(now, pushed, self.batchers[index].fills());
        if let (Some(exchanges), Formatter::Coap) =
            (&mut self.egress.exchanges, self.spec.destinations[index].formatter)
        {
            exchanges.lose(lost);
        }
        self.counters.destinations[index].batches -= u64::from(pushed.joined);
        if pushed.evicted > 0 {
            self.dropped(index, Dropped::QueueFull, pushed.evicted);
        }
    }

    fn dropped(&mut self, index: usize, why: Dropped, packets: usize) {
        *self.counters.destinations[index].dropped.entry(why).or_default() += packets as u64;
    }

    /// Counts datagrams that the caller took off the socket and did not hand over.
    pub fn rejected(&mut self, why: Rejected, packets: usize) {
        if packets > 0 {
            self.counters.received_packets += packets as u64;
            *self.counters.rejected.entry(why).or_default() += packets as u64;
        }
    }

    fn reject(&mut self, now: Now, remote: SocketAddr, bytes: usize, why: Rejected) {
        *self.counters.rejected.entry(why).or_default() += 1;
        if self.egress.watched.meets(Kinds::PACKET_REJECTED) {
            self.event(Kinds::PACKET_REJECTED, now, remote, bytes, About::Rejected(why));
        }
    }

    /// Counts what a peer's AllowedIPs refuse, and reports each peer's first.
    fn reject_inner(&mut self, now: Now, remote: SocketAddr, bytes: usize, peer: &PeerId, source: Option<IpAddr>) {
        self.reject(now, remote, bytes, Rejected::RefusedInnerSource);
        if self.egress.watched.meets(Kinds::INNER_REFUSED)
            && let Some(key) = self.session.wire_guard_mut().and_then(|wg| wg.reports_refusal(peer))
        {
            self.event(Kinds::INNER_REFUSED, now, remote, bytes, About::InnerRefused(key, source));
        }
    }

    fn event(&mut self, kind: Kinds, now: Now, remote: SocketAddr, bytes: usize, about: About) {
        self.events.push(Event { kind, at_ms: now.unix_ms, remote: Some(remote), bytes: Some(bytes), about });
    }

    fn close_batches(&mut self, now: Now, all: bool) {
        for (index, batcher) in self.batchers.iter_mut().enumerate() {
            if let Some(batch) = batcher.expire(now, all) {
                self.counters.destinations[index].batches += 1;
                self.ready.push_back((index, batch));
            }
        }
    }
}

/// Puts `value` at `index`, which exists or is the next one.
fn put<T>(places: &mut Vec<T>, index: usize, value: T) {
    match places.get_mut(index) {
        Some(place) => *place = value,
        None => places.push(value),
    }
}
