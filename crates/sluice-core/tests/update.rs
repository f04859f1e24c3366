//! A Listener changes while it runs: what stays keeps its sessions, `Id`s, counters and packets.

use serde_json::{Value, json};
use sluice_core::{Completion, DataplaneSpec, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Shared, Submission};
use std::{net::SocketAddr, sync::Arc};

const SECOND: u64 = 1_000_000_000;

fn destination(name: &str) -> Value {
    json!({"Name": name, "Formatter": "base64", "Count": 10, "TimeoutSeconds": 10, "SizeBytes": 1 << 20,
           "QueueBytes": 1 << 20, "Bound": true})
}

fn source(name: &str) -> Value {
    json!({"Name": name, "EgressNetworks": ["203.0.113.0/24"], "HoldSeconds": 60, "DedupSeconds": 600, "DedupLimit": 10})
}

fn document() -> Value {
    json!({"Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": "192.0.2.1:2048",
           "ClientNetworks": ["198.51.100.0/24"], "SessionIdleSeconds": 300, "SessionLimit": 1000,
           "RingBytes": 1 << 20, "Destinations": [destination("echo")], "Sources": [source("replies")]})
}

fn with(document: &Value, change: impl FnOnce(&mut Value)) -> ListenerSpec {
    let mut changed = document.clone();
    change(&mut changed);
    serde_json::from_value(changed).unwrap()
}

struct Node(Listener, u64);

impl Node {
    fn new() -> Node {
        let dataplane: DataplaneSpec = serde_json::from_value(json!({
            "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "00".repeat(32)}], "TagSeconds": 3600,
        }))
        .unwrap();
        let spec = with(&document(), |_| {});
        let bound = spec.bind;
        Node(Listener::new(spec, Arc::new(Shared::new(&dataplane).unwrap()), bound, [0; 6]), 0)
    }

    fn now(&self) -> Now {
        Now { mono: self.1 * SECOND, unix_ms: 1_780_000_000_000 + self.1 * 1_000 }
    }

    fn update(&mut self, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        self.0.update(self.now(), with(&document(), change))
    }

    fn hear(&mut self, remote: &str) {
        let (now, remote) = (self.now(), remote.parse::<SocketAddr>().unwrap());
        self.0.handle_datagram(now, "192.0.2.1".parse().unwrap(), remote, b"x");
    }

    /// `(destination, packets)` of the batches that are ready.
    fn batches(&mut self) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| self.0.poll_batch()).map(|(index, batch)| (index, batch.count())).collect()
    }

    /// Sources one packet; its end, with the kernel taking whatever leaves.
    fn source(&mut self, index: usize, id: &str, remote: &str) -> Completion {
        let remote: SocketAddr = remote.parse().unwrap();
        let entry = json!({"Id": id, "Data": "eA==", "Remote": {"IP": remote.ip().to_string(), "Port": remote.port()}});
        let submission = Submission {
            id: "m".into(),
            origin: Origin::Source(index),
            published_ms: None,
            body: entry.to_string().into_bytes().into(),
            refusal: None,
            due: None,
        };
        let now = self.now();
        self.0.submit(now, &OwnEndpoints::default(), submission);
        while self.0.next_outgoing(now).is_some() {
            self.0.sent(now);
        }
        self.0.poll_completion().unwrap()
    }
}

#[test]
fn batching_changes_for_the_open_batch_too() {
    let mut node = Node::new();
    (0..4).for_each(|_| node.hear("198.51.100.1:1"));
    node.update(|d| d["Destinations"][0]["TimeoutSeconds"] = json!(2)).unwrap();
    assert_eq!(node.0.poll_timeout(), Some(2 * SECOND));
    assert_eq!(node.batches(), []);
    node.update(|d| d["Destinations"][0]["Count"] = json!(4)).unwrap();
    assert_eq!(node.batches(), [(0, 4)]);
    (0..4).for_each(|_| node.hear("198.51.100.1:1"));
    assert_eq!(node.batches(), [(0, 4)]);
    let counters = node.0.counters();
    assert_eq!((counters.destinations[0].packets, counters.destinations[0].batches), (8, 2));
}

