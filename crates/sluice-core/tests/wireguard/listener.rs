//! A whole `wg` Listener and one client: what handlers and publishers see.

use crate::link::{SECOND, public, secret};
use serde_json::{Value, json};
use sluice_core::{
    About, Completion, DataplaneSpec, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Reason, Shared,
    Submission,
    inner::{Inner, Ip, Unwrapped},
    reason::Rejected,
    session::{
        WireGuard,
        wireguard::{PublicKey, Received, Sealed, message::HEADER},
    },
    spec::PeerMemory,
};
use std::{net::SocketAddr, sync::Arc};

const GATEWAY: u8 = 2;
const CLIENT: u8 = 1;
const AT: &str = "192.0.2.10:2048";
const CLIENT_AT: &str = "198.51.100.7:40001";
const V4: (&str, &str) = ("10.1.0.2:5000", "10.1.0.1:5683");
const V6: (&str, &str) = ("[fd00::2]:5000", "[fd00::1]:5683");

fn key(private: u8) -> String {
    base64_simd::STANDARD.encode_to_string(secret(private).0)
}

fn inner(pair: (&str, &str)) -> Inner {
    Inner { source: pair.0.parse().unwrap(), destination: pair.1.parse().unwrap() }
}

fn spec(change: impl FnOnce(&mut Value)) -> ListenerSpec {
    let mut spec = json!({
        "Id": 7, "Name": "tunnels", "Domain": "ingress-1", "Bind": AT, "DualStack": false,
        "ClientNetworks": ["0.0.0.0/0", "::/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000, "RingBytes": 1 << 20,
        "Destinations": [{"Name": "echo", "Formatter": "utf8", "Count": 1, "TimeoutSeconds": 0.1, "SizeBytes": 1 << 20,
                          "QueueBytes": 1 << 20, "Bound": true}],
        "Sources": [{"Name": "push", "EgressNetworks": ["198.51.100.0/24"], "HoldSeconds": 10,
                     "DedupSeconds": 600, "DedupLimit": 1000}],
        "WireGuard": {"PrivateKey": key(GATEWAY), "Peers": [{"PublicKey": public(CLIENT)}]},
    });
    change(&mut spec);
    serde_json::from_value(spec).unwrap()
}

fn shared() -> Arc<Shared> {
    let spec: DataplaneSpec = serde_json::from_value(json!({
        "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}], "TagSeconds": 3600,
        "Answers": {"RefusePorts": [7], "LoopGuard": true, "LoopExempt": ["127.0.0.0/8"]},
    }))
    .unwrap();
    Arc::new(Shared::new(&spec).unwrap())
}

/// The gateway's Listener and a client, joined by a perfect link.
struct Pair {
    listener: Listener,
    client: WireGuard,
    client_at: SocketAddr,
    now: Now,
    own: OwnEndpoints,
    /// What handlers got.
    packets: Vec<Value>,
    /// Plaintexts that the client got.
    got: Vec<Vec<u8>>,
    completions: Vec<Completion>,
    /// Datagrams that went elsewhere.
    astray: Vec<SocketAddr>,
    connected: bool,
}

impl Pair {
    fn new(change: impl FnOnce(&mut Value)) -> Pair {
        let spec = spec(change);
        let client = crate::link::spec(CLIENT, vec![crate::link::peer(GATEWAY)]);
        let mut client = WireGuard::new(&client, 1);
        client.offer_endpoint(&public(GATEWAY).id(), AT.parse().unwrap());
        Pair {
            listener: Listener::new(spec, shared(), AT.parse().unwrap(), [1; 6]),
            client,
            client_at: CLIENT_AT.parse().unwrap(),
            now: Now { mono: SECOND, unix_ms: 1_780_000_000_000 },
            own: OwnEndpoints::default(),
            packets: Vec::new(),
            got: Vec::new(),
            completions: Vec::new(),
            astray: Vec::new(),
            connected: true,
        }
    }

    /// The client sends this plaintext, after a handshake if need be.
    fn client_sends(&mut self, plaintext: &[u8]) {
        loop {
            match self.client.seal(self.now, &public(GATEWAY).id(), plaintext, false) {
                Sealed::Datagram(transmit) => {
                    self.arrives(&transmit.datagram);
                    break self.settle();
                }
                Sealed::Wait => self.settle(),
                other => panic!("{other:?}"),
            }
        }
    }

    fn arrives(&mut self, datagram: &[u8]) {
        let at: SocketAddr = AT.parse().unwrap();
        self.listener.handle_datagram(self.now, at.ip(), self.client_at, datagram);
    }

    fn pass(&mut self, seconds: u64) {
        self.now.mono += seconds * SECOND;
        self.now.unix_ms += seconds * 1_000;
        self.listener.handle_timeout(self.now);
        self.client.handle_timeout(self.now);
        self.settle();
    }

    fn publish(&mut self, entry: Value) {
        self.submit(Origin::Source(0), json!({"Messages": [entry]}));
    }

    fn submit(&mut self, origin: Origin, body: Value) {
        let body = body.to_string().into_bytes();
        let submission =
            Submission { id: "m".into(), origin, published_ms: None, body: body.into(), refusal: None, due: None };
        self.listener.submit(self.now, &OwnEndpoints::default(), submission);
        self.settle();
    }

    /// Carries packets until nobody has any.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(transmit) = self.client.poll_transmit() {
                quiet = false;
                self.arrives(&transmit.datagram);
            }
            self.listener.judge_protocol(&self.own);
            while let Some(packet) = self.listener.next_outgoing(self.now) {
                quiet = false;
                let (remote, datagram) = (packet.remote, packet.payload.to_vec());
                self.listener.sent(self.now);
                if !self.connected || remote != self.client_at {
                    self.astray.push(remote);
                    continue;
                }
                let (at, mut plaintext): (SocketAddr, _) = (AT.parse().unwrap(), Vec::new());
                let received = self.client.receive(self.now, remote.ip(), at, &datagram, &mut plaintext);
                if let Received::Packet(_) = received {
                    self.got.push(plaintext);
                }
            }
            if quiet {
                break;
            }
        }
        while let Some((_, batch)) = self.listener.poll_batch() {
            let body: Value = serde_json::from_slice(batch.body()).unwrap();
            self.packets.extend(body["Messages"].as_array().unwrap().clone());
        }
        while let Some(completion) = self.listener.poll_completion() {
            self.completions.push(completion);
        }
    }

    fn last_outcome(&mut self) -> Result<u32, Reason> {
        let completion = self.completions.pop().expect("the message has ended");
        completion.failures.first().map_or(Ok(completion.sent), |failure| Err(failure.reason))
    }

    fn rejected(&self, why: Rejected) -> u64 {
        self.listener.counters().rejected.get(&why).copied().unwrap_or(0)
    }

    fn restarted(&mut self, change: impl FnOnce(&mut Value)) {
        let known: Vec<PeerMemory> = self.listener.take_peer_changes();
        let spec = spec(|spec| {
            spec["WireGuard"]["Known"] = serde_json::to_value(&known).unwrap();
            change(spec);
        });
        self.listener = Listener::new(spec, shared(), AT.parse().unwrap(), [2; 6]);
    }
}

