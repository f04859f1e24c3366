//! A simulated link between WireGuard endpoints: time passes only here, and a packet may be lost, doubled or overtaken.

use sluice_core::{
    Now,
    inner::Recent,
    session::wireguard::{
        HandshakeOutcome, PeerId, PublicKey, Received, Sealed, Secret, Transmit, WireGuard, keys::Identity,
    },
    spec::{PeerMemory, PeerSpec, WireGuardSpec},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
/// Where simulated time begins.
const EPOCH_MS: u64 = 1_780_000_000_000;

pub fn secret(byte: u8) -> Secret {
    Secret([byte; 32])
}

pub fn public(private: u8) -> PublicKey {
    Identity::new(&secret(private)).public
}

pub fn peer(private: u8) -> PeerSpec {
    let public_key = public(private);
    PeerSpec { public_key, allowed_ips: Vec::new(), shared_secret: None, persistent_keepalive_seconds: 0 }
}

pub fn spec(private: u8, peers: Vec<PeerSpec>) -> WireGuardSpec {
    WireGuardSpec {
        private_key: secret(private),
        peers,
        allow_unknown_peers: false,
        unknown_peer_pre_shared_key: None,
        decapsulated_delivery: false,
        known: Vec::new(),
        stamp_floor: 0,
        stamp_reserved: 0,
    }
}

/// One endpoint with its address, what it got, and what waits for a session.
pub struct Node {
    pub wg: WireGuard,
    pub spec: WireGuardSpec,
    pub at: SocketAddr,
    pub got: Vec<(PeerId, Vec<u8>)>,
    pub refused: Vec<sluice_core::Rejected>,
    pub outcomes: Vec<HandshakeOutcome>,
    pub waiting: HashMap<PeerId, Vec<Vec<u8>>>,
    /// Every datagram sent, to play again.
    pub sent: Vec<Vec<u8>>,
    /// Milliseconds by which its clock is ahead of the others.
    pub ahead_ms: i64,
}

/// How the link treats packets: each in a thousand.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    /// The longest way, in ms; the shortest is 1.
    pub longest: u64,
}

pub struct World {
    pub mono: u64,
    pub nodes: Vec<Node>,
    pub weather: Weather,
    /// From now on no initiation of this node gets anywhere, as if it made none.
    pub begins_nothing: Option<usize>,
    /// Packets under way by when they arrive.
    air: BTreeMap<(u64, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
    dice: u64,
    /// (receiver index, counter) of every data packet, with the sender: none twice.
    numbers: HashSet<(usize, u32, u64)>,
}

impl World {
    pub fn new(specs: Vec<WireGuardSpec>) -> World {
        let mut world = World {
            mono: 0,
            nodes: Vec::new(),
            weather: Weather { longest: 1, ..Weather::default() },
            begins_nothing: None,
            air: BTreeMap::new(),
            count: 0,
            dice: 1,
            numbers: HashSet::new(),
        };
        for (i, spec) in specs.into_iter().enumerate() {
            let at = SocketAddr::from(([192, 0, 2, i as u8 + 1], 51_820));
            world.nodes.push(Node {
                wg: WireGuard::new(&spec, 100),
                spec,
                at,
                got: Vec::new(),
                refused: Vec::new(),
                outcomes: Vec::new(),
                waiting: HashMap::new(),
                sent: Vec::new(),
                ahead_ms: 0,
            });
        }
        world
    }

    /// Two peers that know each other; the first one knows where the second one is.
    pub fn pair() -> World {
        World::new(vec![knowing(spec(1, vec![peer(2)]), 2, 1), spec(2, vec![peer(1)])])
    }

    pub fn now(&self) -> Now {
        Now { mono: self.mono, unix_ms: EPOCH_MS + self.mono / MS }
    }

    /// Now, by the clock of this node.
    pub fn now_of(&self, node: usize) -> Now {
        let now = self.now();
        Now { unix_ms: now.unix_ms.checked_add_signed(self.nodes[node].ahead_ms).unwrap(), ..now }
    }

    /// The node ends and begins anew with what it has been told to keep.
    pub fn restart(&mut self, node: usize, memories: Vec<PeerMemory>) {
        let node = &mut self.nodes[node];
        node.spec.known = memories;
        node.wg = WireGuard::new(&node.spec, 100);
        node.waiting.clear();
    }

