//! A Listener that gets more than its Destinations take, in simulated time: what is rendered, what comes out, how old it is,
//! and where the rest is counted.

use serde_json::{Value, json};
use sluice_core::{
    DataplaneSpec, Dropped, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Rejected, Shared, Submission,
    Unread,
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
    /// Datagrams of each buffer.
    run: usize,
    /// Datagrams whose content nobody asked for.
    unread: u64,
}

impl Rig {
    fn new(rates: &[f64]) -> Rig {
        Rig::with(rates, 0.1, &json!({}))
    }

    /// `more`: what else each Destination has.
    fn with(rates: &[f64], timeout: f64, more: &Value) -> Rig {
        let destination = |index: usize| {
            let mut spec = json!({"Name": format!("d{index}"), "Formatter": "utf8", "Count": BATCH, "SizeBytes": 1 << 20,
                                  "TimeoutSeconds": timeout, "QueueBytes": QUEUE_BYTES, "Bound": true});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let spec: ListenerSpec = serde_json::from_value(json!({
            "Id": 1, "Name": "l", "Domain": "d", "Bind": "0.0.0.0:2048", "ClientNetworks": ["198.51.100.0/24"],
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
            run: 1,
            unread: 0,
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.ms * STEP, unix_ms: EPOCH_MS + self.ms }
    }

    /// `flows`: name, port, and datagrams a millisecond of each, which come mixed.
    fn run(&mut self, ms: u64, flows: &[(&str, u16, u64)]) {
        for _ in 0..ms {
            let now = self.now();
            let turns = flows.iter().map(|flow| flow.2).max().unwrap_or(0);
            let arrived =
                (0..turns).flat_map(|turn| flows.iter().filter(move |flow| turn < flow.2)).collect::<Vec<_>>();
            let mut asked = vec![true; arrived.len()];
            self.listener.draw(now, arrived.len() * self.run, &mut asked);
            for ((name, port, _), asked) in arrived.into_iter().zip(asked) {
                let payload = format!("{name} {} {}", self.ms, "x".repeat(64));
                self.arrive(*port, payload.as_bytes(), asked);
            }
            self.listener.handle_timeout(now);
            while let Some((index, batch)) = self.listener.poll_batch() {
                self.listener.pushed(now, index, self.queues[index].push(batch));
            }
            self.read();
            self.ms += 1;
        }
    }

    /// A buffer of datagrams that were coalesced.
    fn arrive(&mut self, port: u16, payload: &[u8], asked: bool) {
        let (now, local) = (self.now(), [192, 0, 2, 1].into());
        let remote = SocketAddr::from(([198, 51, 100, 7], port));
        self.offered += self.run as u64;
        if asked {
            (0..self.run).for_each(|_| self.listener.handle_datagram(now, local, remote, payload));
        } else {
            self.unread += self.run as u64;
            let unread = Unread { bytes: payload.len() * self.run, each: payload.len() };
            self.listener.handle_unread(now, local, remote, unread);
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
    assert!(rig.unread > 36_000, "most of what is refused is not even read: {}", rig.unread);
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
    assert_eq!(rig.unread, 0);
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
    let mut rig = Rig::with(&[40.0], 0.02, &json!({}));
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

#[test]
fn coalesced_datagrams_are_shared_out_too() {
    let mut rig = Rig::new(&[6_000.0]);
    rig.run = 16;
    rig.run(1_000, &[("flood", 1, 1)]);
    (rig.readers[0].by_flow, rig.unread) = (BTreeMap::new(), 0);
    let before = rig.readers[0].taken;
    rig.run(4_000, &[("flood", 1, 1), ("second", 2, 1)]);
    let taken = rig.readers[0].taken - before;
    assert!((23_400..=24_600).contains(&taken), "it is given all that it takes: {taken}");
    assert!(rig.unread > 90_000, "{} of 128,000", rig.unread);
    let second = rig.readers[0].by_flow["second"];
    assert!((taken * 4 / 10..=taken * 6 / 10).contains(&second), "{second} of {taken}");
    rig.settle();
}

#[test]
fn both_full_destinations_are_given_what_they_take() {
    let mut rig = Rig::new(&[1_000.0, 4_000.0]);
    rig.run(2_000, &[("a", 1, 12)]);
    let before = [0, 1].map(|index| rig.readers[index].taken);
    rig.run(4_000, &[("a", 1, 12)]);
    let [slow, fast] = [0, 1].map(|index| rig.readers[index].taken - before[index]);
    assert!((3_900..=4_100).contains(&slow) && (15_600..=16_400).contains(&fast), "{slow}, {fast}");
    assert!(rig.unread > 24_000, "{}", rig.unread);
    rig.settle();
}

#[test]
fn a_filter_sees_every_packet() {
    let mut rig = Rig::with(&[0.0], 0.1, &json!({"Filter": "u8[0] = 97"}));
    rig.run(2_000, &[("a", 1, 12), ("b", 2, 3)]);
    let counters = &rig.listener.counters().destinations[0];
    assert_eq!((counters.packets, counters.filtered, rig.unread), (24_000, 6_000, 0));
    assert!(rig.counted(0).1 > 10_000);
}

#[test]
fn whoever_may_not_speak_is_counted_as_that_unread_too() {
    let mut rig = Rig::new(&[0.0]);
    rig.run(2_000, &[("a", 1, 12)]);
    let bytes = rig.listener.counters().received_bytes;
    let mut asked = [true; 64];
    assert!(rig.listener.draw(rig.now(), 64, &mut asked));
    rig.listener.watch(Kinds::PACKET_REJECTED);
    let unread = Unread { bytes: 25, each: 10 };
    rig.listener.handle_unread(rig.now(), [192, 0, 2, 1].into(), "203.0.113.1:5".parse().unwrap(), unread);
    let counters = rig.listener.counters();
    assert_eq!((counters.received_packets, counters.rejected[&Rejected::RefusedNetwork]), (24_003, 3));
    assert_eq!(counters.received_bytes, bytes + 25);
    let sizes = rig.listener.take_events().into_iter().map(|event| event.bytes).collect::<Vec<_>>();
    assert_eq!(sizes, [Some(10), Some(10), Some(5)]);
}
