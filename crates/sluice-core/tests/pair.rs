//! A Listener and its clients over a simulated network: time, loss, duplication and reordering are the test's. No
//! sockets, no clock, no sleeps.

use serde_json::{Value, json};
use sluice_core::{
    Completion, DataplaneSpec, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Reason, RunLimit, Shared,
    Submission,
    own::Local,
    reason::{Dropped, Rejected},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

const SECOND: u64 = 1_000_000_000;
const EPOCH_MS: u64 = 1_780_000_000_000;
const GATEWAY: &str = "192.0.2.10";

fn shared(digit: &str) -> Arc<Shared> {
    let spec: DataplaneSpec = serde_json::from_value(json!({
        "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": digit.repeat(64)}], "TagSeconds": 3600,
    }))
    .unwrap();
    Arc::new(Shared::new(&spec).unwrap())
}

fn destination(name: &str) -> Value {
    json!({"Name": name, "Formatter": "base64", "Count": 10, "TimeoutSeconds": 0.1, "SizeBytes": 1 << 20,
           "QueueBytes": 1 << 20, "Bound": true})
}

fn spec(change: impl FnOnce(&mut Value)) -> ListenerSpec {
    let mut spec = json!({
        "Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": "[::]:2048", "DualStack": true,
        "ClientNetworks": ["0.0.0.0/0", "::/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000, "RingBytes": 1 << 20,
        "Destinations": [destination("echo")],
        "Sources": [{"Name": "replies", "EgressNetworks": ["0.0.0.0/0", "::/0"], "HoldSeconds": 60,
                     "DedupSeconds": 600, "DedupLimit": 1000}],
    });
    change(&mut spec);
    serde_json::from_value(spec).unwrap()
}

/// A small generator (SplitMix64) so that runs repeat.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// The gateway's side of the network.
struct Node {
    listener: Listener,
    own: OwnEndpoints,
    now: Now,
    /// What left: local address, remote, payload.
    wire: Vec<(Option<IpAddr>, SocketAddr, Vec<u8>)>,
    /// What each Destination got.
    packets: BTreeMap<usize, Vec<Value>>,
    completions: Vec<Completion>,
}

impl Node {
    fn new(change: impl FnOnce(&mut Value)) -> Node {
        Node::with(shared("a"), change, [1; 6])
    }

    fn with(shared: Arc<Shared>, change: impl FnOnce(&mut Value), salt: [u8; 6]) -> Node {
        Node::over(Listener::new(spec(change), shared, "[::]:2048".parse().unwrap(), salt))
    }

    fn over(listener: Listener) -> Node {
        let mut own = OwnEndpoints::default();
        own.listen(listener.bound(), true);
        own.routes.add(GATEWAY.parse::<IpAddr>().unwrap().into(), Local::Address);
        Node {
            listener,
            own,
            now: Now { mono: 0, unix_ms: EPOCH_MS },
            wire: Vec::new(),
            packets: BTreeMap::new(),
            completions: Vec::new(),
        }
    }

    fn pass(&mut self, seconds: f64) {
        self.now.mono += (seconds * SECOND as f64) as u64;
        self.now.unix_ms += (seconds * 1e3) as u64;
        self.listener.handle_timeout(self.now);
        self.drain();
    }

    fn receive(&mut self, remote: &str, payload: &[u8]) {
        self.listener.handle_datagram(self.now, GATEWAY.parse().unwrap(), remote.parse().unwrap(), payload);
        self.drain();
    }

    fn publish(&mut self, body: Value) -> Completion {
        self.submit(Origin::Source(0), None, body)
    }

    fn submit(&mut self, origin: Origin, published_ms: Option<u64>, body: Value) -> Completion {
        let body = body.to_string().into_bytes();
        let submission =
            Submission { id: "m".into(), origin, published_ms, body: body.into(), refusal: None, due: None };
        self.listener.submit(self.now, &self.own, submission);
        self.drain();
        self.completions.pop().unwrap()
    }

    fn drain(&mut self) {
        while let Some((destination, batch)) = self.listener.poll_batch() {
            let body: Value = serde_json::from_slice(batch.body()).unwrap();
            let packets = body["Messages"].as_array().unwrap().clone();
            assert_eq!(packets.len(), batch.count());
            self.packets.entry(destination).or_default().extend(packets);
        }
        while let Some(packet) = self.listener.next_outgoing(self.now) {
            self.wire.push((packet.local, packet.remote, packet.payload.to_vec()));
            self.listener.sent(self.now);
        }
        while let Some(completion) = self.listener.poll_completion() {
            let ended = completion.sent + completion.duplicates + completion.failures.len() as u32;
            assert_eq!(completion.entries, ended, "every entry ends exactly once");
            self.completions.push(completion);
        }
    }
}

fn reasons(completion: &Completion) -> Vec<(Option<u32>, Reason)> {
    completion.failures.iter().map(|failure| (failure.index, failure.reason)).collect()
}

fn to(address: &str, port: u64) -> Value {
    json!({"Data": "AQIDBA==", "Remote": {"Address": address, "Port": port}})
}

#[test]
fn every_packet_that_arrives_is_delivered_once_to_each_destination_and_answered_to_its_sender() {
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let mut node = Node::new(|spec| {
            spec["Destinations"] = json!([destination("a"), destination("b")]);
            spec["Destinations"][1]["Count"] = json!(3);
            spec["Destinations"][1]["Formatter"] = json!("hex");
        });
        // Clients send numbered packets; the network loses, doubles and reorders some.
        let mut in_flight: Vec<(String, Vec<u8>)> = Vec::new();
        for packet in 0..300u64 {
            let client = format!("198.51.100.{}:{}", 1 + dice.roll(20), 4_000);
            let copies = [0, 1, 1, 1, 2][dice.roll(5) as usize];
            for _ in 0..copies {
                let at = dice.roll(in_flight.len() as u64 + 1) as usize;
                in_flight.insert(at, (client.clone(), packet.to_be_bytes().to_vec()));
            }
        }
        for (client, payload) in &in_flight {
            node.receive(client, payload);
            node.pass(dice.roll(50) as f64 / 1e3);
        }
        node.pass(1.0);
        assert_eq!(node.packets[&0].len(), in_flight.len());
        assert_eq!(node.packets[&1].len(), in_flight.len());
        for ((first, second), (client, payload)) in node.packets[&0].iter().zip(&node.packets[&1]).zip(&in_flight) {
            let remote = format!("{}:{}", first["Remote"]["IpAddress"].as_str().unwrap(), first["Remote"]["Port"]);
            assert_eq!(&remote, client);
            assert_eq!(first["Tag"], second["Tag"], "one packet, one Tag");
            let hex: String = payload.iter().map(|byte| format!("{byte:02X}")).collect();
            assert_eq!(second["Data"], hex);
        }
        // Answers go to whoever asked, in any order.
        let mut replies: Vec<(usize, Value)> = node.packets[&0].iter().cloned().enumerate().collect();
        for i in 0..replies.len() {
            let other = dice.roll(replies.len() as u64) as usize;
            replies.swap(i, other);
        }
        let elements: Vec<_> = replies.iter().map(|(_, p)| json!({"Tag": p["Tag"], "Data": p["Data"]})).collect();
        let completion = node.submit(Origin::Destination(0), None, json!({ "Replies": elements }));
        assert_eq!(completion.sent as usize, in_flight.len());
        for ((index, _), (local, remote, payload)) in replies.iter().zip(&node.wire) {
            assert_eq!(*local, Some(GATEWAY.parse().unwrap()), "from the address that the client used");
            assert_eq!((remote.to_string(), payload), (in_flight[*index].0.clone(), &in_flight[*index].1));
        }
    }
}