fn decapsulating(spec: &mut Value) {
    spec["WireGuard"]["DecapsulatedDelivery"] = json!(true);
}

fn to_client() -> Value {
    json!({"Data": "push", "Formatter": "utf8", "Remote": {"PeerKey": public(CLIENT)}})
}

/// What the client's own IP stack sends.
fn from_client(pair: (&str, &str), payload: &[u8]) -> Vec<u8> {
    let inner = inner(pair);
    Inner { source: inner.destination, destination: inner.source }.wrap(payload)
}

#[test]
fn a_handshake_that_pretends_to_come_from_an_own_listener_is_not_answered() {
    for forged in [false, true] {
        let mut pair = Pair::new(|_| {});
        if forged {
            pair.own.listen(pair.client_at, false);
        }
        for _ in 0..2 {
            let _ = pair.client.seal(pair.now, &public(GATEWAY).id(), b"x", false);
            pair.settle();
        }
        let answered = matches!(pair.client.seal(pair.now, &public(GATEWAY).id(), b"x", false), Sealed::Datagram(_));
        assert_eq!(answered, !forged);
        assert!(pair.astray.is_empty());
    }
}

#[test]
fn plaintext_as_it_is_both_ways() {
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"hello");
    let packet = &pair.packets[0];
    assert_eq!(packet["Data"], "hello");
    assert_eq!(packet["Remote"], json!({"IpAddress": "198.51.100.7", "Port": 40001, "PeerKey": public(CLIENT)}));
    assert_eq!((&packet["Local"]["Protocol"], packet.get("Inner")), (&json!("wg"), None));
    let tag = packet["Tag"].clone();
    pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": tag, "Data": "hi"}]}));
    pair.publish(json!({"Tag": tag, "Data": "later", "Formatter": "utf8"}));
    pair.publish(to_client());
    assert_eq!(pair.got, [&b"hi"[..], b"later", b"push"]);
    let counters = pair.listener.counters();
    assert_eq!((counters.sent_packets, counters.sent_bytes), (3, 11), "the application's bytes");
}

#[test]
fn whole_packets_are_delivered_without_their_padding() {
    for addresses in [V4, V6] {
        let mut pair = Pair::new(|spec| spec["Destinations"][0]["Formatter"] = json!("hex"));
        let packet = from_client(addresses, b"hello");
        pair.client_sends(&[&packet[..], &vec![0; packet.len().next_multiple_of(16) - packet.len()]].concat());
        assert_eq!(pair.packets[0]["Data"], hex_simd::encode_to_string(&packet, hex_simd::AsciiCase::Upper));
    }
}

