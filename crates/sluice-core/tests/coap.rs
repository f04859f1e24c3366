//! Exchanges of CoAP through a Listener: repeated messages, slow handlers, answers that nobody acknowledges. The time is
//! the test's.

use serde_json::{Value, json};
use sluice_core::{
    DataplaneSpec, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Pushed, Reason, Shared, Submission, own::Local,
    reason::Rejected,
};
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
const CLIENT: &str = "198.51.100.7:1";
const OTHER: &str = "198.51.100.8:1";
const GATEWAY: &str = "192.0.2.10";
const GET: &[u8] = b"\x42\x01\x00\x07\xaa\xbb\xb4time";
const EMPTY_ACK: &[u8] = b"\x60\x00\x00\x07";

struct Node {
    listener: Listener,
    own: OwnEndpoints,
    now: Now,
    wire: Vec<(String, Vec<u8>)>,
    /// Tags and payloads that the handler has.
    delivered: Vec<(Value, Value)>,
}

fn spec(coap: Value) -> ListenerSpec {
    let destination = |name: &str, formatter: &str| {
        json!({"Name": name, "Formatter": formatter, "Count": 1, "TimeoutSeconds": 0.1, "SizeBytes": 1 << 20,
               "QueueBytes": 1 << 20, "Bound": true})
    };
    serde_json::from_value(json!({
        "Id": 7, "Name": "devices", "Domain": "ingress-1", "Bind": "0.0.0.0:5683", "ClientNetworks": ["0.0.0.0/0"],
        "SessionIdleSeconds": 300, "SessionLimit": 1000, "RingBytes": 1 << 20, "Coap": coap,
        "Destinations": [destination("server", "coap"), destination("raw", "hex")],
        "Sources": [{"Name": "later", "EgressNetworks": ["0.0.0.0/0"], "HoldSeconds": 60, "DedupSeconds": 1, "DedupLimit": 1}],
    }))
    .unwrap()
}

impl Node {
    fn new(coap: Value) -> Node {
        let plane: DataplaneSpec = serde_json::from_value(json!({
            "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "a".repeat(64)}], "TagSeconds": 3600,
        }))
        .unwrap();
        let shared = Arc::new(Shared::new(&plane).unwrap());
        let listener = Listener::new(spec(coap), shared, "0.0.0.0:5683".parse().unwrap(), [1; 6]);
        let mut own = OwnEndpoints::default();
        own.listen(listener.bound(), false);
        let now = Now { mono: 0, unix_ms: 1_780_000_000_000 };
        Node { listener, own, now, wire: Vec::new(), delivered: Vec::new() }
    }

    fn housekeeping() -> Node {
        Node::new(json!({"Deduplicate": true, "AcknowledgeAfter": 1.5}))
    }

    fn receive(&mut self, remote: &str, payload: &[u8]) {
        self.listener.handle_datagram(self.now, GATEWAY.parse().unwrap(), remote.parse().unwrap(), payload);
        self.drain();
    }

    /// Lets time pass as the I/O thread does: from moment to moment.
    fn pass(&mut self, seconds: f64) {
        let end = self.now.mono + (seconds * SECOND as f64) as u64;
        while let Some(at) = self.listener.poll_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now.mono);
            self.at(at);
        }
        self.at(end);
    }

    fn at(&mut self, mono: u64) {
        self.now.unix_ms += (mono - self.now.mono) / 1_000_000;
        self.now.mono = mono;
        self.listener.handle_timeout(self.now);
        self.drain();
    }

    fn submit(&mut self, origin: Origin, body: Value) -> Vec<Reason> {
        let body = body.to_string().into_bytes().into();
        let submission = Submission { id: "s".into(), origin, published_ms: None, body, refusal: None, due: None };
        self.listener.submit(self.now, &self.own, submission);
        self.drain();
        let completion = self.listener.poll_completion().unwrap();
        completion.failures.iter().map(|failure| failure.reason).collect()
    }

    fn reply(&mut self, nth: usize, answer: Value) {
        let body = json!({"Replies": [{"Tag": self.delivered[nth].0, "Data": answer.to_string()}]});
        assert_eq!(self.submit(Origin::Destination(0), body), []);
    }

    fn drain(&mut self) {
        self.listener.judge_protocol(&self.own);
        while let Some(outgoing) = self.listener.next_outgoing(self.now) {
            assert_eq!(outgoing.local, Some(GATEWAY.parse().unwrap()));
            self.wire.push((outgoing.remote.to_string(), outgoing.payload.to_vec()));
            self.listener.sent(self.now);
        }
        while let Some((destination, batch)) = self.listener.poll_batch() {
            let packets = batch.records().map(|record| serde_json::from_slice::<Value>(record).unwrap());
            if destination == 0 {
                self.delivered.extend(packets.map(|packet| (packet["Tag"].clone(), packet["Data"].clone())));
            }
        }
    }

    /// What was sent since the last call.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.wire).into_iter().map(|(_, payload)| payload).collect()
    }

    fn rejected(&self, why: Rejected) -> u64 {
        self.listener.counters().rejected.get(&why).copied().unwrap_or(0)
    }
}

