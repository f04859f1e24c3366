//! One Listener as a state machine.

use crate::{
    Batch, Completion, Counters, Now, Outgoing, OwnEndpoints, RunLimit, Submission,
    batch::Batcher,
    counters::{DestinationCounters, SourceCounters},
    egress::Egress,
    event::{About, Event, Kinds},
    judge::Surroundings,
    packet::PacketWriter,
    reason::{Dropped, Reason, Rejected},
    session::{
        PlainSessions,
        wireguard::{PeerStatus, PublicKey, Secret},
    },
    shared::Shared,
    spec::{DestinationSpec, ListenerSpec, PeerMemory, PeerSpec},
    tag::{PeerAddress, ReturnAddress, TagSealer, TagText},
    time,
    tunnel::{Arrived, Delivery, Tunnels},
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
///   [`not_sent`](Self::not_sent), [`poll_completion`](Self::poll_completion) and, if it is
///   [watched](Self::watch), [`take_events`](Self::take_events).
/// - What the network sends is counted, never an error. What applications send ends in a [`Completion`].
/// - It does no I/O, reads no clock, and holds no more than it was given: the caller bounds what it submits
///   (by [`queued`](Self::queued)) and where it keeps batches.
pub struct Listener {
    spec: ListenerSpec,
    shared: Arc<Shared>,
    bound: SocketAddr,
    sealer: TagSealer,
    sessions: PlainSessions,
    /// Of a `wg` Listener; its sessions are there.
    tunnels: Option<Tunnels>,
    /// What has just come out of a tunnel.
    plaintext: Vec<u8>,
    writer: PacketWriter,
    batchers: Vec<Batcher>,
    ready: VecDeque<(usize, Batch)>,
    egress: Egress,
    counters: Counters,
    events: Vec<Event>,
}

impl Listener {
    /// A Listener that was bound to `bound`. `salt`: fresh random bytes, see [`crate::tag`].
    pub fn new(mut spec: ListenerSpec, shared: Arc<Shared>, bound: SocketAddr, salt: [u8; 6]) -> Listener {
        // Not kept: it has the private key, and peers come and go.
        let tunnels = spec.wire_guard.take().map(|wire_guard| Tunnels::new(&wire_guard, &spec));
        let protocol = protocol(&tunnels);
        Listener {
            sealer: TagSealer::new(salt),
            sessions: PlainSessions::new(time::nanos(spec.session_idle_seconds), spec.session_limit),
            writer: PacketWriter::new(&spec.domain, bound.port(), protocol, &shared.region),
            plaintext: Vec::new(),
            batchers: spec.destinations.iter().map(Batcher::new).collect(),
            ready: VecDeque::new(),
            egress: Egress::new(&spec),
            events: Vec::new(),
            counters: Counters {
                destinations: spec.destinations.iter().map(|d| DestinationCounters::new(&d.name)).collect(),
                sources: spec.sources.iter().map(|s| SourceCounters::new(&s.name)).collect(),
                wire_guard: tunnels.as_ref().map(|tunnels| tunnels.wg.counters().clone()),
                ..Counters::default()
            },
            tunnels,
            spec,
            shared,
            bound,
        }
    }

    /// A datagram from `remote` arrived at `local`; both canonical ([`crate::canonical`]).
    pub fn handle_datagram(&mut self, now: Now, local: IpAddr, remote: SocketAddr, payload: &[u8]) {
        self.counters.received_packets += 1;
        self.counters.received_bytes += payload.len() as u64;
        if !self.spec.client_networks.contains(remote.ip()) {
            self.reject(now, remote, payload.len(), Rejected::RefusedNetwork);
            return;
        }
        if self.tunnels.is_some() {
            return self.handle_tunnelled(now, local, remote, payload);
        }
        self.sessions.heard(now, remote, local);
        if self.spec.destinations.iter().all(|destination| destination.removed) {
            self.reject(now, remote, payload.len(), Rejected::NoDestination);
            return;
        }
        let address = ReturnAddress {
            listener: self.spec.id,
            node: self.shared.node,
            expires: self.tags_expire(now),
            local: SocketAddr::new(local, self.bound.port()),
            remote,
        };
        let tag = self.sealer.seal(&self.shared.tag_keys, &address);
        self.writer.begin(now, tag.as_bytes(), remote, local, None);
        self.deliver(now, &tag, remote, payload);
    }

    /// The same for a `wg` Listener.
    fn handle_tunnelled(&mut self, now: Now, local: IpAddr, remote: SocketAddr, datagram: &[u8]) {
        let Some(tunnels) = &mut self.tunnels else { return };
        let mut plaintext = std::mem::take(&mut self.plaintext);
        let arrived = tunnels.receive(now, local, remote, datagram, &mut plaintext);
        self.settle_tunnels(now);
        match arrived {
            Arrived::Protocol => {}
            Arrived::Refused(why) => self.reject(now, remote, datagram.len(), why),
            Arrived::Packet(_) if self.spec.destinations.iter().all(|destination| destination.removed) => {
                self.reject(now, remote, datagram.len(), Rejected::NoDestination);
            }
            Arrived::Packet(Delivery { peer, key, inner, payload }) => {
                let (listener, node, expires) = (self.spec.id, self.shared.node, self.tags_expire(now));
                let address = PeerAddress { listener, node, expires, peer, inner };
                let tag = self.sealer.seal_peer(&self.shared.tag_keys, &address);
                self.writer.begin(now, tag.as_bytes(), remote, local, Some((&key, inner.as_ref())));
                self.deliver(now, &tag, remote, &plaintext[payload]);
            }
        }
        self.plaintext = plaintext;
    }

    /// Renders the packet that the writer has begun for each Destination.
    fn deliver(&mut self, now: Now, tag: &TagText, remote: SocketAddr, payload: &[u8]) {
        if self.egress.watched.meets(Kinds::PACKET_RECEIVED) {
            let about = About::Received(String::from_utf8_lossy(tag.as_bytes()).into_owned());
            self.event(Kinds::PACKET_RECEIVED, now, remote, payload.len(), about);
        }
        for (index, batcher) in self.batchers.iter_mut().enumerate() {
            let spec = &self.spec.destinations[index];
            if spec.removed {
                continue;
            }
            let counters = &mut self.counters.destinations[index];
            counters.packets += 1;
            if !spec.bound {
                *counters.dropped.entry(Dropped::Unbound).or_default() += 1;
                continue;
            }
            let (writer, ready) = (&self.writer, &mut self.ready);
            batcher.add(
                now,
                |out| writer.write(spec.formatter, payload, out),
                |batch| {
                    counters.batches += 1;
                    ready.push_back((index, batch));
                },
            );
        }
    }

    /// Puts `spec` in the place of the resource. The Listener stays bound where it is, and sessions, Tags, `Id`s, counters
    /// and what is queued stay with everything that stays (see [`ListenerSpec::destinations`] for places). Drain
    /// [`poll_batch`](Self::poll_batch) before the queue of a removed Destination is closed: its open batch is closed here.
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
        spec.wire_guard = None; // peers have their own ways in
        self.sessions.update(time::nanos(spec.session_idle_seconds), spec.session_limit);
        self.writer = PacketWriter::new(&spec.domain, self.bound.port(), protocol(&self.tunnels), &self.shared.region);
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
        let batch = match before {
            Some(before) if before.stays(spec) => {
                let batch = self.batchers[index].update(now, spec);
                let leaves = spec.removed || !spec.bound;
                batch.or_else(|| leaves.then(|| self.batchers[index].expire(now, true)).flatten())
            }
            _ => {
                put(&mut self.batchers, index, Batcher::new(spec));
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

    /// Takes what the tunnels have to send and to tell.
    fn settle_tunnels(&mut self, now: Now) {
        while let Some(outcome) = self.tunnels.as_mut().and_then(Tunnels::poll_outcome) {
            self.egress.settle(now, &mut self.tunnels, &mut self.counters, outcome);
        }
        let Some(tunnels) = &mut self.tunnels else { return };
        while let Some(transmit) = tunnels.wg.poll_transmit() {
            self.egress.transmit(transmit);
        }
        if let Some(counters) = &mut self.counters.wire_guard {
            counters.clone_from(tunnels.wg.counters());
            counters.echoes_answered = tunnels.echoes();
        }
    }

    /// The public key of a `wg` Listener.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.tunnels.as_ref().map(|tunnels| tunnels.wg.public_key())
    }

    /// Adds or changes a peer of a `wg` Listener; its session goes on.
    pub fn set_peer(&mut self, now: Now, peer: &PeerSpec) {
        if let Some(tunnels) = &mut self.tunnels {
            tunnels.wg.set_peer(now, peer);
        }
        self.settle_tunnels(now);
    }

    /// Removes a peer and cuts its session at once. True if there was one.
    pub fn remove_peer(&mut self, now: Now, key: &PublicKey) -> bool {
        let removed = self.tunnels.as_mut().is_some_and(|tunnels| tunnels.wg.remove_peer(key));
        self.settle_tunnels(now);
        removed
    }

    /// `AllowUnknownPeers` and `UnknownPeerPreSharedKey`. If either changes, the unknown peers that are there leave.
    pub fn set_unknown_peers(&mut self, now: Now, allow: bool, psk: Option<&Secret>) {
        if let Some(tunnels) = &mut self.tunnels {
            tunnels.wg.set_unknown(allow, psk);
        }
        self.settle_tunnels(now);
    }

    /// What is to be kept of peers over a restart, as far as it has changed since the last call; without `Remote`: nothing
    /// any more. To be asked for, and written, within a second.
    pub fn take_peer_changes(&mut self) -> Vec<PeerMemory> {
        self.tunnels.as_mut().map(|tunnels| tunnels.wg.take_changes()).unwrap_or_default()
    }

    /// The peers of a `wg` Listener.
    pub fn peers(&self, now: Now) -> impl Iterator<Item = PeerStatus> {
        self.tunnels.iter().flat_map(move |tunnels| tunnels.wg.status(now))
    }

    fn tags_expire(&self, now: Now) -> u32 {
        (now.unix_ms / 1_000) as u32 + self.shared.tag_seconds
    }

    /// A sourced message or a handler's answer.
    pub fn submit(&mut self, now: Now, own: &OwnEndpoints, submission: Submission) {
        let around = Surroundings {
            now,
            spec: &self.spec,
            bound: self.bound,
            shared: &self.shared,
            sessions: &self.sessions,
            own,
        };
        self.egress.submit(&around, &mut self.tunnels, &mut self.counters, submission);
        self.settle_tunnels(now);
    }

    /// Closes the batches, and lets the paced packets leave, whose time has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.close_batches(now, false);
        if let Some(tunnels) = &mut self.tunnels {
            tunnels.wg.handle_timeout(now);
            self.settle_tunnels(now);
        }
        self.egress.release(now, &mut self.tunnels, &mut self.counters);
        self.settle_tunnels(now);
    }

    /// Closes every open batch: the Listener will receive no more.
    pub fn flush(&mut self, now: Now) {
        self.close_batches(now, true);
    }

    /// Nothing is held back any longer: the Listener is about to end.
    pub fn release_all(&mut self, now: Now) {
        self.egress.release_all(now, &mut self.counters);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, on the clock of [`Now::mono`].
    pub fn poll_timeout(&self) -> Option<u64> {
        let tunnels = self.tunnels.as_ref().and_then(|tunnels| tunnels.wg.poll_timeout());
        self.batchers.iter().filter_map(Batcher::deadline).chain(self.egress.poll_timeout()).chain(tunnels).min()
    }

    /// The next batch that is ready, with its Destination's index.
    pub fn poll_batch(&mut self) -> Option<(usize, Batch)> {
        self.ready.pop_front()
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

    /// The kernel took the datagram that [`next_outgoing`](Self::next_outgoing) showed.
    pub fn sent(&mut self, now: Now) {
        self.egress.ended(now, &mut self.counters, Ok(()));
    }

    /// It will not be sent.
    pub fn not_sent(&mut self, now: Now, reason: Reason, detail: String) {
        self.egress.ended(now, &mut self.counters, Err((reason, detail)));
    }

    /// The next document of which every entry has ended.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.egress.poll_completion()
    }

    /// Datagrams that wait for the socket.
    pub fn queued(&self) -> usize {
        self.egress.queued()
    }

    /// Datagrams that wait for their time.
    pub fn held(&self) -> usize {
        self.egress.held()
    }

    /// Kinds of events to make; none at first.
    pub fn watch(&mut self, kinds: Kinds) {
        self.egress.watched = kinds;
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        events.append(&mut self.egress.take_events());
        events
    }

    /// A PacketSource sent `id` `ago` nanoseconds ago, before this start.
    pub fn remember(&mut self, now: Now, source: usize, id: &str, ago: u64) {
        self.egress.remember(now, source, id, ago);
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The resource.
    pub fn spec(&self) -> &ListenerSpec {
        &self.spec
    }

    /// Address and port as bound.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// The queue of Destination `index` gave way for `packets` packets.
    pub fn dropped(&mut self, index: usize, why: Dropped, packets: usize) {
        *self.counters.destinations[index].dropped.entry(why).or_default() += packets as u64;
    }

    /// Datagrams that the caller took off the socket and did not hand over.
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

/// Puts `value` at `index`, which is there or is the next one.
fn put<T>(places: &mut Vec<T>, index: usize, value: T) {
    match places.get_mut(index) {
        Some(place) => *place = value,
        None => places.push(value),
    }
}

/// `Local.Protocol` of packets.
fn protocol(tunnels: &Option<Tunnels>) -> &'static str {
    if tunnels.is_some() { "wg" } else { "udp" }
}