#[test]
fn decapsulated_delivery_and_its_answers() {
    for addresses in [V4, V6] {
        let mut pair = Pair::new(decapsulating);
        pair.client_sends(&from_client(addresses, b"hello"));
        let packet = pair.packets[0].clone();
        let version = if addresses == V4 { 4 } else { 6 };
        let expected = inner(addresses);
        assert_eq!(packet["Data"], "hello");
        assert_eq!(
            packet["Inner"],
            json!({"SourceAddress": expected.source.ip(), "SourcePort": 5000,
                   "DestinationAddress": expected.destination.ip(), "DestinationPort": 5683,
                   "Version": version, "Protocol": 17})
        );
        let other = ("10.1.0.2:6000", "10.1.0.9:7");
        pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": packet["Tag"], "Data": "by tag"}]}));
        pair.publish(
            json!({"Data": "echoed", "Formatter": "utf8", "Remote": packet["Remote"], "Inner": packet["Inner"]}),
        );
        pair.publish(to_client());
        let mut elsewhere = to_client();
        elsewhere["Inner"] = json!({"SourceAddress": "10.1.0.2", "SourcePort": 6000, "DestinationAddress": "10.1.0.9",
                                    "DestinationPort": 7});
        pair.publish(elsewhere);
        let payloads: Vec<_> = pair
            .got
            .iter()
            .map(|plaintext| {
                assert_eq!(plaintext.len() % 16, 0, "padded");
                match Ip::new(plaintext).unwrap().unwrap() {
                    Unwrapped::Udp(inner, payload) => (inner.destination, inner.source, payload.to_vec()),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        let at = |pair: (&str, &str), payload: &[u8]| {
            let inner = inner(pair);
            (inner.source, inner.destination, payload.to_vec())
        };
        let expected = [at(addresses, b"by tag"), at(addresses, b"echoed"), at(addresses, b"push"), at(other, b"push")];
        assert_eq!(payloads, expected);
    }
}

#[test]
fn non_ip_plaintext_passes_a_decapsulating_listener() {
    let mut pair = Pair::new(decapsulating);
    pair.client_sends(b"hello");
    assert_eq!((&pair.packets[0]["Data"], pair.packets[0].get("Inner")), (&json!("hello"), None));
    pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": pair.packets[0]["Tag"], "Data": "hi"}]}));
    pair.publish(to_client());
    assert_eq!(pair.got, [&b"hi"[..], b"push"], "as the peer speaks, so it is spoken to");
}

#[test]
fn echo_is_answered_and_the_rest_is_counted() {
    let mut pair = Pair::new(decapsulating);
    // An echo request from 10.1.0.2 to 10.1.0.1.
    let ping = hex_simd::decode_to_vec(
        "45000020000000004001669b0a0100020a010001\
                                        0800b3a6123400017069 6e67"
            .replace(' ', ""),
    )
    .unwrap();
    assert!(Ip::new(&ping).is_none(), "its header's checksum is made below");
    let mut ping = ping;
    let sum = !ping[..20].chunks(2).enumerate().filter(|(i, _)| *i != 5).fold(0u32, |sum, (_, w)| {
        let sum = sum + u32::from(u16::from_be_bytes([w[0], w[1]]));
        (sum & 0xffff) + (sum >> 16)
    }) as u16;
    ping[10..12].copy_from_slice(&sum.to_be_bytes());
    let sum = !ping[20..].chunks(2).enumerate().filter(|(i, _)| *i != 1).fold(0u32, |sum, (_, w)| {
        let sum = sum + u32::from(u16::from_be_bytes([w[0], w[1]]));
        (sum & 0xffff) + (sum >> 16)
    }) as u16;
    ping[22..24].copy_from_slice(&sum.to_be_bytes());
    pair.client_sends(&ping);
    assert_eq!(pair.got.len(), 1);
    assert_eq!((pair.got[0][20], &pair.got[0][24..32]), (0, &ping[24..32]));
    assert!(pair.packets.is_empty());
    let mut fragment = from_client(V6, b"hello");
    fragment[6] = 44;
    pair.client_sends(&fragment);
    let mut other = from_client(V6, b"hello");
    other[6] = 6;
    pair.client_sends(&other);
    let mut wrong = from_client(V6, b"hello");
    *wrong.last_mut().unwrap() ^= 1;
    pair.client_sends(&wrong);
    for why in [Rejected::InnerFragment, Rejected::InnerProtocol, Rejected::InnerMalformed] {
        assert_eq!(pair.rejected(why), 1, "{why:?}");
    }
    let counters = pair.listener.counters();
    let wg = counters.wire_guard.as_ref().unwrap();
    assert_eq!(wg.echoes_answered, 1);
    let packets = counters.destinations[0].packets;
    let rejected: u64 = counters.rejected.values().sum();
    let protocol = wg.handshake_messages + wg.keepalives_received + wg.echoes_answered;
    assert_eq!(counters.received_packets, rejected + packets + protocol, "the sum adds up");
}

#[test]
fn allowed_ips_hold_for_inner_sources() {
    for decapsulated in [false, true] {
        let mut pair = Pair::new(|spec| {
            spec["WireGuard"]["DecapsulatedDelivery"] = json!(decapsulated);
            spec["WireGuard"]["Peers"][0]["AllowedIPs"] = json!(["10.1.0.2/32", "fd00::/64"]);
        });
        pair.client_sends(&from_client(V4, b"mine"));
        pair.client_sends(&from_client(V6, b"mine"));
        pair.client_sends(&from_client(("10.1.0.3:5000", "10.1.0.1:5683"), b"another's"));
        pair.client_sends(b"not IP");
        pair.client_sends(b"");
        assert_eq!(pair.packets.len(), 2);
        assert_eq!(pair.rejected(Rejected::RefusedInnerSource), 2);
        assert_eq!(pair.listener.counters().wire_guard.as_ref().unwrap().keepalives_received, 1);
    }
}

/// What passes for no IP packet, or is none, and begins with this source all the same.
fn bent(pair: (&str, &str)) -> Vec<Vec<u8>> {
    let right = from_client(pair, b"payload");
    let at = |place: usize, change: &dyn Fn(u8) -> u8| {
        let mut bent = right.clone();
        bent[place] = change(bent[place]);
        bent
    };
    let v4 = right[0] >> 4 == 4;
    let (length, source) = if v4 { (3, 12..16) } else { (5, 8..24) };
    let mut all = vec![
        at(length, &|low| low + 1),
        at(length, &|low| low - 1),
        at(length, &|_| 0),
        [&right[..], &[0; 16]].concat(),
        [&right[..], b"x"].concat(),
        right[..right.len() - 1].to_vec(),
        right[..source.end].to_vec(),
    ];
    if v4 {
        all.extend([
            at(10, &|high| high ^ 1),
            at(8, &|ttl| ttl - 1),
            at(0, &|_| 0x44),
            at(0, &|_| 0x4f),
            at(0, &|_| 0x40),
        ]);
    }
    all
}

#[test]
fn a_bent_packet_is_judged_by_its_source_too() {
    let others = [("10.1.0.3:5000", "10.1.0.1:5683"), ("[fd00:1::2]:5000", "[fd00::1]:5683")];
    for decapsulated in [false, true] {
        let mut pair = Pair::new(|spec| {
            spec["WireGuard"]["DecapsulatedDelivery"] = json!(decapsulated);
            spec["Destinations"][0]["Formatter"] = json!("hex");
            spec["WireGuard"]["Peers"][0]["AllowedIPs"] = json!(["10.1.0.2/32", "fd00::/64"]);
        });
        for plaintext in others.into_iter().flat_map(bent) {
            let before = pair.rejected(Rejected::RefusedInnerSource);
            pair.client_sends(&plaintext);
            assert_eq!(pair.rejected(Rejected::RefusedInnerSource), before + 1, "{plaintext:02x?}");
        }
        assert_eq!(pair.packets.len(), 0);
        let own: Vec<_> = [V4, V6].into_iter().flat_map(bent).collect();
        own.iter().for_each(|plaintext| pair.client_sends(plaintext));
        let refused = pair.rejected(Rejected::InnerMalformed);
        match decapsulated {
            false => assert_eq!((pair.packets.len(), refused), (own.len(), 0), "as they are"),
            true => assert_eq!((pair.packets.len(), refused), (0, own.len() as u64), "nothing to take out"),
        }
        let short = [b"".as_slice(), b"\x45", &from_client(V4, b"")[..15], &from_client(V6, b"")[..23]];
        let before = pair.rejected(Rejected::RefusedInnerSource);
        short.iter().for_each(|plaintext| pair.client_sends(plaintext));
        assert_eq!(pair.rejected(Rejected::RefusedInnerSource), before + 3, "all but the keepalive");
    }
}

#[test]
fn only_both_whole_families_let_everything_pass() {
    let delivered = |allowed: &[&str], plaintext: &[u8]| {
        let mut pair = Pair::new(|spec| {
            spec["Destinations"][0]["Formatter"] = json!("hex");
            spec["WireGuard"]["Peers"][0]["AllowedIPs"] = json!(allowed);
        });
        pair.client_sends(plaintext);
        pair.packets.len() == 1
    };
    let other = from_client(("203.0.113.9:1", "10.1.0.1:1"), b"x");
    for free in [&["0.0.0.0/0", "::/0"][..], &[], &["::/1", "8000::/1", "0.0.0.0/1", "128.0.0.0/1"]] {
        assert!(delivered(free, b"not IP") && delivered(free, &other) && delivered(free, &bent(V4)[0]), "{free:?}");
    }
    for one in [&["0.0.0.0/0"][..], &["0.0.0.0/0", "fd00::/8"], &["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8"]] {
        assert!(!delivered(one, b"not IP") && delivered(one, &other), "{one:?}");
        assert!(!delivered(one, &from_client(("[2001:db8::1]:1", "[fd00::1]:1"), b"x")), "{one:?}");
    }
    assert!(!delivered(&["::/0"], &other) && !delivered(&["::/0"], &bent(V4)[0]));
}

#[test]
fn the_first_refused_packet_of_each_peer_is_reported() {
    let mut pair = Pair::new(|spec| spec["WireGuard"]["Peers"][0]["AllowedIPs"] = json!(["10.1.0.2/32"]));
    pair.client_sends(b"nobody looks yet");
    pair.listener.watch(Kinds::INNER_REFUSED);
    (0..3).for_each(|_| pair.client_sends(&from_client(("10.1.0.3:5000", "10.1.0.1:5683"), b"x")));
    let about: Vec<_> = pair.listener.take_events().into_iter().map(|event| event.about).collect();
    assert_eq!(about, [About::InnerRefused(public(CLIENT), Some("10.1.0.3".parse().unwrap()))]);
    assert_eq!(pair.rejected(Rejected::RefusedInnerSource), 4);
}

#[test]
fn without_inner_addresses_nothing_is_invented() {
    let mut pair = Pair::new(decapsulating);
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Err(Reason::InnerAddressUnknown));
    let mut plain = Pair::new(|_| {});
    let mut entry = to_client();
    entry["Inner"] =
        json!({"SourceAddress": "10.1.0.2", "SourcePort": 1, "DestinationAddress": "10.1.0.1", "DestinationPort": 1});
    plain.publish(entry);
    assert_eq!(plain.last_outcome(), Err(Reason::MalformedRemote), "this Listener wraps nothing");
}

#[test]
fn what_is_malformed_is_named() {
    let mut pair = Pair::new(decapsulating);
    pair.client_sends(&from_client(V4, b"x"));
    let key = public(CLIENT);
    let good =
        json!({"SourceAddress": "10.1.0.2", "SourcePort": 1, "DestinationAddress": "10.1.0.1", "DestinationPort": 1});
    let remotes = [
        json!({"Address": CLIENT_AT, "Port": 1}),
        json!({"PeerKey": 7}),
        json!({"PeerKey": ""}),
        json!({"PeerKey": "short"}),
        json!({"PeerKey": key, "Address": "198.51.100.7"}),
        json!({"PeerKey": key, "Port": 7}),
        json!({"PeerKey": key, "Address": "x", "Port": 7}),
    ];
    for remote in remotes {
        pair.publish(json!({"Data": "", "Remote": remote}));
        assert_eq!(pair.last_outcome(), Err(Reason::MalformedRemote), "{remote}");
    }
    for (field, value) in [
        ("SourceAddress", json!("x")),
        ("SourceAddress", json!("fd00::2")),
        ("SourcePort", json!(0)),
        ("SourcePort", json!(65_536)),
        ("DestinationPort", json!("1")),
        ("DestinationAddress", Value::Null),
    ] {
        let mut inner = good.clone();
        inner[field] = value;
        pair.publish(json!({"Data": "", "Remote": {"PeerKey": key}, "Inner": inner}));
        assert_eq!(pair.last_outcome(), Err(Reason::MalformedRemote), "{field}");
    }
    pair.publish(json!({"Data": "", "Remote": {"PeerKey": key}, "Inner": [1]}));
    assert_eq!(pair.last_outcome(), Err(Reason::MalformedRemote));
    pair.publish(json!({"Data": "", "Remote": {"PeerKey": public(9)}}));
    assert_eq!(pair.last_outcome(), Err(Reason::UnknownPeer));
    pair.publish(json!({"Data": "", "Remote": {"PeerKey": key}, "Inner": good}));
    assert_eq!(pair.last_outcome(), Ok(1));
    assert_eq!(pair.got.len(), 1);
}

#[test]
fn payloads_have_a_limit() {
    let mut pair = Pair::new(decapsulating);
    pair.client_sends(&from_client(V4, b"x"));
    for (length, outcome) in [(65_472 - 28, Ok(1)), (65_472 - 27, Err(Reason::PayloadTooLarge))] {
        let mut entry = to_client();
        entry["Data"] = json!("x".repeat(length));
        pair.publish(entry);
        assert_eq!(pair.last_outcome(), outcome);
    }
    let longest = HEADER + 16 + pair.got[0].len();
    assert!(longest <= sluice_core::PAYLOAD_LIMIT_V4, "{longest}");
}

#[test]
fn without_a_session_packets_wait_for_the_handshake() {
    let mut pair = Pair::new(|_| {});
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Err(Reason::NoSession), "nobody knows where the peer is");
    let mut entry = to_client();
    entry["Remote"]["Address"] = json!("198.51.100.7");
    entry["Remote"]["Port"] = json!(40_001);
    pair.publish(entry.clone());
    pair.publish(entry);
    assert_eq!((pair.got.len(), pair.completions.len()), (2, 2));
}

#[test]
fn a_peer_that_does_not_answer_fails_its_packets_in_time() {
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"x");
    pair.restarted(|_| {});
    pair.connected = false;
    pair.publish(to_client());
    let mut hasty = to_client();
    hasty["TtlSeconds"] = json!(2);
    pair.publish(hasty);
    assert_eq!((pair.completions.len(), pair.listener.held()), (0, 2));
    pair.pass(2);
    assert_eq!(pair.last_outcome(), Err(Reason::NoSession));
    pair.pass(7);
    assert!(pair.completions.is_empty());
    pair.pass(1);
    assert_eq!(pair.last_outcome(), Err(Reason::NoSession));
    assert_eq!(pair.listener.held(), 0);
}

