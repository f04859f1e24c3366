//! Answers that come back: two gateways that echo, over a simulated network, and clients that are no loop.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_core::{
    Completion, DataplaneSpec, Event, Kinds, Listener, Now, Origin, OwnEndpoints, Reason, Shared, Submission,
};
use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const HERE: &str = "192.0.2.10:2048";
const THERE: &str = "192.0.2.20:2048";
const CLIENT: &str = "198.51.100.7:40001";

fn rules(change: impl FnOnce(&mut Value)) -> Value {
    let mut rules =
        json!({"RefusePorts": [7, 13, 17, 19, 37], "LoopGuard": true, "LoopExempt": ["127.0.0.0/8", "::1/128"]});
    change(&mut rules);
    rules
}

fn shared(answers: Value) -> Arc<Shared> {
    let spec: DataplaneSpec = serde_json::from_value(json!({
        "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "0".repeat(64)}], "TagSeconds": 3600,
        "Answers": answers,
    }))
    .unwrap();
    Arc::new(Shared::new(&spec).unwrap())
}

/// A gateway whose handler answers each batch after a millisecond.
struct Gateway {
    listener: Listener,
    at: SocketAddr,
    /// What left, and has not been taken.
    wire: VecDeque<(SocketAddr, Vec<u8>)>,
    answers_sent: u64,
    completions: Vec<Completion>,
    events: Vec<Event>,
    /// What the handler makes of a packet's data.
    handler: fn(&str) -> Vec<String>,
}

impl Gateway {
    fn new(at: &str, answers: Value) -> Gateway {
        let spec = json!({
            "Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": "0.0.0.0:2048",
            "ClientNetworks": ["0.0.0.0/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000, "RingBytes": 1 << 20,
            "Destinations": [{"Name": "echo", "Formatter": "utf8", "Count": 100, "TimeoutSeconds": 0.001,
                              "SizeBytes": 1 << 20, "QueueBytes": 1 << 20, "Bound": true}],
            "Sources": [{"Name": "replies", "EgressNetworks": ["0.0.0.0/0"], "HoldSeconds": 60,
                         "DedupSeconds": 600, "DedupLimit": 1000}],
        });
        let spec = serde_json::from_value(spec).unwrap();
        let mut listener = Listener::new(spec, shared(answers), "0.0.0.0:2048".parse().unwrap(), [1; 6]);
        listener.watch(Kinds::LOOP_SUSPECTED);
        Gateway {
            listener,
            at: at.parse().unwrap(),
            wire: VecDeque::new(),
            answers_sent: 0,
            completions: Vec::new(),
            events: Vec::new(),
            handler: |data| vec![data.to_owned()],
        }
    }

    fn receive(&mut self, now: u64, remote: &str, payload: &[u8]) {
        self.listener.handle_datagram(at(now), self.at.ip(), remote.parse().unwrap(), payload);
    }

    /// Lets the handler answer what is due by `now`.
    fn turn(&mut self, now: u64) {
        self.listener.handle_timeout(at(now));
        while let Some((_, batch)) = self.listener.poll_batch() {
            let body: Value = serde_json::from_slice(batch.body()).unwrap();
            let packets = body["Messages"].as_array().unwrap();
            let replies = packets.iter().flat_map(|packet| {
                let answers = (self.handler)(packet["Data"].as_str().unwrap());
                answers.into_iter().map(|data| json!({"Tag": packet["Tag"], "Data": data}))
            });
            let body = json!({"Replies": replies.collect::<Vec<_>>()});
            self.submit(now, Origin::Destination(0), body);
        }
        self.events.append(&mut self.listener.take_events());
    }

    fn submit(&mut self, now: u64, origin: Origin, body: Value) {
        let body = body.to_string().into_bytes();
        let submission =
            Submission { id: "m".into(), origin, published_ms: None, body: body.into(), refusal: None, due: None };
        self.listener.submit(at(now), &OwnEndpoints::default(), submission);
        while let Some(packet) = self.listener.next_outgoing(at(now)) {
            self.wire.push_back((packet.remote, packet.payload.to_vec()));
            self.listener.sent(at(now));
            self.answers_sent += 1;
        }
        self.completions.extend(std::iter::from_fn(|| self.listener.poll_completion()));
    }

    fn failed(&self, why: Reason) -> u64 {
        self.listener.counters().destinations[0].replies_failed.get(&why).copied().unwrap_or(0)
    }

    /// A client sends `payload`, and the handler answers at once or not: whether it did.
    fn ping(&mut self, now: u64, client: &str, payload: &str) -> bool {
        let before = self.answers_sent;
        self.receive(now, client, payload.as_bytes());
        self.turn(now + MS);
        self.answers_sent > before
    }
}

fn at(mono: u64) -> Now {
    Now { mono, unix_ms: 1_780_000_000_000 + mono / MS }
}

/// Two gateways, a millisecond apart.
struct Pair(Gateway, Gateway);

impl Pair {
    fn new() -> Pair {
        Pair(Gateway::new(HERE, rules(|_| {})), Gateway::new(THERE, rules(|_| {})))
    }