#[test]
fn a_tag_is_answered_later_and_after_a_restart_but_not_elsewhere() {
    let mut node = Node::new(|_| {});
    node.receive("198.51.100.7:4000", b"hi");
    node.pass(0.2);
    let tag = node.packets[&0][0]["Tag"].clone();
    let answer = json!({"Tag": tag, "Data": "b2s=", "Remote": {"Address": "10.0.0.1", "Port": 1}});
    node.pass(5.0);
    assert_eq!(node.publish(answer.clone()).sent, 1);
    assert_eq!(node.wire[0].1, "198.51.100.7:4000".parse().unwrap(), "the Tag says where to, not Remote");

    let mut restarted = Node::with(shared("a"), |_| {}, [2; 6]);
    assert_eq!(restarted.publish(answer.clone()).sent, 1);
    let mut elsewhere = Node::with(shared("c"), |_| {}, [2; 6]);
    assert_eq!(reasons(&elsewhere.publish(answer.clone())), [(Some(0), Reason::InvalidTag)]);
    let mut other_listener = Node::with(shared("a"), |spec| spec["Id"] = json!(8), [2; 6]);
    assert_eq!(reasons(&other_listener.publish(answer.clone())), [(Some(0), Reason::InvalidTag)]);
    node.pass(3_600.0);
    assert_eq!(reasons(&node.publish(answer)), [(Some(0), Reason::InvalidTag)], "expired");
}