fn content(kind: u8, id: u16) -> Value {
    json!({"Type": kind, "Code": "2.05", "MessageId": id, "Token": "qrs=", "Payload": "b2s="})
}

/// The separate answer, and the Message ID that it was given.
fn separate(datagram: &[u8]) -> u16 {
    assert_eq!((&datagram[..2], &datagram[4..]), (&b"\x42\x45"[..], &b"\xaa\xbb\xffok"[..]));
    u16::from_be_bytes([datagram[2], datagram[3]])
}

#[test]
fn without_it_the_gateway_adds_nothing() {
    let mut node = Node::new(Value::Null);
    node.receive(CLIENT, GET);
    node.receive(CLIENT, GET);
    node.pass(300.0);
    assert_eq!((node.delivered.len(), node.sent()), (2, vec![]));
    assert_eq!(node.listener.counters().coap, None);
}

#[test]
fn a_repeated_message_gets_its_answer_again_and_is_delivered_once() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    // Before there is an answer, there is nothing to give.
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (1, vec![]));
    node.reply(0, content(2, 7));
    let answer = b"\x62\x45\x00\x07\xaa\xbb\xffok".to_vec();
    assert_eq!(node.sent(), vec![answer.clone()]);
    node.receive(CLIENT, GET);
    node.pass(246.9);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (1, vec![answer.clone(), answer]));
    assert_eq!(node.rejected(Rejected::CoapRepeated), 3);
    // The Message ID may be used again after EXCHANGE_LIFETIME.
    node.pass(0.1);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (2, vec![]));
    let counters = node.listener.counters();
    assert_eq!(counters.received_packets, 5);
    assert_eq!(counters.destinations[0].packets + counters.rejected.values().sum::<u64>(), 5);
}

#[test]
fn a_message_that_gave_way_in_a_full_queue_is_delivered_when_it_comes_again() {
    let mut node = Node::housekeeping();
    let pushed = |node: &mut Node, taken, evicted| {
        node.listener.pushed(node.now, 0, Pushed { taken, evicted, ..Pushed::default() });
    };
    node.receive(CLIENT, b"\x50\x01\x00\x01\xb4time");
    for remote in [CLIENT, OTHER, "198.51.100.9:1"] {
        node.receive(remote, GET);
    }
    // The first request was read; the second gave way; the third waits.
    pushed(&mut node, 2, 1);
    assert_eq!(node.delivered.len(), 4);
    for remote in [CLIENT, OTHER, "198.51.100.9:1"] {
        node.receive(remote, GET);
    }
    assert_eq!((node.delivered.len(), node.rejected(Rejected::CoapRepeated)), (5, 2));
    // Nobody acknowledges what nobody will read; what was answered before it gave way is not delivered again.
    node.reply(3, content(2, 7));
    pushed(&mut node, 0, 2);
    node.sent();
    node.pass(2.0);
    assert_eq!(node.wire.iter().map(|(remote, _)| remote.as_str()).collect::<Vec<_>>(), [CLIENT]);
    node.receive("198.51.100.9:1", GET);
    node.receive(OTHER, GET);
    assert_eq!((node.delivered.len(), node.rejected(Rejected::CoapRepeated)), (6, 3));
}

#[test]
fn the_same_message_id_of_another_remote_is_another_exchange() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.receive(OTHER, GET);
    assert_eq!(node.delivered.len(), 2);
    node.reply(0, content(2, 7));
    node.sent();
    node.receive(OTHER, GET);
    assert_eq!(node.sent(), [b""; 0]);
}

#[test]
fn another_message_under_a_message_id_in_use_gets_nothing_of_the_answer_before() {
    let mut node = Node::housekeeping();
    let other = b"\x42\x01\x00\x07\xcc\xdd\xb4time";
    node.receive(CLIENT, GET);
    node.reply(0, content(2, 7));
    assert_eq!(node.sent().len(), 1);
    node.receive(CLIENT, other);
    assert_eq!((node.delivered.len(), node.sent()), (2, vec![]));
    // A late answer to the message before is not the answer to this one.
    node.reply(0, content(2, 7));
    assert_eq!(node.sent().len(), 1);
    node.receive(CLIENT, other);
    assert_eq!((node.delivered.len(), node.sent()), (2, vec![]));
    node.pass(2.0);
    assert_eq!(node.sent(), [EMPTY_ACK]);
}