    /// `from` sends `data` to the peer with this private key.
    pub fn send(&mut self, from: usize, to: u8, data: &[u8]) -> Sealed {
        let now = self.now_of(from);
        let id = public(to).id();
        let node = &mut self.nodes[from];
        let sealed = node.wg.seal(now, &id, data, false);
        match &sealed {
            Sealed::Datagram(transmit) => self.transmit(from, transmit.clone()),
            Sealed::Wait => node.waiting.entry(id).or_default().push(data.to_vec()),
            Sealed::NoEndpoint | Sealed::UnknownPeer => {}
        }
        self.flush(from);
        sealed
    }

    /// `data` arrives at `to` from anywhere.
    pub fn inject(&mut self, to: usize, from: SocketAddr, data: &[u8]) -> Received {
        let now = self.now_of(to);
        let node = &mut self.nodes[to];
        let mut plaintext = Vec::new();
        let received = node.wg.receive(now, node.at.ip(), from, data, &mut plaintext);
        match received {
            Received::Packet(id) => node.got.push((id, plaintext)),
            Received::Refused(why) => node.refused.push(why),
            Received::Protocol => {}
        }
        self.flush(to);
        received
    }

    /// Lets time pass.
    pub fn run(&mut self, for_ns: u64) {
        let end = self.mono + for_ns;
        loop {
            let packet = self.air.keys().next().map(|&(at, _)| at);
            let timer = self.nodes.iter().filter_map(|node| node.wg.poll_timeout()).min();
            let next = packet.into_iter().chain(timer).min().unwrap_or(u64::MAX);
            if next > end {
                break;
            }
            self.mono = self.mono.max(next);
            while let Some(first) = self.air.first_entry()
                && first.key().0 <= self.mono
            {
                let (from, to, data) = first.remove();
                if let Some(node) = self.nodes.iter().position(|node| node.at == to) {
                    self.inject(node, from, &data);
                }
            }
            for node in 0..self.nodes.len() {
                let now = self.now_of(node);
                self.nodes[node].wg.handle_timeout(now);
                self.flush(node);
            }
        }
        self.mono = end;
    }

    pub fn texts(&self, node: usize) -> Vec<String> {
        self.nodes[node].got.iter().map(|(_, data)| String::from_utf8_lossy(data).into_owned()).collect()
    }

    pub fn last_sent(&self, node: usize) -> Vec<u8> {
        self.nodes[node].sent.last().expect("it has sent").clone()
    }

    fn flush(&mut self, from: usize) {
        let now = self.now_of(from);
        while let Some(outcome) = self.nodes[from].wg.poll_outcome() {
            let node = &mut self.nodes[from];
            node.outcomes.push(outcome);
            if let HandshakeOutcome::Ready(id) = outcome {
                for data in node.waiting.remove(&id).unwrap_or_default() {
                    let node = &mut self.nodes[from];
                    match node.wg.seal(now, &id, &data, false) {
                        Sealed::Datagram(transmit) => self.transmit(from, transmit),
                        other => panic!("ready, and yet {other:?}"),
                    }
                }
            }
        }
        while let Some(transmit) = self.nodes[from].wg.poll_transmit() {
            self.transmit(from, transmit);
        }
    }

    fn transmit(&mut self, from: usize, Transmit { endpoint, datagram }: Transmit) {
        if datagram[0] == 4 {
            let receiver = u32::from_le_bytes(datagram[4..8].try_into().unwrap());
            let counter = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
            assert!(self.numbers.insert((from, receiver, counter)), "a counter was used twice");
        }
        if datagram[0] == 1 && self.begins_nothing == Some(from) {
            return;
        }
        let at = self.nodes[from].at;
        self.nodes[from].sent.push(datagram.clone());
        let copies = if self.chance(self.weather.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.chance(self.weather.lost) {
                let way = MS + self.roll() % ((self.weather.longest.max(1) - 1) * MS + 1);
                self.air.insert((self.mono + way, self.count), (at, endpoint.remote, datagram.clone()));
                self.count += 1;
            }
        }
    }

    fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.roll() % 1_000 < in_a_thousand
    }

    /// The next number of a fixed sequence (a xorshift generator).
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

/// `spec`, with the endpoint of a peer: the node of that number.
pub fn knowing(mut spec: WireGuardSpec, private: u8, node: usize) -> WireGuardSpec {
    let remote = SocketAddr::from(([192, 0, 2, node as u8 + 1], 51_820));
    let public_key = public(private);
    spec.known.push(PeerMemory { public_key, remote: Some(remote), local: None, recent: Recent::None });
    spec
}