#[test]
fn a_destination_comes_and_another_one_goes_without_losing_a_packet() {
    let mut node = Node::new();
    node.hear("198.51.100.1:1");
    node.update(|d| {
        d["Destinations"][0]["Removed"] = json!(true);
        d["Destinations"].as_array_mut().unwrap().push(destination("file"));
    })
    .unwrap();
    assert_eq!(node.batches(), [(0, 1)], "what it had is delivered");
    (0..10).for_each(|_| node.hear("198.51.100.1:1"));
    assert_eq!(node.batches(), [(1, 10)]);
    let counters = node.0.counters();
    assert_eq!(
        counters.destinations.iter().map(|d| (d.packets, d.removed)).collect::<Vec<_>>(),
        [(1, true), (10, false)]
    );

    // Its place goes to another one, which starts at zero.
    node.update(|d| d["Destinations"] = json!([destination("third"), destination("file")])).unwrap();
    node.hear("198.51.100.1:1");
    let counters = node.0.counters();
    let counted = counters.destinations.iter().map(|d| (d.name.as_str(), d.packets)).collect::<Vec<_>>();
    assert_eq!(counted, [("third", 1), ("file", 11)]);
}

#[test]
fn without_any_destination_packets_are_counted() {
    let mut node = Node::new();
    node.update(|d| d["Destinations"][0]["Removed"] = json!(true)).unwrap();
    node.hear("198.51.100.1:1");
    assert_eq!(node.0.counters().rejected.values().sum::<u64>(), 1);
}

#[test]
fn networks_and_policies_change_and_sessions_and_ids_stay() {
    let mut node = Node::new();
    node.hear("198.51.100.1:9");
    assert_eq!(node.source(0, "a", "198.51.100.1:9").sent, 1, "it has a session");
    assert_eq!(node.source(0, "b", "203.0.113.5:9").sent, 1);
    node.1 += 1;
    node.update(|d| {
        d["ClientNetworks"] = json!(["203.0.113.0/24"]);
        d["Sources"][0]["EgressNetworks"] = json!(["192.0.2.0/24"]);
        d["Sources"].as_array_mut().unwrap().push(source("more"));
    })
    .unwrap();
    node.hear("198.51.100.1:9");
    assert_eq!(node.0.counters().rejected.values().sum::<u64>(), 1);
    assert_eq!(node.source(0, "a", "198.51.100.1:9").duplicates, 1);
    assert_eq!(node.source(0, "c", "198.51.100.1:9").sent, 1, "the session stays");
    assert_eq!(node.source(0, "d", "203.0.113.5:9").failures.len(), 1);
    assert_eq!(node.source(1, "a", "203.0.113.5:9").sent, 1, "each source has its own Ids");
    assert_eq!(node.0.counters().sources[0].sent, 3);
}

#[test]
fn what_is_not_removed_stays_at_its_place() {
    let mut node = Node::new();
    for change in [
        (|d: &mut Value| d["Id"] = json!(8)) as fn(&mut Value),
        |d| d["Name"] = json!("other"),
        |d| d["Destinations"] = json!([]),
        |d| d["Destinations"][0]["Name"] = json!("other"),
        |d| d["Sources"] = json!([]),
        |d| d["Sources"][0]["Name"] = json!("other"),
    ] {
        assert!(node.update(change).is_err());
    }
    (0..10).for_each(|_| node.hear("198.51.100.1:1"));
    assert_eq!(node.batches(), [(0, 10)], "nothing has changed");
}

#[test]
fn a_new_rate_holds_from_now_on() {
    let mut node = Node::new();
    node.update(|d| d["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 1})).unwrap();
    assert_eq!(node.source(0, "a", "203.0.113.5:9").sent, 1);
    node.update(|d| {
        d["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 1});
        d["Sources"][0]["HoldSeconds"] = json!(0.5);
    })
    .unwrap();
    assert_eq!(node.source(0, "b", "203.0.113.5:9").failures.len(), 1, "the timetable stays when the rate does");
    node.update(|_| {}).unwrap();
    assert_eq!(node.source(0, "c", "203.0.113.5:9").sent, 1);
}