#[test]
fn entries_fail_alone_under_the_contracts_reasons() {
    let mut node = Node::new(|_| {});
    let somewhere = json!({"IP": "198.51.100.7", "Port": 1});
    let cases = [
        (to("198.51.100.7", 4_000), None),
        (json!({"Data": "", "Remote": {"IpAddress": "2001:db8::5", "Port": 9.0, "PeerKey": ""}}), None),
        (json!(5), Some(Reason::MalformedMessage)),
        (json!(null), Some(Reason::MalformedMessage)),
        (json!({}), Some(Reason::MalformedData)),
        (json!({"Data": 5, "Remote": somewhere}), Some(Reason::MalformedData)),
        (json!({"Data": "!", "Remote": somewhere}), Some(Reason::MalformedData)),
        (json!({"Data": "", "Formatter": "rot13", "Remote": somewhere}), Some(Reason::MalformedData)),
        (json!({"Data": ""}), Some(Reason::MalformedRemote)),
        (json!({"Data": "", "Remote": "198.51.100.7:1"}), Some(Reason::MalformedRemote)),
        (to("127.1", 1), Some(Reason::MalformedRemote)),
        (to("010.0.0.1", 1), Some(Reason::MalformedRemote)),
        (to("example.com", 1), Some(Reason::MalformedRemote)),
        (to("198.51.100.7", 0), Some(Reason::MalformedRemote)),
        (to("198.51.100.7", 65_536), Some(Reason::MalformedRemote)),
        (json!({"Data": "", "Remote": {"IP": "1.1.1.1", "Port": "1"}}), Some(Reason::MalformedRemote)),
        (json!({"Data": "", "Remote": {"IP": "1.1.1.1", "Port": 1, "PeerKey": "k="}}), Some(Reason::UnknownPeer)),
        (json!({"Data": "", "Remote": {"PeerKey": "k="}}), Some(Reason::UnknownPeer)),
        (json!({"Data": "", "Remote": {"IP": "nowhere", "PeerKey": "k="}}), Some(Reason::UnknownPeer)),
        (json!({"Data": "", "Remote": {"PeerKey": 7}}), Some(Reason::MalformedRemote)),
        (json!({"Data": "", "Tag": "nonsense"}), Some(Reason::InvalidTag)),
        (json!({"Data": "", "Tag": 7}), Some(Reason::InvalidTag)),
        (to("169.254.169.254", 80), Some(Reason::RemoteDenied)),
        (to("::ffff:127.0.0.1", 80), Some(Reason::RemoteDenied)),
        (to("::ffff:198.51.100.7", 80), None),
        (to(GATEWAY, 2048), Some(Reason::RemoteDenied)),
        (json!({"Data": "", "TtlSeconds": -1, "Remote": somewhere}), Some(Reason::MalformedMessage)),
        (json!({"Data": "", "ExpiresAt": "soon", "Remote": somewhere}), Some(Reason::MalformedMessage)),
        (json!({"Data": "x".repeat(70_000), "Formatter": "utf8", "Remote": somewhere}), Some(Reason::PayloadTooLarge)),
    ];
    let entries: Vec<_> = cases.iter().map(|(entry, _)| entry.clone()).collect();
    let completion = node.publish(json!({ "Messages": entries }));
    let expected: Vec<_> =
        (0u32..).zip(&cases).filter_map(|(i, (_, reason))| reason.map(|reason| (Some(i), reason))).collect();
    assert_eq!(reasons(&completion), expected);
    assert_eq!(node.wire.len(), cases.len() - expected.len());
    let counted = &node.listener.counters().sources[0];
    assert_eq!((counted.entries, counted.sent), (cases.len() as u64, node.wire.len() as u64));
    assert_eq!(counted.failed.values().sum::<u64>(), expected.len() as u64);
}

#[test]
fn a_remotes_address_is_called_what_the_publisher_called_it() {
    let mut node = Node::new(|_| {});
    for name in ["IP", "Address", "IpAddress"] {
        for value in [json!("127.1"), json!(7)] {
            let failures = node.publish(json!({"Data": "", "Remote": {name: value, "Port": 1}})).failures;
            assert!(failures[0].detail.starts_with(&format!("Remote.{name} is ")), "{}", failures[0].detail);
        }
    }
    let failures = node.publish(json!({"Data": "", "Remote": {"Port": 1}})).failures;
    assert!(failures[0].detail.starts_with("Remote.Address is missing"));
}