#[test]
fn a_forged_address_gets_an_answer_again_a_few_times() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.reply(0, content(2, 7));
    (0..100).for_each(|_| node.receive(CLIENT, GET));
    assert_eq!((node.sent().len(), node.rejected(Rejected::CoapRepeated)), (17, 100));
}

#[test]
fn without_deduplication_each_message_is_acknowledged_too() {
    let mut node = Node::new(json!({"Deduplicate": false, "AcknowledgeAfter": 1.5}));
    node.receive(CLIENT, GET);
    node.pass(2.0);
    assert_eq!(node.sent(), [EMPTY_ACK]);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (2, vec![EMPTY_ACK.to_vec()]));
    // The Message ID may be used again: a new exchange.
    node.pass(247.0);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (3, vec![]));
    node.pass(2.0);
    assert_eq!(node.sent(), [EMPTY_ACK]);
}

#[test]
fn packets_of_the_destination_that_spoke_coap_before_are_not_those_of_the_next() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    let mut changed = spec(json!({"Deduplicate": true}));
    let [server, raw] = &mut changed.destinations[..] else { unreachable!() };
    std::mem::swap(&mut server.formatter, &mut raw.formatter);
    node.listener.update(node.now, changed).unwrap();
    let lost = Pushed { joined: false, evicted: 1, taken: 0, roomy: false };
    node.listener.pushed(node.now, 1, lost);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.rejected(Rejected::CoapRepeated)), (1, 1));
}

#[test]
fn non_confirmable_messages_and_strangers_acknowledgements_are_delivered() {
    let mut node = Node::housekeeping();
    for _ in 0..2 {
        node.receive(CLIENT, b"\x50\x01\x00\x07\xb4time");
        node.receive(CLIENT, b"\x60\x00\x00\x09");
        node.receive(CLIENT, b"\x70\x00\x00\x09");
        node.receive(CLIENT, b"\x40\x00\x00\x0a"); // a ping: only the handler may say that it is none
    }
    node.pass(10.0);
    assert_eq!((node.delivered.len(), node.sent()), (8, vec![]));
}

#[test]
fn a_slow_handler_is_acknowledged_and_its_answer_is_repeated_until_it_is_acknowledged() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.pass(1.4);
    assert_eq!(node.sent(), [b""; 0]);
    node.pass(0.1);
    assert_eq!(node.sent(), [EMPTY_ACK]);
    node.receive(CLIENT, GET);
    assert_eq!((node.sent(), node.delivered.len()), (vec![EMPTY_ACK.to_vec()], 1));
    node.reply(0, content(2, 7));
    let sent = node.sent();
    let id = separate(&sent[0]);
    // ACK_TIMEOUT is 2 s to 3 s.
    node.pass(1.9);
    assert_eq!(node.sent(), [b""; 0]);
    node.pass(1.2);
    assert_eq!(node.sent(), sent);
    // Somebody else's acknowledgement is not this one.
    let ack = [b"\x60\x00".to_vec(), id.to_be_bytes().to_vec()].concat();
    node.receive(OTHER, &ack);
    assert_eq!(node.delivered.len(), 2);
    node.receive(CLIENT, &ack);
    node.pass(300.0);
    assert_eq!((node.sent().len(), node.delivered.len()), (0, 2));
    assert_eq!(node.rejected(Rejected::CoapAcknowledged), 1);
    let counted = node.listener.counters().coap.clone().unwrap();
    assert_eq!(
        (counted.acknowledgements, counted.answered_again, counted.retransmissions, counted.unacknowledged),
        (1, 1, 1, 0)
    );
}

#[test]
fn an_answer_that_nobody_acknowledges_is_sent_five_times_in_all() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.pass(1.5);
    node.reply(0, content(2, 7));
    node.pass(2.0 + 4.0 + 8.0 + 16.0 - 0.1);
    let early = node.sent().len();
    assert!((4..=5).contains(&early), "{early}");
    node.pass(93.0);
    assert_eq!(early + node.sent().len(), 6, "an acknowledgement, the answer, four repetitions");
    assert_eq!(node.listener.counters().coap.as_ref().unwrap().unacknowledged, 1);
    assert_eq!(node.listener.poll_timeout(), None);
}