#[test]
fn a_peer_that_neither_renews_nor_answers_has_no_session_after_180_seconds() {
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"x");
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Ok(1));
    pair.connected = false;
    pair.pass(179);
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Ok(1), "the session holds to its end");
    pair.pass(1);
    pair.publish(to_client());
    assert_eq!((pair.completions.len(), pair.listener.held()), (0, 1), "a handshake is under way");
    pair.pass(10);
    assert_eq!(pair.last_outcome(), Err(Reason::NoSession));
    assert_eq!(pair.listener.counters().sources[0].failed[&Reason::NoSession], 1);
}

#[test]
fn what_waits_for_one_peer_is_bounded() {
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"x");
    pair.restarted(|_| {});
    pair.connected = false;
    (0..257).for_each(|_| pair.publish(to_client()));
    assert_eq!((pair.listener.held(), pair.last_outcome()), (256, Err(Reason::NoSession)));
    pair.listener.release_all(pair.now);
    pair.settle();
    assert_eq!(pair.completions.len(), 256);
    assert_eq!(pair.last_outcome(), Err(Reason::SendFailed));
}

#[test]
fn after_a_restart_the_gateway_speaks_first_and_knows_the_inner_addresses() {
    let mut pair = Pair::new(decapsulating);
    pair.client_sends(&from_client(V4, b"hello"));
    let tag = pair.packets[0]["Tag"].clone();
    pair.restarted(decapsulating);
    pair.publish(to_client());
    pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": tag, "Data": "old tag"}]}));
    let payloads: Vec<_> = pair
        .got
        .iter()
        .map(|plaintext| match Ip::new(plaintext).unwrap().unwrap() {
            Unwrapped::Udp(inner, payload) => (inner.destination.to_string(), payload.to_vec()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(payloads, [(V4.0.to_owned(), b"push".to_vec()), (V4.0.to_owned(), b"old tag".to_vec())]);
}

#[test]
fn the_sessions_endpoint_wins_over_remote_and_needs_no_permission() {
    let mut pair = Pair::new(|spec| spec["Sources"][0]["EgressNetworks"] = json!(["203.0.113.0/24"]));
    let mut entry = to_client();
    entry["Remote"]["Address"] = json!("192.0.2.99");
    entry["Remote"]["Port"] = json!(9);
    pair.publish(entry.clone());
    assert_eq!(pair.last_outcome(), Err(Reason::RemoteDenied), "only a given address has to be permitted");
    pair.client_sends(b"x");
    pair.publish(entry);
    assert_eq!((pair.last_outcome(), pair.astray.len()), (Ok(1), 0));
    pair.client_at = "198.51.100.200:9".parse().unwrap();
    pair.client_sends(b"moved");
    pair.publish(to_client());
    assert_eq!(pair.got, [b"push", b"push"]);
}

#[test]
fn require_session_waits_for_nobody() {
    let mut pair = Pair::new(|spec| spec["Sources"][0]["RequireSession"] = json!(true));
    let mut entry = to_client();
    entry["Remote"]["Address"] = json!("198.51.100.7");
    entry["Remote"]["Port"] = json!(40_001);
    pair.publish(entry);
    assert_eq!(pair.last_outcome(), Err(Reason::NoSession));
    pair.client_sends(b"x");
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Ok(1));
}

#[test]
fn pacing_holds_for_peers_too() {
    let mut pair = Pair::new(|spec| spec["Sources"][0]["RateLimit"] = json!({"PerRemotePacketsPerSecond": 1}));
    pair.client_sends(b"x");
    (0..3).for_each(|_| pair.publish(to_client()));
    assert_eq!(pair.got.len(), 1);
    pair.pass(1);
    pair.pass(1);
    assert_eq!(pair.got.len(), 3);
}

#[test]
fn peers_come_and_go_without_a_restart() {
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"x");
    assert_eq!(pair.listener.peers(pair.now).count(), 1);
    assert!(pair.listener.remove_peer(pair.now, &public(CLIENT)));
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Err(Reason::UnknownPeer));
    let tag = pair.packets[0]["Tag"].clone();
    pair.publish(json!({"Tag": tag, "Data": ""}));
    assert_eq!(pair.last_outcome(), Err(Reason::UnknownPeer));
    pair.listener.set_peer(pair.now, &crate::link::peer(CLIENT));
    let mut entry = to_client();
    entry["Remote"]["Address"] = json!("198.51.100.7");
    entry["Remote"]["Port"] = json!(40_001);
    pair.publish(entry);
    assert_eq!(pair.last_outcome(), Ok(1));
}