#[test]
fn a_body_that_is_no_message_is_one_failed_entry() {
    let mut node = Node::new(|_| {});
    assert_eq!(reasons(&node.publish(json!([1]))), [(None, Reason::MalformedMessage)]);
    assert_eq!(reasons(&node.publish(json!({"Messages": 1}))), [(None, Reason::MalformedMessage)]);
    assert_eq!(node.publish(json!({"Messages": []})).entries, 0);
}

#[test]
fn a_refused_message_sends_nothing_and_counts_each_entry() {
    let mut node = Node::new(|_| {});
    let body = json!({"Messages": [to("198.51.100.7", 1), to("198.51.100.8", 1)]}).to_string().into_bytes();
    let refusal = Some((Reason::WrongRegion, "eu-west-1 is not served here".to_owned()));
    let submission = Submission {
        id: "m".into(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal,
        due: None,
    };
    node.listener.submit(node.now, &node.own, submission);
    node.drain();
    assert_eq!(reasons(&node.completions[0]), [(Some(0), Reason::WrongRegion), (Some(1), Reason::WrongRegion)]);
    assert!(node.wire.is_empty());
}

#[test]
fn whoever_spoke_first_needs_no_permission_while_the_session_lasts() {
    let mut node = Node::new(|spec| spec["Sources"][0]["EgressNetworks"] = json!(["203.0.113.0/24"]));
    assert_eq!(reasons(&node.publish(to("198.51.100.5", 4_000))), [(Some(0), Reason::RemoteDenied)]);
    node.receive("198.51.100.5:4000", b"hi");
    assert_eq!(node.publish(to("198.51.100.5", 4_000)).sent, 1);
    assert_eq!(node.wire[0].0, Some(GATEWAY.parse().unwrap()), "from the address that it spoke to");
    assert_eq!(reasons(&node.publish(to("198.51.100.5", 4_001))), [(Some(0), Reason::RemoteDenied)]);
    node.pass(301.0);
    assert_eq!(reasons(&node.publish(to("198.51.100.5", 4_000))), [(Some(0), Reason::RemoteDenied)]);
}

/// Addresses by which a spoofed datagram reaches what only the gateway's surroundings have.
const NOBODYS: [&str; 14] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "224.0.0.251",
    "ff05::fb",
    "255.255.255.255",
    "0.0.0.0",
    "::",
    "240.0.0.1",
    "192.0.0.8",
    "100::1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::ffff:0:a9fe:a9fe",
    "fe80::5efe:a9fe:a9fe",
];
/// Addresses of clients on this machine, on a LAN, in containers.
const NEARBY: [&str; 7] = ["127.0.0.1", "::1", "10.0.0.5", "100.64.0.5", "192.168.0.5", "fd00::5", "fe80::5"];

fn socket(address: &str) -> String {
    SocketAddr::new(address.parse().unwrap(), 4_000).to_string()
}

impl Node {
    /// Receives one packet from `remote`, and answers it: by its Tag, and by the Tag in a message.
    fn converse(&mut self, remote: &str) -> [Completion; 2] {
        self.receive(remote, b"hi");
        self.pass(0.2);
        let tag = self.packets.get_mut(&0).unwrap().pop().unwrap()["Tag"].clone();
        let reply = json!({"Replies": [{"Tag": tag, "Data": "aGk="}]});
        [self.submit(Origin::Destination(0), None, reply), self.publish(json!({"Tag": tag, "Data": "aGk="}))]
    }
}

#[test]
fn a_spoofed_datagram_gives_no_permission() {
    let mut node = Node::new(|_| {});
    for address in NOBODYS {
        for completion in node.converse(&socket(address)) {
            assert_eq!(reasons(&completion), [(Some(0), Reason::AnswerRefused)], "{address}");
            assert!(completion.failures[0].detail.contains("client_restrictions.networks"), "{completion:?}");
        }
    }
    for address in NOBODYS.iter().chain(&NEARBY) {
        node.receive(&socket(address), b"hi");
        let completion = node.publish(to(address, 4_000));
        assert_eq!(reasons(&completion), [(Some(0), Reason::RemoteDenied)], "{address} has a session");
        assert!(completion.failures[0].detail.contains("egress_networks"), "{completion:?}");
    }
    assert!(node.wire.is_empty(), "{:?}", node.wire);
}

