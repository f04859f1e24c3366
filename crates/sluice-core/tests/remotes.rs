//! One payload, many remotes (contract section 4.1): each is judged, counted, paced, remembered and failing alone.

use serde_json::{Value, json};
use sluice_core::{
    About, Completion, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Reason, Shared, Submission,
};
use std::{net::SocketAddr, sync::Arc};

const SECOND: u64 = 1_000_000_000;
const HOME: &str = "[::]:2048";

struct Node {
    listener: Listener,
    own: OwnEndpoints,
    now: Now,
    wire: Vec<(SocketAddr, Vec<u8>)>,
    completions: Vec<Completion>,
}

impl Node {
    fn new(change: impl FnOnce(&mut Value)) -> Node {
        let shared = json!({
            "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}], "TagSeconds": 3600,
        });
        let mut spec = json!({
            "Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": HOME, "DualStack": true,
            "ClientNetworks": ["0.0.0.0/0", "::/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000,
            "RingBytes": 1 << 20,
            "Destinations": [{"Name": "echo", "Formatter": "base64", "Count": 10, "TimeoutSeconds": 0.1,
                              "SizeBytes": 1 << 20, "QueueBytes": 1 << 20, "Bound": true}],
            "Sources": [{"Name": "replies", "EgressNetworks": ["0.0.0.0/0", "::/0"], "HoldSeconds": 60,
                         "DedupSeconds": 600, "DedupLimit": 100_000}],
        });
        change(&mut spec);
        let spec: ListenerSpec = serde_json::from_value(spec).unwrap();
        let shared = Arc::new(Shared::new(&serde_json::from_value(shared).unwrap()).unwrap());
        let mut listener = Listener::new(spec, shared, HOME.parse().unwrap(), [1; 6]);
        listener.watch(Kinds(u16::MAX));
        let mut own = OwnEndpoints::default();
        own.listen(HOME.parse().unwrap(), true);
        let now = Now { mono: 0, unix_ms: 1_780_000_000_000 };
        Node { listener, own, now, wire: Vec::new(), completions: Vec::new() }
    }

    fn publish(&mut self, body: Value) -> Completion {
        self.submit(body, None);
        self.completions.pop().unwrap()
    }

    fn submit(&mut self, body: Value, refusal: Option<(Reason, String)>) {
        let body = body.to_string().into_bytes().into();
        let submission = Submission { id: "m".into(), origin: Origin::Source(0), published_ms: None, body, refusal };
        self.listener.submit(self.now, &self.own, submission);
        self.pass(0);
    }

    fn pass(&mut self, nanos: u64) {
        self.now.mono += nanos;
        self.now.unix_ms += nanos / 1_000_000;
        self.listener.handle_timeout(self.now);
        while let Some(packet) = self.listener.next_outgoing(self.now) {
            self.wire.push((packet.remote, packet.payload.to_vec()));
            self.listener.sent(self.now);
        }
        while let Some(completion) = self.listener.poll_completion() {
            let ended = completion.sent + completion.duplicates + completion.failures.len() as u32;
            assert_eq!(completion.entries, ended, "every remote ends exactly once");
            self.completions.push(completion);
        }
    }
}

fn remote(number: u32) -> Value {
    json!({"IP": format!("198.51.{}.{}", 100 + number / 250, 1 + number % 250), "Port": 5683})
}

fn failures(completion: &Completion) -> Vec<(Option<u32>, Option<u32>, Reason)> {
    completion.failures.iter().map(|failed| (failed.index, failed.remote_index, failed.reason)).collect()
}

#[test]
fn each_remote_gets_the_payload_and_the_bad_ones_fail_alone() {
    let mut node = Node::new(|_| {});
    let mut remotes: Vec<_> = (0..100).map(remote).collect();
    remotes[7] = json!(null);
    remotes[20] = json!({"IP": "10.0.0.1", "Port": 1});
    remotes[21] = json!({"IP": "198.51.100.7"});
    remotes[99] = json!({"Tag": "no"});
    let body = json!({"Messages": [{"Data": "AQID", "Remote": remote(1)}, {"Data": "BAUG", "Remotes": remotes}]});
    let completion = node.publish(body);
    assert_eq!((completion.entries, completion.sent), (101, 97));
    let expected = [
        (Some(1), Some(7), Reason::MalformedRemote),
        (Some(1), Some(20), Reason::RemoteDenied),
        (Some(1), Some(21), Reason::MalformedRemote),
        (Some(1), Some(99), Reason::InvalidTag),
    ];
    assert_eq!(failures(&completion), expected);
    assert_eq!(node.wire.len(), 97);
    assert!(node.wire[1..].iter().all(|(_, payload)| payload == &[4, 5, 6]));
    let counters = node.listener.counters();
    assert_eq!((counters.sources[0].entries, counters.sources[0].sent, counters.sent_packets), (101, 97, 97));
    let places: Vec<_> = node.listener.take_events().into_iter().map(|event| event.about).collect();
    let place = |about: &About| match about {
        About::Sent { index, remote_index, .. } => (*index, *remote_index),
        other => panic!("{other:?}"),
    };
    assert_eq!(place(&places[0]), (0, None));
    assert_eq!((place(&places[1]), place(&places[96])), ((1, Some(0)), (1, Some(98))));
}

#[test]
fn what_all_have_in_common_fails_each_of_them() {
    let mut node = Node::new(|_| {});
    for (fields, reason) in [
        (json!({"Data": "!"}), Reason::MalformedData),
        (json!({}), Reason::MalformedData),
        (json!({"Data": "", "Id": 5}), Reason::MalformedMessage),
        (json!({"Data": "", "TtlSeconds": 0}), Reason::Expired),
        (json!({"Data": "A".repeat(4 * 30_000)}), Reason::PayloadTooLarge),
    ] {
        let mut entry = fields;
        entry["Remotes"] = json!([remote(1), remote(2)]);
        let failed = failures(&node.publish(entry));
        assert_eq!(failed, [(Some(0), Some(0), reason), (Some(0), Some(1), reason)]);
    }
    node.submit(json!({"Data": "", "Remotes": [remote(1), remote(2)]}), Some((Reason::WrongRegion, "no".to_owned())));
    assert_eq!(failures(&node.completions.pop().unwrap()).len(), 2);
}

#[test]
fn remotes_are_a_list_with_something_in_it_and_alone() {
    let mut node = Node::new(|_| {});
    for fields in [
        json!({"Remotes": []}),
        json!({"Remotes": {}}),
        json!({"Remotes": "198.51.100.7:1"}),
        json!({"Remotes": [remote(1)], "Remote": remote(1)}),
        json!({"Remotes": [remote(1)], "Remote": 5}),
        json!({"Remotes": [remote(1)], "Tag": "x"}),
        json!({"Remotes": [], "Remote": remote(1)}),
        json!({"Remotes": null}),
    ] {
        let mut entry = fields;
        entry["Data"] = json!("");
        assert_eq!(failures(&node.publish(entry)), [(Some(0), None, Reason::MalformedRemote)]);
    }
    let nulls = json!({"Data": "", "Remotes": [remote(1)], "Remote": null, "Tag": null});
    assert_eq!(node.publish(nulls).sent, 1);
    assert_eq!(node.publish(json!({"Data": "", "Remotes": null, "Remote": remote(1)})).sent, 1);
}

#[test]
fn an_id_is_remembered_with_each_remote() {
    let mut node = Node::new(|spec| spec["Sources"][0]["EgressNetworks"] = json!(["198.51.100.0/24"]));
    let publish = |node: &mut Node, remotes: Value| {
        let completion = node.publish(json!({"Data": "AQ==", "Id": "fw", "Remotes": remotes}));
        (completion.sent, completion.duplicates, completion.failures.len())
    };
    let denied = json!({"IP": "192.0.2.77", "Port": 5});
    assert_eq!(publish(&mut node, json!([remote(1), denied, remote(2), remote(1)])), (2, 1, 1));
    let ids = node.listener.take_sent_ids();
    assert_eq!(ids.len(), 2);
    assert_eq!(publish(&mut node, json!([remote(2), remote(3)])), (1, 1, 0), "the rest may be named alone");
    assert_eq!(publish(&mut node, json!([denied])), (0, 0, 1), "what failed may be tried again");

    let mut later = Node::new(|_| {});
    for (source, id) in ids {
        later.listener.remember(later.now, source, &id, SECOND);
    }
    assert_eq!(publish(&mut later, json!([remote(1), remote(2), remote(3)])), (1, 2, 0), "over a restart too");
}

#[test]
fn each_remote_is_paced() {
    let mut node = Node::new(|spec| spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 10}));
    node.submit(json!({"Data": "AQ==", "Remotes": (0..20).map(remote).collect::<Vec<_>>()}), None);
    assert_eq!(node.wire.len(), 1);
    for step in 0..19 {
        assert_eq!(node.wire.len(), 1 + step);
        node.pass(SECOND / 10);
    }
    assert_eq!(node.completions.pop().unwrap().sent, 20);
    let order: Vec<_> = node.wire.iter().map(|(remote, _)| *remote).collect();
    assert!(order.is_sorted());
}

#[test]
fn what_the_remotes_of_a_message_ask_for_is_bounded() {
    let mut node = Node::new(|_| {});
    let remotes: Vec<_> = (0..2_000).map(remote).collect();
    let completion = node.publish(json!({"Data": "A".repeat(4 * 20_000), "Remotes": remotes}));
    assert_eq!(completion.sent as usize, (64 << 20) / 60_000);
    assert!(completion.failures.iter().all(|failure| failure.reason == Reason::PayloadTooLarge));
}

#[test]
fn answers_know_no_remotes() {
    let mut node = Node::new(|_| {});
    let body = json!({"Replies": [{"Data": "AQ==", "Remotes": [remote(1)]}]}).to_string().into_bytes().into();
    let origin = Origin::Destination(0);
    let submission = Submission { id: "m".into(), origin, published_ms: None, body, refusal: None };
    node.listener.submit(node.now, &node.own, submission);
    node.pass(0);
    assert_eq!((node.completions.pop().unwrap().entries, node.wire.len()), (0, 0));
}