#[test]
fn a_reset_ends_the_repetitions_too() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.pass(1.5);
    node.reply(0, content(2, 7));
    let id = separate(&node.sent()[1]);
    node.receive(CLIENT, &[b"\x70\x00".to_vec(), id.to_be_bytes().to_vec()].concat());
    node.pass(100.0);
    assert_eq!((node.sent().len(), node.delivered.len()), (0, 1));
}

#[test]
fn an_answer_by_its_tag_through_a_packet_source_is_the_answer_too() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.pass(2.0);
    node.sent();
    let entry = json!({"Tag": node.delivered[0].0, "Formatter": "coap", "Data": content(2, 7).to_string()});
    assert_eq!(node.submit(Origin::Source(0), json!({"Messages": [entry]})), []);
    let sent = node.sent();
    separate(&sent[0]);
    node.pass(3.0);
    assert_eq!(node.sent(), sent);
}

#[test]
fn a_handler_that_acknowledges_by_itself_is_left_alone() {
    let mut node = Node::housekeeping();
    node.receive(CLIENT, GET);
    node.reply(0, json!({"Type": 2, "Code": "0.00", "MessageId": 7}));
    node.pass(2.0);
    node.reply(0, content(0, 99));
    node.pass(100.0);
    assert_eq!(node.sent(), [EMPTY_ACK.to_vec(), b"\x42\x45\x00\x63\xaa\xbb\xffok".to_vec()]);
    node.receive(CLIENT, GET);
    assert_eq!(node.sent(), [EMPTY_ACK]);
}

#[test]
fn a_message_that_its_destination_did_not_get_is_neither_acknowledged_nor_remembered() {
    let mut node = Node::housekeeping();
    let mut changed = spec(json!({"Deduplicate": true, "AcknowledgeAfter": 1.5}));
    changed.destinations[0].filter = Some(serde_json::from_value(json!("[1] != 0x01")).unwrap());
    node.listener.update(node.now, changed).unwrap();
    node.receive(CLIENT, GET);
    node.pass(2.0);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (0, vec![]));
    assert_eq!(node.listener.counters().destinations[1].packets, 2);
}

#[test]
fn each_part_works_alone_and_an_update_changes_them() {
    let mut node = Node::new(json!({"Deduplicate": true}));
    node.receive(CLIENT, GET);
    node.pass(100.0);
    node.receive(CLIENT, GET);
    assert_eq!((node.delivered.len(), node.sent()), (1, vec![]));
    node.listener.update(node.now, spec(json!({"Deduplicate": false, "AcknowledgeAfter": 0.5}))).unwrap();
    node.receive(OTHER, GET);
    node.receive(OTHER, GET);
    node.pass(1.0);
    assert_eq!((node.delivered.len(), node.sent()), (3, vec![EMPTY_ACK.to_vec()]));
    node.listener.update(node.now, spec(Value::Null)).unwrap();
    node.reply(1, content(2, 7));
    node.pass(100.0);
    assert_eq!(node.sent().len(), 1, "off: it leaves as it is, once");
}

#[test]
fn what_is_malformed_is_never_answered() {
    let mut node = Node::housekeeping();
    for kind in 0..4u8 {
        for rest in [&b"\x01\x00\x07\xff"[..], b"\x00\x00\x07\x01", b"\x45\x00\x07\xf0", b"\x01\x00"] {
            for _ in 0..2 {
                node.receive(CLIENT, &[&[0x40 | kind << 4], rest].concat());
            }
        }
    }
    node.pass(100.0);
    assert_eq!((node.delivered.len(), node.sent()), (0, vec![]));
    let counters = node.listener.counters();
    assert_eq!(counters.destinations[0].dropped.values().sum::<u64>(), 32);
    assert_eq!(counters.destinations[1].packets, 32);
}

#[test]
fn nothing_goes_where_no_answer_may_go() {
    let mut node = Node::housekeeping();
    for remote in ["169.254.169.254:53", "192.0.2.10:5683", "198.51.100.7:0"] {
        node.receive(remote, GET);
    }
    node.own.routes.add(GATEWAY.parse::<std::net::IpAddr>().unwrap().into(), Local::Address);
    node.pass(2.0);
    let to: Vec<_> = node.wire.iter().map(|(remote, _)| remote.as_str()).collect();
    assert!(to.is_empty(), "{to:?}");
    let coap = node.listener.counters().coap.as_ref().unwrap();
    assert_eq!((coap.acknowledgements, coap.not_sent), (3, 2), "an own Listener is seen later");
}