#[test]
fn clients_nearby_are_answered() {
    let mut node = Node::new(|_| {});
    for address in NEARBY {
        for completion in node.converse(&socket(address)) {
            assert_eq!(completion.sent, 1, "{completion:?}");
        }
    }
    assert_eq!(node.wire.len(), 2 * NEARBY.len());
}

#[test]
fn a_network_that_names_them_permits() {
    let all: Vec<_> = NOBODYS
        .iter()
        .chain(&NEARBY)
        .map(|text| format!("{text}/{}", if text.contains(':') { 128 } else { 32 }))
        .collect();
    let mut node = Node::new(|spec| {
        spec["ClientNetworks"] = json!(all);
        spec["Sources"][0]["EgressNetworks"] = json!(all);
    });
    for address in NOBODYS.iter().chain(&NEARBY) {
        for completion in node.converse(&socket(address)) {
            assert_eq!(completion.sent, 1, "{address}: {completion:?}");
        }
        let zone = if address.starts_with("fe80") { "%2" } else { "" };
        assert_eq!(node.publish(to(&format!("{address}{zone}"), 4_000)).sent, 1, "{address}");
    }
}

#[test]
fn what_every_interface_has_needs_a_zone() {
    let mut node = Node::new(|spec| {
        spec["Sources"][0]["EgressNetworks"] = json!(["0.0.0.0/0", "::/0", "fe80::/10", "ff00::/8"]);
    });
    node.own.interface = Some(|name| (name == "eth0").then_some(7));
    for address in ["fe80::5", "ff02::fb", "ff01::1"] {
        let completion = node.publish(to(address, 4_000));
        assert_eq!(reasons(&completion), [(Some(0), Reason::MalformedRemote)], "{address}");
        assert!(completion.failures[0].detail.contains(&format!("{address}%eth0")));
        for zone in ["eth0", "7"] {
            assert_eq!(node.publish(to(&format!("{address}%{zone}"), 4_000)).sent, 1, "{address}%{zone}");
        }
        for zone in ["eth1", "", "0", "99999999999"] {
            let refused = node.publish(to(&format!("{address}%{zone}"), 4_000));
            assert_eq!(reasons(&refused), [(Some(0), Reason::MalformedRemote)], "{address}%{zone}");
        }
    }
    for wrong in ["2001:db8::1%eth0", "192.0.2.1%eth0", "ff05::1%7"] {
        assert_eq!(reasons(&node.publish(to(wrong, 4_000))), [(Some(0), Reason::MalformedRemote)], "{wrong}");
    }
}

#[test]
fn a_packet_from_an_own_listener_is_not_answered() {
    let mut node = Node::new(|_| {});
    node.receive(&format!("{GATEWAY}:2048"), b"loop");
    node.receive("198.51.100.7:0", b"port 0");
    node.pass(0.2);
    let replies: Vec<_> = node.packets[&0].iter().map(|p| json!({"Tag": p["Tag"], "Data": ""})).collect();
    let completion = node.submit(Origin::Destination(0), None, json!({ "Replies": replies }));
    assert_eq!(reasons(&completion), [(Some(0), Reason::RemoteDenied), (Some(1), Reason::RemoteDenied)]);
    assert!(node.wire.is_empty());
}

#[test]
fn tolerated_oddities_of_an_answer_are_no_entries() {
    let mut node = Node::new(|_| {});
    node.receive("198.51.100.7:4000", b"hi");
    node.pass(0.2);
    let tag = node.packets[&0][0]["Tag"].clone();
    let oddities = json!([null, {}, {"Tag": tag, "Data": null}, {"Data": "x"}]);
    for body in [json!(null), json!({}), json!({"Replies": null}), json!({ "Replies": oddities })] {
        assert_eq!(node.submit(Origin::Destination(0), None, body).entries, 0);
    }
    let body =
        json!({"Replies": [{"Tag": tag, "Data": ""}, 5, {"Tag": tag, "Data": "!"}, {"Tag": tag, "Data": "b2s="}]});
    let completion = node.submit(Origin::Destination(0), None, body);
    assert_eq!(reasons(&completion), [(Some(1), Reason::MalformedMessage), (Some(2), Reason::MalformedData)]);
    let payloads: Vec<_> = node.wire.iter().map(|(_, _, payload)| payload.clone()).collect();
    assert_eq!(payloads, [b"".to_vec(), b"ok".to_vec()]);
}