#[test]
fn packets_that_wait_for_a_removed_peer_fail() {
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"x");
    pair.restarted(|_| {});
    pair.connected = false;
    pair.publish(to_client());
    pair.listener.remove_peer(pair.now, &public(CLIENT));
    pair.settle();
    assert_eq!(pair.last_outcome(), Err(Reason::UnknownPeer));
}

#[test]
fn an_unknown_peer_can_be_spoken_to_first_where_unknown_peers_are_allowed() {
    let open = |spec: &mut Value| {
        spec["WireGuard"]["Peers"] = json!([]);
        spec["WireGuard"]["AllowUnknownPeers"] = json!(true);
    };
    let mut pair = Pair::new(open);
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Err(Reason::UnknownPeer), "and where it is told where they are");
    let mut entry = to_client();
    entry["Remote"]["Address"] = json!("198.51.100.7");
    entry["Remote"]["Port"] = json!(40_001);
    pair.publish(entry.clone());
    assert_eq!((pair.last_outcome(), pair.got.len()), (Ok(1), 1));
    // It is a guest now: remembered over a restart.
    pair.pass(1);
    pair.restarted(open);
    pair.publish(to_client());
    assert_eq!((pair.last_outcome(), pair.got.len()), (Ok(1), 2));
    entry["Remote"]["Address"] = json!("192.0.2.1");
    entry["Remote"]["PeerKey"] = json!(public(77));
    pair.publish(entry);
    assert_eq!(pair.last_outcome(), Err(Reason::RemoteDenied));
}

