//! Data messages through a whole `wg` Listener: no forgery comes out, and every genuine packet comes out as the contract
//! says or is counted.

use crate::{
    handshake::NOW,
    world::{World, spec},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sluice_core::{
    inner::{Inner, Ip, Unwrapped},
    session::{
        WireGuard,
        wireguard::{PublicKey, Received, Sealed, Secret, keys::Identity},
    },
    spec::{PeerSpec, WireGuardSpec},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
};

const LOCAL: &str = "192.0.2.10";
const CLIENT_AT: &str = "198.51.100.7:40001";
const HEADER: usize = 16;

/// A packet's addresses that every peer here may use.
const HELLO: Inner = Inner {
    source: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)), 5683),
    destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)), 5000),
};

static GATEWAY: LazyLock<PublicKey> = LazyLock::new(|| Identity::new(&Secret([2; 32])).public);
static CLIENT: LazyLock<PublicKey> = LazyLock::new(|| Identity::new(&Secret([1; 32])).public);

/// Any bytes as a sealed packet, and as a plaintext.
pub fn check(data: &[u8]) {
    for (decapsulating, free) in [(false, true), (true, true), (false, false), (true, false)] {
        let allowed = if free { ["0.0.0.0/0", "::/0"] } else { ["0.0.0.0/1", "::/1"] };
        let mut world = World::new(spec(|spec| {
            spec["Destinations"] = json!([spec["Destinations"][0]]);
            spec["Destinations"][0]["Count"] = json!(1);
            spec["WireGuard"] = json!({
                "PrivateKey": BASE64_STANDARD.encode([2; 32]), "DecapsulatedDelivery": decapsulating,
                "Peers": [{"PublicKey": *CLIENT, "AllowedIPs": allowed}],
            });
        }));
        let mut client = client();
        let greeting = seal(&mut world, &mut client, &HELLO.wrap(b"hello"));
        arrive(&mut world, &greeting);
        assert_eq!(delivered(&mut world).len(), 1);
        forged(&mut world, &greeting, data);
        let datagram = seal(&mut world, &mut client, data);
        arrive(&mut world, &datagram);
        genuine(&mut world, decapsulating, free, data);
        arrive(&mut world, &datagram);
        assert!(delivered(&mut world).is_empty(), "nothing is delivered twice");
        let counters = world.listener.counters();
        let wg = counters.wire_guard.as_ref().expect("a wg Listener");
        let protocol = wg.handshake_messages + wg.keepalives_received + wg.echoes_answered;
        let rejected: u64 = counters.rejected.values().sum();
        assert_eq!(counters.received_packets, counters.destinations[0].packets + rejected + protocol);
    }
}

/// The right index and any counter, but not the key.
fn forged(world: &mut World, greeting: &[u8], data: &[u8]) {
    arrive(world, data);
    arrive(world, &[&greeting[..8], data].concat());
    arrive(world, &[&greeting[..HEADER], data].concat());
    let mut altered = greeting.to_vec();
    for (byte, change) in altered[8..].iter_mut().zip(data) {
        *byte ^= change;
    }
    arrive(world, &altered);
    assert!(delivered(world).is_empty(), "no forgery comes out");
}

fn genuine(world: &mut World, decapsulating: bool, free: bool, data: &[u8]) {
    let got = delivered(world);
    // Of its AllowedIPs only the first bit of the source counts.
    let allowed = match data.first().map(|first| first >> 4) {
        Some(4) => data.len() >= 16 && data[12] < 128,
        Some(6) => data.len() >= 24 && data[8] < 128,
        _ => false,
    };
    let expected: Option<&[u8]> = match Ip::new(data) {
        _ if data.is_empty() => None,
        _ if !free && !allowed => None,
        None if !free && decapsulating => None,
        None => Some(data),
        Some(ip) if !decapsulating => Some(ip.bytes()),
        Some(ip) => match ip.unwrap() {
            Unwrapped::Udp(_, payload) => Some(payload),
            Unwrapped::Echo(_) | Unwrapped::Dropped(_) => None,
        },
    };
    assert_eq!(got, expected.map(<[u8]>::to_vec).into_iter().collect::<Vec<_>>());
}

fn client() -> WireGuard {
    let gateway = PeerSpec {
        public_key: *GATEWAY,
        allowed_ips: Vec::new(),
        shared_secret: None,
        persistent_keepalive_seconds: 0,
    };
    let spec = WireGuardSpec {
        private_key: Secret([1; 32]),
        peers: vec![gateway],
        allow_unknown_peers: false,
        unknown_peer_pre_shared_key: None,
        decapsulated_delivery: false,
        known: Vec::new(),
        stamp_floor: 0,
        stamp_reserved: 0,
    };
    let mut client = WireGuard::new(&spec, 1);
    client.offer_endpoint(&GATEWAY.id(), SocketAddr::new(LOCAL.parse().expect("an address"), 2048));
    client
}

/// Seals a plaintext, after the handshake that it needs.
fn seal(world: &mut World, client: &mut WireGuard, plaintext: &[u8]) -> Vec<u8> {
    loop {
        if let Sealed::Datagram(transmit) = client.seal(NOW, &GATEWAY.id(), plaintext, false) {
            return transmit.datagram;
        }
        let initiation = client.poll_transmit().expect("an initiation").datagram;
        arrive(world, &initiation);
        let response = world.listener.next_outgoing(world.now).expect("a response").payload.clone();
        world.listener.sent(world.now);
        let (local, from) =
            (CLIENT_AT.parse::<SocketAddr>().expect("an address").ip(), SocketAddr::from(([192, 0, 2, 10], 2048)));
        assert_eq!(client.receive(NOW, local, from, &response, &mut Vec::new()), Received::Protocol);
    }
}

fn arrive(world: &mut World, datagram: &[u8]) {
    let (local, remote) = (LOCAL.parse().expect("an address"), CLIENT_AT.parse().expect("an address"));
    world.listener.handle_datagram(world.now, local, remote, datagram);
}

fn delivered(world: &mut World) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while let Some((_, batch)) = world.listener.poll_batch() {
        let body: Value = serde_json::from_slice(batch.body()).expect("JSON");
        for packet in body["Messages"].as_array().expect("a list") {
            assert_eq!(packet["Remote"]["PeerKey"], json!(*CLIENT));
            let data = packet["Data"].as_str().expect("a string");
            got.push(BASE64_STANDARD.decode(data).expect("Base64"));
        }
    }
    got
}
