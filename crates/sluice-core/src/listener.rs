//! One Listener as a state machine.

use crate::{
    Batch, Completion, Counters, Now, Outgoing, OwnEndpoints, Submission,
    batch::Batcher,
    counters::{DestinationCounters, SourceCounters},
    egress::{Egress, Surroundings},
    packet::PacketWriter,
    reason::{Dropped, Reason, Rejected},
    session::PlainSessions,
    spec::{DataplaneSpec, ListenerSpec},
    tag::{ReturnAddress, TagKeys, TagSealer},
    time,
};
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What all Listeners of a gateway share.
pub struct Shared {
    /// This node's number.
    pub node: u16,
    /// `IngressRegion`.
    pub region: String,
    /// Keys of Tags.
    pub tag_keys: TagKeys,
    /// Lifetime of a Tag in seconds.
    pub tag_seconds: u32,
}

impl Shared {
    /// Reads the keys; an error names what does not fit (never the key).
    pub fn new(spec: &DataplaneSpec) -> Result<Shared, String> {
        let mut keys = Vec::new();
        for key in &spec.tag_keys {
            let bytes = hex_simd::decode_to_vec(&key.key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            keys.push((key.id, bytes.ok_or_else(|| format!("Tag key {} is not 64 hexadecimal digits", key.id))?));
        }
        let tag_keys = TagKeys::new(keys.iter().map(|(id, key)| (*id, key)));
        Ok(Shared {
            node: spec.node,
            region: spec.region.clone(),
            tag_keys: tag_keys.ok_or("TagKeys needs at least one key, with an id from 0 to 15")?,
            tag_seconds: spec.tag_seconds,
        })
    }
}

/// One Listener: datagrams, messages and time in; datagrams, batches and outcomes out.
///
/// # Calling contract
///
/// - Feed it with [`handle_datagram`](Self::handle_datagram), [`submit`](Self::submit) and, once
///   [`poll_timeout`](Self::poll_timeout) has passed, [`handle_timeout`](Self::handle_timeout). `now` never goes back.
/// - After each call (or after several, for a whole round of received packets) drain
///   [`poll_batch`](Self::poll_batch), [`next_outgoing`](Self::next_outgoing) with [`sent`](Self::sent) or
///   [`not_sent`](Self::not_sent), and [`poll_completion`](Self::poll_completion).
/// - What the network sends is counted, never an error. What applications send ends in a [`Completion`].
/// - It does no I/O, reads no clock, and holds no more than it was given: the caller bounds what it submits
///   (by [`queued`](Self::queued)) and where it keeps batches.
pub struct Listener {
    spec: ListenerSpec,
    shared: Arc<Shared>,
    bound: SocketAddr,
    sealer: TagSealer,
    sessions: PlainSessions,
    writer: PacketWriter,
    batchers: Vec<Batcher>,
    ready: VecDeque<(usize, Batch)>,
    egress: Egress,
    counters: Counters,
}

impl Listener {
    /// A Listener that was bound to `bound`. `salt`: fresh random bytes, see [`crate::tag`].
    pub fn new(spec: ListenerSpec, shared: Arc<Shared>, bound: SocketAddr, salt: [u8; 6]) -> Listener {
        let destination = |name: &String| DestinationCounters { name: name.clone(), ..Default::default() };
        let source = |name: &String| SourceCounters { name: name.clone(), ..Default::default() };
        Listener {
            sealer: TagSealer::new(salt),
            sessions: PlainSessions::new(time::nanos(spec.session_idle_seconds), spec.session_limit),
            writer: PacketWriter::new(&spec.domain, bound.port(), &shared.region),
            batchers: spec.destinations.iter().map(Batcher::new).collect(),
            ready: VecDeque::new(),
            egress: Egress::default(),
            counters: Counters {
                destinations: spec.destinations.iter().map(|d| destination(&d.name)).collect(),
                sources: spec.sources.iter().map(|s| source(&s.name)).collect(),
                ..Counters::default()
            },
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
            *self.counters.rejected.entry(Rejected::RefusedNetwork).or_default() += 1;
            return;
        }
        self.sessions.heard(now, remote, local);
        if self.batchers.is_empty() {
            *self.counters.rejected.entry(Rejected::NoDestination).or_default() += 1;
            return;
        }
        let address = ReturnAddress {
            listener: self.spec.id,
            node: self.shared.node,
            expires: (now.unix_ms / 1_000) as u32 + self.shared.tag_seconds,
            local: SocketAddr::new(local, self.bound.port()),
            remote,
        };
        let tag = self.sealer.seal(&self.shared.tag_keys, &address);
        self.writer.begin(now, tag.as_bytes(), remote, local);
        for (index, batcher) in self.batchers.iter_mut().enumerate() {
            let spec = &self.spec.destinations[index];
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
        self.egress.submit(&around, &mut self.counters, submission);
    }

    /// Closes the batches whose time has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.close_batches(now, false);
    }

    /// Closes every open batch: the Listener is about to end.
    pub fn flush(&mut self, now: Now) {
        self.close_batches(now, true);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, on the clock of [`Now::mono`].
    pub fn poll_timeout(&self) -> Option<u64> {
        self.batchers.iter().filter_map(Batcher::deadline).min()
    }

    /// The next batch that is ready, with its Destination's index.
    pub fn poll_batch(&mut self) -> Option<(usize, Batch)> {
        self.ready.pop_front()
    }

    /// The next datagram to send. It stays in front until [`sent`](Self::sent) or [`not_sent`](Self::not_sent).
    pub fn next_outgoing(&mut self, now: Now) -> Option<&Outgoing> {
        self.egress.next(now, &mut self.counters)
    }

    /// The kernel took the datagram that [`next_outgoing`](Self::next_outgoing) showed.
    pub fn sent(&mut self) {
        self.egress.ended(&mut self.counters, Ok(()));
    }

    /// It will not be sent.
    pub fn not_sent(&mut self, reason: Reason, detail: String) {
        self.egress.ended(&mut self.counters, Err((reason, detail)));
    }

    /// The next document of which every entry has ended.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.egress.poll_completion()
    }

    /// Datagrams that wait to be sent.
    pub fn queued(&self) -> usize {
        self.egress.queued()
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

    fn close_batches(&mut self, now: Now, all: bool) {
        for (index, batcher) in self.batchers.iter_mut().enumerate() {
            if let Some(batch) = batcher.expire(now, all) {
                self.counters.destinations[index].batches += 1;
                self.ready.push_back((index, batch));
            }
        }
    }
}