#[test]
fn tags_of_another_protocol_or_listener_answer_nothing() {
    let mut plain = Pair::new(|spec| {
        spec["Destinations"][0]["Formatter"] = json!("base64");
        spec.as_object_mut().unwrap().remove("WireGuard");
    });
    plain.arrives(b"hello");
    plain.settle();
    let tag = plain.packets[0]["Tag"].clone();
    let mut pair = Pair::new(|_| {});
    pair.client_sends(b"x");
    pair.publish(json!({"Tag": tag, "Data": ""}));
    assert_eq!(pair.last_outcome(), Err(Reason::InvalidTag));
    let ours = pair.packets[0]["Tag"].clone();
    plain.publish(json!({"Tag": ours, "Data": ""}));
    assert_eq!(plain.last_outcome(), Err(Reason::InvalidTag));
    let mut other = Pair::new(|spec| spec["Id"] = json!(8));
    other.client_sends(b"x");
    other.publish(json!({"Tag": ours, "Data": ""}));
    assert_eq!(other.last_outcome(), Err(Reason::InvalidTag));
}

#[test]
fn clients_outside_the_networks_are_refused_before_anything_else() {
    let mut pair = Pair::new(|spec| spec["ClientNetworks"] = json!(["203.0.113.0/24"]));
    pair.client.seal(pair.now, &public(GATEWAY).id(), b"x", false);
    pair.settle();
    assert_eq!(pair.rejected(Rejected::RefusedNetwork), 1);
    assert!(pair.astray.is_empty() && pair.got.is_empty());
}