    fn pass(&mut self, from: u64, milliseconds: u64) {
        for now in (0..milliseconds).map(|n| from + n * MS) {
            let (here, there): (Vec<_>, Vec<_>) = (self.0.wire.drain(..).collect(), self.1.wire.drain(..).collect());
            for (to, payload) in here {
                assert_eq!(to, self.1.at);
                self.1.receive(now, HERE, &payload);
            }
            for (to, payload) in there {
                assert_eq!(to, self.0.at);
                self.0.receive(now, THERE, &payload);
            }
            self.0.turn(now);
            self.1.turn(now);
        }
    }

    fn sent(&self) -> u64 {
        self.0.answers_sent + self.1.answers_sent
    }

    fn loops(&self) -> usize {
        self.0.events.len() + self.1.events.len()
    }
}

#[test]
fn two_gateways_that_echo_end_after_one_spoofed_packet() {
    let mut pair = Pair::new();
    pair.0.receive(0, THERE, b"x");
    pair.pass(0, 5_000);
    assert!((1_900..=2_100).contains(&pair.sent()), "{}", pair.sent());
    assert_eq!(pair.loops(), 1);
    let loops = pair.0.listener.counters().loops_suspected + pair.1.listener.counters().loops_suspected;
    assert_eq!(loops, 1);
    let refused = pair.0.failed(Reason::LoopSuspected) + pair.1.failed(Reason::LoopSuspected);
    assert_eq!(refused, 1);
}

#[test]
fn the_same_packet_spoofed_again_gets_one_answer_each_in_ten_seconds() {
    let mut pair = Pair::new();
    pair.0.receive(0, THERE, b"x");
    pair.pass(0, 5_000);
    let before = pair.sent();
    let first_is_limited = !pair.0.events.is_empty();
    for n in 0..600 {
        let now = 5 * SECOND + n * 100 * MS;
        match first_is_limited {
            true => pair.0.receive(now, THERE, b"x"),
            false => pair.1.receive(now, HERE, b"x"),
        }
        pair.pass(now, 100);
    }
    assert!(pair.sent() - before <= 2 * 7, "{}", pair.sent() - before);
    assert!(pair.sent() > before);
}

#[test]
fn several_spoofed_packets_end_too() {
    let mixtures: [&[&str]; 5] =
        [&["a", "b"], &["a", "b", "c"], &["a", "a", "a"], &["a", "", "a", "b"], &["longer", "a"]];
    for packets in mixtures {
        let mut pair = Pair::new();
        for packet in packets {
            pair.0.receive(0, THERE, packet.as_bytes());
        }
        pair.pass(0, 5_000);
        assert!(pair.sent() <= 2_100 + 4 * packets.len() as u64, "{packets:?}: {}", pair.sent());
        assert_eq!(pair.loops(), 1, "{packets:?}");
    }
}

#[test]
fn a_hundred_spoofed_packets_one_after_the_other_end_too() {
    let mut pair = Pair::new();
    for n in 0..100 {
        pair.0.receive(n * 3 * MS, THERE, format!("packet {n}").as_bytes());
        pair.pass(n * 3 * MS, 3);
    }
    pair.pass(300 * MS, 10_000);
    assert!(pair.sent() <= 20_000, "{}", pair.sent());
    assert!(pair.0.wire.is_empty() && pair.1.wire.is_empty());
}

#[test]
fn a_loop_that_grows_ends() {
    let mut pair = Pair::new();
    pair.1.handler = |data| vec![data.to_owned(), data.to_owned()];
    pair.0.receive(0, THERE, b"x");
    pair.pass(0, 5_000);
    assert!(pair.sent() <= 10_000, "{}", pair.sent());
    assert!(pair.0.wire.is_empty() && pair.1.wire.is_empty());
}

#[test]
fn tags_in_messages_are_answers_and_remotes_are_not() {
    let mut one = Gateway::new(HERE, rules(|_| {}));
    one.handler = |_| Vec::new();
    one.receive(0, CLIENT, b"x");
    one.listener.handle_timeout(at(MS));
    let (_, batch) = one.listener.poll_batch().unwrap();
    let body: Value = serde_json::from_slice(batch.body()).unwrap();
    let tag = body["Messages"][0]["Tag"].clone();
    let mut outcomes = Vec::new();
    for n in 0..1_100 {
        one.submit(n * 2 * MS, Origin::Source(0), json!({"Messages": [{"Tag": tag, "Data": "eA=="}]}));
        outcomes.extend(one.completions.drain(..).map(|completion| completion.failures.first().map(|f| f.reason)));
        one.receive(n * 2 * MS + MS, CLIENT, b"x");
    }
    assert_eq!(outcomes.iter().position(|outcome| *outcome == Some(Reason::LoopSuspected)), Some(1_000));
    one.submit(3 * SECOND, Origin::Source(0), json!({"Data": "eA==", "Remote": {"IP": "198.51.100.7", "Port": 40001}}));
    assert_eq!(one.completions.pop().unwrap().sent, 1);
}

#[test]
fn what_is_different_lifts_the_limit() {
    let mut one = Gateway::new(HERE, rules(|_| {}));
    let answered = (0..1_500).filter(|n| one.ping(n * 5 * MS, CLIENT, "x")).count();
    assert_eq!(answered, 1_000);
    assert!(one.ping(8 * SECOND, CLIENT, "y"));
    assert!(one.ping(8 * SECOND + MS, CLIENT, "x"));
    assert_eq!(one.events.len(), 1);
    assert_eq!(one.events[0].remote, Some(CLIENT.parse().unwrap()));
}

#[test]
fn others_are_answered_while_one_is_limited() {
    let mut one = Gateway::new(HERE, rules(|_| {}));
    assert_eq!((0..1_500).filter(|n| one.ping(n * 5 * MS, CLIENT, "x")).count(), 1_000);
    assert!(!one.ping(8 * SECOND, CLIENT, "x"));
    assert!(one.ping(8 * SECOND, "198.51.100.7:40002", "x"));
}

#[test]
fn the_guard_can_be_switched_off_and_leaves_exempt_networks_alone() {
    let mut off = Gateway::new(HERE, rules(|rules| rules["LoopGuard"] = json!(false)));
    assert_eq!((0..3_000).filter(|n| off.ping(n * MS, CLIENT, "x")).count(), 3_000);
    let mut listed = Gateway::new(HERE, rules(|rules| rules["LoopExempt"] = json!(["198.51.100.0/24"])));
    assert_eq!((0..3_000).filter(|n| listed.ping(n * MS, CLIENT, "x")).count(), 3_000);
    assert_eq!((0..3_000).filter(|n| listed.ping(n * MS, "198.51.101.7:1", "x")).count(), 1_000);
}

#[test]
fn twenty_thousand_equal_pings_over_loopback_are_answered() {
    let mut one = Gateway::new(HERE, rules(|_| {}));
    assert_eq!((0..20_000).filter(|n| one.ping(n * MS / 10, "127.0.0.1:40001", "x")).count(), 20_000);
}

#[test]
fn ports_of_services_that_answer_anything_get_no_answer() {
    let mut one = Gateway::new(HERE, rules(|_| {}));
    for port in [7, 13, 17, 19, 37] {
        assert!(!one.ping(0, &format!("198.51.100.7:{port}"), "x"));
        let remote = json!({"IP": "198.51.100.7", "Port": port});
        one.submit(0, Origin::Source(0), json!({"Data": "eA==", "Remote": remote}));
        assert_eq!(one.completions.pop().unwrap().sent, 1, "what a publisher names is no answer");
    }
    assert_eq!(one.failed(Reason::AnswerRefused), 5);
    assert!(one.ping(0, "198.51.100.7:20", "x"));
    let mut none = Gateway::new(HERE, rules(|rules| rules["RefusePorts"] = json!([53])));
    assert!(none.ping(0, "198.51.100.7:7", "x"));
    assert!(!none.ping(0, "198.51.100.7:53", "x"));
}

#[test]
fn answers_to_one_remote_are_limited_where_the_operator_says_so() {
    let mut one = Gateway::new(HERE, rules(|rules| rules["PerSecond"] = json!(20.0)));
    let answered = (0..1_000).filter(|n| one.ping(n * 10 * MS, CLIENT, &n.to_string())).count();
    assert!((200..=221).contains(&answered), "{answered}");
    assert_eq!(one.failed(Reason::RateLimited), 1_000 - answered as u64);
    assert!(one.ping(10 * SECOND, "198.51.100.7:40002", "x"));
    let mut slow = Gateway::new(HERE, rules(|rules| rules["PerSecond"] = json!(0.1)));
    assert_eq!((0..60).filter(|n| slow.ping(n * SECOND, CLIENT, &n.to_string())).count(), 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_numbered_payload_at_full_rate_is_untouched(pause in 1u64..200_000, batch in 1u64..40) {
        let mut one = Gateway::new(HERE, rules(|_| {}));
        for n in 0..2_000 {
            one.receive(n * pause, CLIENT, n.to_string().as_bytes());
            if n % batch == 0 {
                one.turn(n * pause + MS);
            }
        }
        one.turn(2_000 * pause + SECOND);
        prop_assert_eq!(one.answers_sent, 2_000);
    }

    #[test]
    fn a_constant_heartbeat_is_untouched(late in prop::collection::vec(0u64..20, 30), takes in 1u64..900) {
        let mut one = Gateway::new(HERE, rules(|_| {}));
        for beat in 0..2_000u64 {
            let now = beat * SECOND + late[(beat % 30) as usize] * MS;
            one.receive(now, CLIENT, b"alive");
            one.turn(now + takes * MS);
        }
        prop_assert_eq!(one.answers_sent, 2_000);
    }

    #[test]
    fn nine_hundred_equal_pings_are_untouched(pause in 1u64..400_000) {
        let mut one = Gateway::new(HERE, rules(|_| {}));
        for series in 0..3 {
            let first = series * 1_500 * SECOND;
            prop_assert_eq!((0..900).filter(|n| one.ping(first + n * pause, CLIENT, "x")).count(), 900);
        }
    }

    #[test]
    fn a_loop_ends_however_its_packets_are_spread(spread in prop::collection::vec((0u64..50, 0u8..6), 1..12)) {
        let mut pair = Pair::new();
        let mut now = 0;
        for (pause, kind) in &spread {
            pair.pass(now, *pause);
            now += pause * MS;
            pair.0.receive(now, THERE, &[b'a' + kind]);
        }
        pair.pass(now, 6_000);
        prop_assert!(pair.sent() <= 2_100 + 1_100 * spread.len() as u64, "{}", pair.sent());
        prop_assert!(pair.0.wire.is_empty() && pair.1.wire.is_empty());
    }
}