#[test]
fn stale_entries_are_not_sent() {
    let mut node = Node::new(|spec| spec["Sources"][0]["DefaultTtlSeconds"] = json!(10));
    let body = json!({"Messages": [
        entry_with(json!({})),
        entry_with(json!({"TtlSeconds": 30})),
        entry_with(json!({"ExpiresAt": "2020-01-01T00:00:00Z"})),
    ]});
    let published = Some(EPOCH_MS - 20_000);
    let completion = node.submit(Origin::Source(0), published, body);
    assert_eq!(reasons(&completion), [(Some(0), Reason::Expired), (Some(2), Reason::Expired)]);
    assert_eq!(completion.sent, 1);

    // Also while it waits for the socket.
    let body = entry_with(json!({"TtlSeconds": 1})).to_string().into_bytes();
    let submission = Submission {
        id: "m".into(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal: None,
        due: None,
    };
    node.listener.submit(node.now, &node.own, submission);
    node.now.unix_ms += 1_000;
    node.drain();
    assert_eq!(reasons(&node.completions[0]), [(Some(0), Reason::Expired)]);
}

#[test]
fn a_malformed_coap_message_is_dropped_where_the_formatter_is_coap() {
    let mut node = Node::new(|spec| {
        spec["Destinations"] = json!([destination("coap"), destination("raw")]);
        spec["Destinations"][0]["Formatter"] = json!("coap");
    });
    let malformed: [(Dropped, &[u8]); 9] = [
        (Dropped::CoapTruncated, b"\x40\x01\x00"),
        (Dropped::CoapVersion, b"\x80\x01\x00\x01"),
        (Dropped::CoapTokenLength, b"\x49\x01\x00\x01123456789"),
        (Dropped::CoapEmptyCode, b"\x60\x00\x00\x01\x00"),
        (Dropped::CoapEmptyCode, b"\x70\x00\x00\x01\x00"),
        (Dropped::CoapOptionDelta, b"\x40\x01\x00\x01\xf0"),
        (Dropped::CoapOptionLength, b"\x40\x01\x00\x01\x0f"),
        (Dropped::CoapOptionNumber, b"\x40\x01\x00\x01\xe0\xff\xff"),
        (Dropped::CoapNoPayload, b"\x40\x01\x00\x01\xff"),
    ];
    let mut expected = BTreeMap::new();
    for (why, datagram) in malformed {
        node.receive("198.51.100.7:1", datagram);
        *expected.entry(why).or_insert(0) += 1;
    }
    node.receive("198.51.100.7:1", b"\x40\x01\x00\x01\xb4time");
    node.pass(0.2);
    let counted = &node.listener.counters().destinations;
    assert_eq!((counted[0].packets, &counted[0].dropped), (10, &expected));
    assert_eq!((counted[1].packets, counted[1].dropped.len()), (10, 0));
    let datas: Vec<Value> =
        node.packets[&0].iter().map(|packet| serde_json::from_str(packet["Data"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(
        (datas.len(), &datas[0]["Path"], &node.packets[&0][0]["Formatter"]),
        (1, &json!("/time"), &json!("coap"))
    );
    assert_eq!(node.packets[&1].len(), 10);
    assert!(node.wire.is_empty(), "the gateway answers nothing by itself");
}

#[test]
fn coap_answers_and_messages_are_encoded_or_fail_alone() {
    let mut node = Node::new(|spec| spec["Destinations"][0]["Formatter"] = json!("coap"));
    node.receive("198.51.100.7:1", b"\x41\x01\x00\x07\x09");
    node.pass(0.2);
    let tag = node.packets[&0][0]["Tag"].clone();
    let good = json!({"Type": 2, "Code": "2.05", "MessageId": 7, "Token": "CQ==", "Payload": "b2s="}).to_string();
    let bad = json!({"Type": 2, "Code": "2.05", "MessageId": 70_000}).to_string();
    let replies =
        json!({"Replies": [{"Tag": tag, "Data": bad}, {"Tag": tag, "Data": good}, {"Tag": tag, "Data": "b2s="}]});
    let completion = node.submit(Origin::Destination(0), None, replies);
    assert_eq!(reasons(&completion), [(Some(0), Reason::MalformedData), (Some(2), Reason::MalformedData)]);
    assert_eq!(completion.failures[0].detail, "MessageId is not a whole number from 0 to 65535");
    let remote = json!({"Address": "198.51.100.7", "Port": 1});
    let completion = node.publish(json!({"Messages": [
        {"Remote": remote, "Formatter": "coap", "Data": good}, {"Remote": remote, "Formatter": "coap", "Data": bad},
        {"Remote": remote, "Formatter": "cbor", "Data": bad},
    ]}));
    assert_eq!(reasons(&completion), [(Some(1), Reason::MalformedData), (Some(2), Reason::MalformedData)]);
    assert_eq!(completion.failures[1].detail, "Formatter is none of base64, hex, utf8, ascii, coap");
    let sent: Vec<_> = node.wire.iter().map(|(_, _, payload)| payload.as_slice()).collect();
    assert_eq!(sent, [b"\x61\x45\x00\x07\x09\xffok"; 2]);
}

#[test]
fn refused_clients_and_unbound_destinations_are_counted() {
    let mut node = Node::new(|spec| {
        spec["ClientNetworks"] = json!(["198.51.100.0/24"]);
        spec["Destinations"] = json!([destination("a"), destination("b")]);
        spec["Destinations"][1]["Bound"] = json!(false);
    });
    node.receive("203.0.113.9:1", b"no");
    node.receive("198.51.100.7:1", b"yes");
    node.pass(0.2);
    let counters = node.listener.counters();
    assert_eq!((counters.received_packets, counters.rejected[&Rejected::RefusedNetwork]), (2, 1));
    assert_eq!(counters.destinations[1].dropped[&Dropped::Unbound], 1);
    assert_eq!(node.packets.keys().collect::<Vec<_>>(), [&0]);
    // A refused client gains no session either.
    node.receive("10.0.0.1:1", b"no");
    assert_eq!(node.publish(to("10.0.0.1", 1)).sent, 0);
}

#[test]
fn a_listener_without_destinations_counts_what_it_hears() {
    let mut node = Node::new(|spec| spec["Destinations"] = json!([]));
    node.receive("198.51.100.7:1", b"x");
    assert_eq!(node.listener.counters().rejected[&Rejected::NoDestination], 1);
    assert_eq!(node.listener.poll_timeout(), None);
}

#[test]
fn an_address_family_that_the_listener_lacks_is_unreachable() {
    let mut node = Node::over(Listener::new(spec(|_| {}), shared("a"), "192.0.2.10:2048".parse().unwrap(), [1; 6]));
    assert_eq!(reasons(&node.publish(to("2001:db8::1", 1))), [(Some(0), Reason::RemoteUnreachable)]);
    assert_eq!(node.publish(to("198.51.100.7", 1)).sent, 1);
}

fn entry_with(extra: Value) -> Value {
    let mut entry = to("198.51.100.7", 4_000);
    entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    entry
}

#[test]
fn a_rate_limited_source_sends_at_its_pace_and_fails_what_would_come_too_late() {
    let mut node = Node::new(|spec| {
        spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 1000});
        spec["Sources"][0]["DefaultTtlSeconds"] = json!(1);
    });
    let entries: Vec<_> = (0..10_000).map(|i| entry_with(json!({"Data": format!("{i:08}")}))).collect();
    let body = json!({ "Messages": entries }).to_string().into_bytes();
    let submission = Submission {
        id: "m".into(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal: None,
        due: None,
    };
    node.listener.submit(node.now, &node.own, submission);
    node.drain();
    for step in 0..1_100 {
        node.pass(0.001);
        assert!(node.wire.len() <= step + 2, "never faster than the limit");
    }
    let completion = node.completions.pop().unwrap();
    assert!((990..=1_001).contains(&completion.sent), "{}", completion.sent);
    assert!(completion.failures.iter().all(|failure| failure.reason == Reason::RateLimited));
    let order: Vec<_> = node.wire.iter().map(|(_, _, payload)| payload.clone()).collect();
    assert!(order.is_sorted(), "packets for one remote keep their order");
}

#[test]
fn ids_are_told_as_their_packets_leave_and_not_when_the_message_has_ended() {
    let mut node = Node::new(|spec| {
        spec["Sources"][0]["EgressNetworks"] = json!(["198.51.100.0/24"]);
        spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 10, "Burst": 2});
    });
    let entries: Vec<_> = (0..5).map(|n| entry_with(json!({"Id": format!("id-{n}")}))).collect();
    let body = json!({ "Messages": entries }).to_string().into_bytes();
    let submission = Submission {
        id: "m".into(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal: None,
        due: None,
    };
    node.listener.submit(node.now, &node.own, submission);
    node.drain();
    let mut told = node.listener.take_sent_ids();
    assert!(!told.is_empty());
    while node.completions.is_empty() {
        assert_eq!(told.len(), node.wire.len(), "each is told with its packet");
        node.pass(0.05);
        told.extend(node.listener.take_sent_ids());
    }
    let all: Vec<_> = (0..5).map(|n| (0, format!("id-{n}"))).collect();
    assert_eq!(told, all);
}

#[test]
fn an_id_is_sent_once_while_the_window_lasts_and_again_after_a_failure() {
    let mut node = Node::new(|spec| spec["Sources"][0]["EgressNetworks"] = json!(["198.51.100.0/24"]));
    let good = entry_with(json!({"Id": "fw-17/3"}));
    let first = node.publish(good.clone());
    assert_eq!((first.sent, node.listener.take_sent_ids()), (1, vec![(0, "fw-17/3".to_owned())]));
    let again = node.publish(json!({"Messages": [good, entry_with(json!({"Id": "fw-17/4"}))]}));
    assert_eq!((again.sent, again.duplicates), (1, 1));

    let denied = json!({"Data": "", "Id": "x", "Remote": {"IP": "192.0.2.77", "Port": 5}});
    assert_eq!(reasons(&node.publish(denied.clone())), [(Some(0), Reason::RemoteDenied)]);
    node.receive("192.0.2.77:5", b"hi");
    assert_eq!(node.publish(denied).sent, 1, "what failed may be tried again");

    node.listener.remember(node.now, 0, "before", 5 * SECOND);
    assert_eq!(node.publish(entry_with(json!({"Id": "before"}))).duplicates, 1);
    node.pass(601.0);
    assert_eq!(node.publish(good).sent, 1);
    for id in [json!(5), json!(""), json!("x".repeat(257))] {
        assert_eq!(reasons(&node.publish(entry_with(json!({ "Id": id })))), [(Some(0), Reason::MalformedMessage)]);
    }
}

#[test]
fn a_source_that_requires_a_session_sends_to_nobody_else() {
    let mut node = Node::new(|spec| spec["Sources"][0]["RequireSession"] = json!(true));
    assert_eq!(reasons(&node.publish(to("198.51.100.7", 4_000))), [(Some(0), Reason::NoSession)]);
    node.receive("198.51.100.7:4000", b"hi");
    assert_eq!(node.publish(to("198.51.100.7", 4_000)).sent, 1);
    node.pass(301.0);
    assert_eq!(reasons(&node.publish(to("198.51.100.7", 4_000))), [(Some(0), Reason::NoSession)]);
}

#[test]
fn events_are_made_only_while_somebody_watches() {
    let mut node = Node::new(|spec| spec["ClientNetworks"] = json!(["198.51.100.0/24"]));
    node.receive("198.51.100.7:1", b"x");
    assert!(node.listener.take_events().is_empty());
    node.listener.watch(Kinds(u16::MAX));
    node.receive("198.51.100.7:1", b"hello");
    node.receive("203.0.113.1:1", b"no");
    node.publish(entry_with(json!({"Id": "a"})));
    let kinds: Vec<_> = node.listener.take_events().iter().map(|event| event.kind.name()).collect();
    assert_eq!(kinds, ["PacketReceived", "PacketRejected", "PacketSourced"]);
}

#[test]
fn runs_of_one_remote_and_size_can_leave_together() {
    let mut node = Node::new(|_| {});
    let sizes = [4, 4, 4, 2, 4, 4];
    let entries: Vec<_> =
        sizes.iter().map(|n| entry_with(json!({"Data": "x".repeat(*n), "Formatter": "utf8"}))).collect();
    let body = json!({"Messages": entries}).to_string().into_bytes();
    let submission = Submission {
        id: "m".into(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal: None,
        due: None,
    };
    node.listener.submit(node.now, &node.own, submission);
    let limit = RunLimit { segments: 64, segment: 1_452, bytes: 65_000 };
    assert_eq!(node.listener.outgoing_run(node.now, limit), 4, "the last one may be shorter");
    assert_eq!(node.listener.outgoing_run(node.now, RunLimit { segments: 2, ..limit }), 2);
    assert_eq!(node.listener.outgoing_run(node.now, RunLimit { bytes: 9, ..limit }), 2);
    assert_eq!(node.listener.outgoing_run(node.now, RunLimit { segment: 3, ..limit }), 1);
}