#[test]
fn no_secret_shows() {
    let spec = spec(|spec| {
        spec["WireGuard"]["Peers"][0]["SharedSecret"] = json!(key(5));
        spec["WireGuard"]["UnknownPeerPreSharedKey"] = json!(key(6));
    });
    let shown = format!("{spec:?}");
    for secret in [GATEWAY, 5, 6] {
        assert!(!shown.contains(&key(secret)) && !shown.contains(&format!("{secret}, {secret}, {secret}")), "{shown}");
    }
    let pair = Pair::new(|_| {});
    assert!(pair.listener.spec().wire_guard.is_none(), "nothing of it is kept where it could be shown");
    assert_eq!(pair.listener.public_key(), Some(public(GATEWAY)));
    let _: PublicKey = serde_json::from_value(json!(public(GATEWAY))).unwrap();
}

#[test]
fn a_peer_nearby_needs_no_listing() {
    for at in ["192.168.7.5:40001", "10.0.0.5:40001", "100.64.0.5:40001", "127.0.0.1:40001"] {
        let mut pair = Pair::new(|_| {});
        pair.client_at = at.parse().unwrap();
        pair.client_sends(b"x");
        pair.publish(to_client());
        assert_eq!((pair.last_outcome(), pair.got.len()), (Ok(1), 1), "{at}");
        let tag = pair.packets[0]["Tag"].clone();
        pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": tag, "Data": "reply"}]}));
        assert_eq!((pair.last_outcome(), pair.got.len()), (Ok(1), 2), "{at}");
    }
}

