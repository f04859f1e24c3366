//! A Listener that gets more than its Destinations take, in simulated time: what is rendered, what comes out, how old it is,
//! and where the rest is counted.

use serde_json::{Value, json};
use sluice_core::{
    DataplaneSpec, Dropped, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Shared, Submission,
};
use sluice_io::{BatchQueue, Signals};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

const STEP: u64 = 1_000_000; // a millisecond, in nanoseconds
const EPOCH_MS: u64 = 1_780_000_000_000;
const QUEUE_BYTES: usize = 400 << 10;
const BATCH: usize = 20;

/// One Destination's other side: takes one batch after the other, `rate` packets a second.
#[derive(Default)]
struct Reader {
    rate: f64,
    /// When it is free again, in milliseconds.
    free: f64,
    taken: u64,
    /// The longest time that a packet waited since somebody last looked, in milliseconds.
    oldest: u64,
    by_flow: BTreeMap<String, u64>,
}

struct Rig {
    listener: Listener,
    queues: Vec<BatchQueue>,
    readers: Vec<Reader>,
    ms: u64,
    offered: u64,
}

impl Rig {
    fn new(rates: &[f64]) -> Rig {
        Rig::with(rates, 0.1)
    }

    fn with(rates: &[f64], timeout: f64) -> Rig {
        let destination = |index: usize| {
            json!({"Name": format!("d{index}"), "Formatter": "utf8", "Count": BATCH, "TimeoutSeconds": timeout,
                   "SizeBytes": 1 << 20, "QueueBytes": QUEUE_BYTES, "Bound": true})
        };
        let spec: ListenerSpec = serde_json::from_value(json!({
            "Id": 1, "Name": "l", "Domain": "d", "Bind": "0.0.0.0:2048", "ClientNetworks": ["0.0.0.0/0"],
            "SessionIdleSeconds": 300.0, "SessionLimit": 65_536, "RingBytes": 1 << 20,
            "Destinations": (0..rates.len()).map(destination).collect::<Vec<_>>(),
            "Sources": [{"Name": "s", "EgressNetworks": [], "HoldSeconds": 1.0, "RequireSession": true,
                         "DedupSeconds": 600.0, "DedupLimit": 1_000}],
        }))
        .unwrap();
        let plane: DataplaneSpec = serde_json::from_value(json!({
            "Node": 1, "Region": "r", "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}], "TagSeconds": 3600,
        }))
        .unwrap();
        let (shared, signals) = (Arc::new(Shared::new(&plane).unwrap()), Signals::new().unwrap());
        Rig {
            listener: Listener::new(spec, shared, "0.0.0.0:2048".parse().unwrap(), [1; 6]),
            queues: rates.iter().map(|_| BatchQueue::new(QUEUE_BYTES, &signals)).collect(),
            readers: rates.iter().map(|&rate| Reader { rate, ..Reader::default() }).collect(),
            ms: 0,
            offered: 0,
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.ms * STEP, unix_ms: EPOCH_MS + self.ms }
    }

    /// `flows`: name, port, and datagrams a millisecond of each, which come mixed.
    fn run(&mut self, ms: u64, flows: &[(&str, u16, u64)]) {
        for _ in 0..ms {
            let now = self.now();
            for turn in 0..flows.iter().map(|flow| flow.2).max().unwrap_or(0) {
                for (name, port, _) in flows.iter().filter(|flow| turn < flow.2) {
                    let payload = format!("{name} {} {}", self.ms, "x".repeat(64));
                    let remote = SocketAddr::from(([198, 51, 100, 7], *port));
                    self.listener.handle_datagram(now, [192, 0, 2, 1].into(), remote, payload.as_bytes());
                    self.offered += 1;
                }
            }
            self.listener.handle_timeout(now);
            while let Some((index, batch)) = self.listener.poll_batch() {
                self.listener.pushed(now, index, self.queues[index].push(batch));
            }
            self.read();
            self.ms += 1;
        }
    }

    fn read(&mut self) {
        for (reader, queue) in self.readers.iter_mut().zip(&self.queues) {
            while reader.rate > 0.0 && reader.free <= self.ms as f64 {
                let Some(batch) = queue.read(1).pop() else { break };
                for record in batch.records() {
                    let packet: Value = serde_json::from_slice(record).unwrap();
                    let mut parts = packet["Data"].as_str().unwrap().split(' ');
                    *reader.by_flow.entry(parts.next().unwrap().to_owned()).or_default() += 1;
                    reader.oldest = reader.oldest.max(self.ms - parts.next().unwrap().parse::<u64>().unwrap());
                }
                reader.taken += batch.count() as u64;
                reader.free = reader.free.max(self.ms as f64 - 1.0) + batch.count() as f64 / reader.rate * 1e3;
            }
        }
    }

    /// What the Destination was given and what it dropped, so far.
    fn counted(&self, index: usize) -> (u64, u64) {
        let counters = &self.listener.counters().destinations[index];
        (counters.packets, counters.dropped.get(&Dropped::QueueFull).copied().unwrap_or(0))
    }

    /// Lets the rest be taken, and checks that each packet was either taken or counted as dropped.
    fn settle(&mut self) {
        self.run(100, &[]);
        for reader in &mut self.readers {
            (reader.rate, reader.free) = (1e9, 0.0);
        }
        self.run(100, &[]);
        for (index, reader) in self.readers.iter().enumerate() {
            let (packets, dropped) = self.counted(index);
            assert_eq!((packets, reader.taken + dropped), (self.offered, self.offered), "Destination {index}");
        }
        assert_eq!(self.listener.counters().received_packets, self.offered);
    }
}

/// Packets rendered, from what their Tags cost: each has a number of its own.
fn tags_made(rig: &mut Rig) -> usize {
    rig.listener.take_events().len()
}

