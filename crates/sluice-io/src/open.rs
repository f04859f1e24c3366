//! One open Listener: its socket and its state machine, and what goes between them.

use crate::{
    Port,
    command::{PeerChange, UnknownPeers},
    socket::{Buffers, Sent, UdpSocket},
    sys,
    watch::Labels,
};
use sluice_core::{
    About, Dropped, Event, Kinds, Listener, Now, Rejected, Shared,
    session::wireguard::{PeerStatus, PublicKey},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Datagrams that one Listener sends in one turn.
const SEND_ROUND: usize = 256;

/// Belongs to the I/O thread.
pub struct Open {
    pub socket: UdpSocket,
    pub listener: Listener,
    /// False once it has stopped: what arrives then is not processed.
    pub receiving: bool,
    /// The socket was full: wait until it is writable.
    pub blocked: bool,
    /// Documents may wait that this turn has not taken.
    pub behind: bool,
    /// Until when it sends what is queued, and who waits for its end.
    pub closing: Option<(Instant, mpsc::SyncSender<()>)>,
    /// Some watch has skipped events and will say so when the second is over.
    pub telling: bool,
}

impl Open {
    /// The first `limit` peers behind `after`, in the order of their keys.
    pub fn peers(&self, now: Now, after: Option<PublicKey>, limit: usize) -> Vec<PeerStatus> {
        let mut first = BTreeMap::new();
        for peer in self.listener.peers(now).filter(|peer| after.is_none_or(|after| peer.public_key > after)) {
            first.insert(peer.public_key, peer);
            if first.len() > limit {
                first.pop_last();
            }
        }
        first.into_values().collect()
    }

    /// Removed first: a peer may come back with other keys beside its own.
    pub fn change_peers(&mut self, now: Now, PeerChange { set, remove, unknown }: &PeerChange) {
        for key in remove {
            self.listener.remove_peer(now, key);
        }
        for peer in set {
            self.listener.set_peer(now, peer);
        }
        if let Some(UnknownPeers { allow_unknown_peers, unknown_peer_pre_shared_key }) = unknown {
            self.listener.set_unknown_peers(now, *allow_unknown_peers, unknown_peer_pre_shared_key.as_ref());
        }
    }

    /// One batch of datagrams off the socket; how many.
    pub fn receive(&mut self, now: Now, buffers: &mut Buffers) -> usize {
        let listener = &mut self.listener;
        let count = self.socket.receive(now, buffers, |now, local, remote, payload| {
            listener.handle_datagram(now, local, remote, payload);
        });
        listener.rejected(Rejected::RefusedNetwork, self.socket.take_martians());
        count
    }

    /// What arrived after the Listener had stopped: counted, not processed.
    pub fn discard_arrived(&mut self, now: Now, buffers: &mut Buffers) {
        let deadline = Instant::now() + Duration::from_millis(100);
        let mut late = 0;
        while Instant::now() < deadline {
            match self.socket.receive(now, buffers, |_, _: IpAddr, _: SocketAddr, _| {}) {
                0 => break,
                count => late += count,
            }
        }
        self.listener.rejected(Rejected::Shutdown, late);
    }

    /// Sends what is queued: same-size datagrams to one remote as runs, the others many at a time. One of these fails or
    /// stops half-way without saying why; then the next datagram goes by itself, and says it.
    pub fn send(&mut self, now: Now) {
        let mut sent = 0;
        while sent < SEND_ROUND && !self.blocked {
            let Some(packet) = self.listener.next_outgoing(now) else { return };
            let (local, remote) = (packet.local, packet.remote);
            let run = self.listener.outgoing_run(now, self.socket.offload());
            let whole = if run > 1 { self.send_run(now, local, remote, run) } else { self.send_mixed(now) };
            sent += if whole > 0 { whole } else { self.send_one(now, local, remote) };
        }
    }

    /// How many were sent: all or none.
    fn send_run(&mut self, now: Now, local: Option<IpAddr>, remote: SocketAddr, run: usize) -> usize {
        let payloads = self.listener.waiting().take(run).map(|packet| packet.payload.as_slice());
        let sent = self.socket.send_run(local, remote, payloads);
        if !matches!(sent, Some(Sent::Yes)) {
            return 0;
        }
        (0..run).for_each(|_| self.listener.sent(now));
        run
    }

    /// How many were sent.
    fn send_mixed(&mut self, now: Now) -> usize {
        let count = self.listener.outgoing_mixed(now, sys::SEND_MANY);
        if count == 1 {
            return 0;
        }
        let packets = self.listener.waiting().take(count);
        let sent =
            self.socket.send_many(packets.map(|packet| (packet.local, packet.remote, packet.payload.as_slice())));
        (0..sent).for_each(|_| self.listener.sent(now));
        sent
    }

    /// How many ended: none when the socket is full.
    fn send_one(&mut self, now: Now, local: Option<IpAddr>, remote: SocketAddr) -> usize {
        let Some(packet) = self.listener.waiting().next() else { return 0 };
        match self.socket.send(local, remote, &packet.payload) {
            Sent::Yes => self.listener.sent(now),
            Sent::No(reason, detail) => self.listener.not_sent(now, reason, detail),
            Sent::Full => {
                self.blocked = true;
                return 0;
            }
        }
        1
    }

    /// Hands the events since the last call to whoever watches.
    pub fn show_events(&mut self, port: &Port, shared: &Shared, now: Now) {
        let mut events = self.listener.take_events();
        for (name, remote) in self.socket.take_icmp() {
            let about = About::Icmp(name);
            events.push(Event { kind: Kinds::ICMP_ERROR, at_ms: now.unix_ms, remote, bytes: None, about });
        }
        if events.is_empty() && !self.telling {
            return;
        }
        let labels = Labels { node: shared.node, region: &shared.region, spec: self.listener.spec() };
        let mut telling = false;
        port.each_watch(|watch| {
            watch.offer(&labels, &events);
            telling |= watch.settle(&labels, now.unix_ms);
        });
        self.telling = telling;
    }

    /// Moves batches that are ready to where their readers find them.
    pub fn hand_over(&mut self, port: &Port) {
        while let Some((destination, batch)) = self.listener.poll_batch() {
            let dropped = port.queue(destination).map_or(0, |queue| queue.push(batch));
            if dropped > 0 {
                self.listener.dropped(destination, Dropped::QueueFull, dropped);
            }
        }
    }
}