#[test]
fn no_peer_leads_the_gateway_to_its_surroundings() {
    for at in ["169.254.169.254:80", "255.255.255.255:9", "224.0.0.251:5353", "0.0.0.0:9", "198.51.100.7:0"] {
        // Neither at first, nor by roaming.
        let mut pair = Pair::new(|spec| spec["Sources"][0]["EgressNetworks"] = json!(["0.0.0.0/0"]));
        let home = std::mem::replace(&mut pair.client_at, at.parse().unwrap());
        pair.connected = false;
        pair.client.seal(pair.now, &public(GATEWAY).id(), b"x", false);
        pair.settle();
        assert_eq!(pair.rejected(Rejected::RefusedNetwork), 1, "{at}");
        assert!(pair.astray.is_empty(), "{at} got a handshake's answer");
        (pair.client_at, pair.connected) = (home, true);
        pair.pass(6);
        pair.client_sends(b"x");
        pair.client_at = at.parse().unwrap();
        pair.client_sends(b"moved");
        pair.publish(to_client());
        assert_eq!(pair.astray, [home], "it is where it was");
        assert_eq!(pair.last_outcome(), Ok(1));
    }
}

#[test]
fn an_endpoint_of_before_is_judged_by_the_networks_of_now() {
    let mut pair = Pair::new(|spec| spec["ClientNetworks"] = json!(["169.254.0.0/16", "0.0.0.0/0"]));
    pair.client_at = "169.254.7.7:40001".parse().unwrap();
    pair.client_sends(b"x");
    pair.publish(to_client());
    assert_eq!((pair.last_outcome(), pair.got.len()), (Ok(1), 1), "they name it");
    let tag = pair.packets[0]["Tag"].clone();
    pair.restarted(|_| {});
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Err(Reason::RemoteDenied));
    pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": tag, "Data": "reply"}]}));
    assert_eq!(pair.last_outcome(), Err(Reason::AnswerRefused));
    pair.pass(30);
    assert!(pair.astray.is_empty() && pair.got.len() == 1);
}

#[test]
fn a_place_that_one_source_may_name_is_none_for_another() {
    let mut pair = Pair::new(|spec| {
        let mut other = spec["Sources"][0].clone();
        (other["Name"], other["EgressNetworks"]) = (json!("other"), json!(["10.0.0.0/8"]));
        spec["Sources"][0]["EgressNetworks"] = json!(["0.0.0.0/0"]);
        spec["Sources"].as_array_mut().unwrap().push(other);
    });
    pair.connected = false;
    let mut entry = to_client();
    (entry["Remote"]["Address"], entry["Remote"]["Port"]) = (json!("10.0.0.9"), json!(9));
    pair.publish(entry.clone());
    assert_eq!(pair.last_outcome(), Err(Reason::RemoteDenied), "nobody has shown to be there");
    pair.submit(Origin::Source(1), json!({"Messages": [entry]}));
    assert_eq!(pair.astray, ["10.0.0.9:9".parse().unwrap()], "a handshake");
    pair.publish(to_client());
    assert_eq!(pair.last_outcome(), Err(Reason::RemoteDenied), "still nobody has");
}

/// A peer that returns every answer, through its tunnel. How many it got.
fn circle(pair: &mut Pair, plaintext: &[u8]) -> usize {
    for _ in 0..1_500 {
        pair.client_sends(plaintext);
        let packet = pair.packets.pop().unwrap();
        pair.submit(Origin::Destination(0), json!({"Replies": [{"Tag": packet["Tag"], "Data": packet["Data"]}]}));
        pair.now.mono += SECOND / 1_000;
    }
    pair.got.len()
}

#[test]
fn a_peer_that_returns_every_answer_gets_a_thousand() {
    assert_eq!(circle(&mut Pair::new(|_| {}), b"ping"), 1_000);
    assert_eq!(circle(&mut Pair::new(decapsulating), &from_client(V4, b"ping")), 1_000);
    let mut local = Pair::new(|_| {});
    local.client_at = "127.0.0.1:40001".parse().unwrap();
    assert_eq!(circle(&mut local, b"ping"), 1_500, "no other machine can spoof loopback");
}