#[test]
fn six_times_what_a_destination_takes() {
    let mut rig = Rig::new(&[2_000.0]);
    rig.run(1_000, &[("a", 1, 12)]);
    rig.listener.watch(Kinds::PACKET_RECEIVED);
    rig.readers[0] = Reader { rate: 2_000.0, free: 1_000.0, ..Reader::default() };
    let (before, dropped_before) = rig.counted(0);
    rig.run(4_000, &[("a", 1, 12)]);
    let taken = rig.readers[0].taken;
    assert!((7_800..=8_200).contains(&taken), "it is given all that it takes: {taken}");
    let tags = tags_made(&mut rig);
    assert!((8_000..=10_000).contains(&tags), "little is rendered in vain: {tags} Tags for {taken} packets");
    let (packets, dropped) = rig.counted(0);
    assert_eq!(packets - before, 48_000);
    assert!(dropped - dropped_before > 38_000, "refused packets count as QueueFull");
    // The queue holds 4 MiB, which is what arrives in about 110 ms: no packet is older, refusals or not.
    assert!(rig.readers[0].oldest <= 150, "what is delivered is fresh: {} ms", rig.readers[0].oldest);
}

#[test]
fn the_accounts_are_exact() {
    let mut rig = Rig::new(&[2_000.0]);
    rig.run(700, &[("a", 1, 20)]);
    rig.settle();
}

#[test]
fn only_the_full_destination_refuses() {
    let mut rig = Rig::new(&[1_000.0, 1e9]);
    rig.run(3_000, &[("a", 1, 6)]);
    assert_eq!(rig.counted(1).1, 0, "the other Destination gets every packet");
    assert!(rig.counted(0).1 > 10_000);
    rig.settle();
}

#[test]
fn what_all_refuse_has_no_tag_but_a_session() {
    let mut rig = Rig::new(&[0.0, 0.0]);
    rig.run(2_000, &[("a", 1, 6)]);
    rig.listener.watch(Kinds::PACKET_RECEIVED);
    let received = rig.listener.counters().received_packets;
    rig.run(1_000, &[("a", 1, 5), ("newcomer", 2, 1)]);
    let tags = tags_made(&mut rig);
    let remote = json!({"Address": "198.51.100.7", "Port": 2});
    let body = json!({"Messages": [{"Data": "aGk=", "Remote": remote}]}).to_string().into_bytes();
    let (id, origin) = ("m".to_owned(), Origin::Source(0));
    let submission = Submission { id, origin, published_ms: None, body: body.into(), refusal: None, due: None };
    rig.listener.submit(rig.now(), &OwnEndpoints::default(), submission);
    assert!(rig.listener.next_outgoing(rig.now()).is_some(), "whoever is refused by a full queue has spoken");
    assert_eq!(rig.listener.counters().received_packets - received, 6_000);
    assert!(tags < 1_000, "a Destination that takes nothing gets a little, to have fresh packets: {tags} Tags");
    rig.settle();
}

#[test]
fn a_load_that_ends_is_refused_nothing_more() {
    let mut rig = Rig::new(&[2_000.0]);
    rig.run(2_000, &[("flood", 1, 12)]);
    let dropped = rig.counted(0).1;
    rig.run(1_000, &[("calm", 2, 1)]); // half of what it takes, from one moment to the next
    assert!(rig.counted(0).1 - dropped < 100, "{} of 1,000", rig.counted(0).1 - dropped);
    rig.settle();
}

#[test]
fn a_reader_that_becomes_faster_is_given_more() {
    let mut rig = Rig::new(&[500.0]);
    rig.run(2_000, &[("a", 1, 12)]);
    rig.readers[0].rate = 5_000.0;
    rig.run(1_000, &[("a", 1, 12)]);
    let before = rig.readers[0].taken;
    rig.run(1_000, &[("a", 1, 12)]);
    assert!(rig.readers[0].taken - before > 4_750, "{}", rig.readers[0].taken - before);
    rig.settle();
}

#[test]
fn a_reader_that_stood_still_finds_fresh_packets() {
    let mut rig = Rig::new(&[2_000.0]);
    rig.run(1_000, &[("a", 1, 12)]);
    rig.readers[0].rate = 0.0;
    rig.run(3_000, &[("a", 1, 12)]);
    rig.readers[0].rate = 2_000.0;
    rig.readers[0].free = rig.ms as f64;
    (rig.readers[0].taken, rig.readers[0].oldest) = (0, 0);
    rig.run(1_000, &[("a", 1, 12)]);
    assert!(rig.readers[0].taken > 1_500, "{}", rig.readers[0].taken);
    assert!(rig.readers[0].oldest <= 300, "{} ms", rig.readers[0].oldest);
}

#[test]
fn a_slow_reader_of_large_steps_is_never_without_packets() {
    // A batch each half second, and batches are closed after 20 ms: as many must be admitted as fill them.
    let mut rig = Rig::with(&[40.0], 0.02);
    rig.run(5_000, &[("a", 1, 6)]);
    let before = rig.readers[0].taken;
    rig.run(10_000, &[("a", 1, 6)]);
    assert_eq!(rig.readers[0].taken - before, 400);
    rig.settle();
}

#[test]
fn a_small_flow_has_its_share() {
    let mut rig = Rig::new(&[2_000.0]);
    rig.run(1_000, &[("flood", 1, 12)]);
    rig.readers[0].by_flow.clear();
    rig.run(5_000, &[("flood", 1, 11), ("small", 2, 1)]);
    let small = rig.readers[0].by_flow.get("small").copied().unwrap_or(0);
    assert!((600..=1_300).contains(&small), "one packet in six of 5,000: {small}");
}
