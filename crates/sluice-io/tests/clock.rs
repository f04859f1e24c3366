//! A data plane whose clock jumps, as after a suspension: nobody wakes it, and what has become due is done.

mod common;

use common::{PATIENCE, Rig, document, next, readable, remote};
use serde_json::json;
use sluice_core::{
    Now, Origin, Submission,
    session::wireguard::{
        Received, Sealed, Secret, WireGuard,
        keys::{Identity, PublicKey},
    },
    spec::{PeerSpec, WireGuardSpec},
    time::SECOND,
};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

const GATEWAY: u8 = 2;
const CLIENT: u8 = 1;
const HOUR: u64 = 3_600 * SECOND;

/// A clock of the machine that can be put forward: one for each test, since a clock is a plain function.
macro_rules! clock {
    ($slept:ident, $clock:ident) => {
        static $slept: AtomicU64 = AtomicU64::new(0);

        fn $clock() -> Now {
            now($slept.load(Ordering::Relaxed))
        }
    };
}

fn now(slept: u64) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Now { mono: unix.as_nanos() as u64 + slept, unix_ms: unix.as_millis() as u64 + slept / 1_000_000 }
}

fn public(byte: u8) -> PublicKey {
    Identity::new(&Secret([byte; 32])).public
}

/// A client that knows the gateway; its own clock is right.
fn client(gateway: SocketAddr) -> WireGuard {
    let peer = PeerSpec {
        public_key: public(GATEWAY),
        allowed_ips: Vec::new(),
        shared_secret: None,
        persistent_keepalive_seconds: 0,
    };
    let spec = WireGuardSpec {
        private_key: Secret([CLIENT; 32]),
        peers: vec![peer],
        allow_unknown_peers: false,
        unknown_peer_pre_shared_key: None,
        decapsulated_delivery: false,
        known: Vec::new(),
        stamp_floor: 0,
        stamp_reserved: 0,
    };
    let mut client = WireGuard::new(&spec, 1);
    client.offer_endpoint(&public(GATEWAY).id(), gateway);
    client
}

/// Passes on what the client's protocol sends, and one datagram of the gateway's to it.
fn exchange(client: &mut WireGuard, socket: &UdpSocket, gateway: SocketAddr) -> (u8, Received) {
    while let Some(transmit) = client.poll_transmit() {
        socket.send_to(&transmit.datagram, gateway).unwrap();
    }
    let mut buffer = [0; 2_048];
    let (length, _) = socket.recv_from(&mut buffer).expect("the gateway answers");
    let local = socket.local_addr().unwrap();
    let received = client.receive(now(0), local.ip(), gateway, &buffer[..length], &mut Vec::new());
    (buffer[0], received)
}

fn sealed(client: &mut WireGuard, plaintext: &[u8]) -> Vec<u8> {
    match client.seal(now(0), &public(GATEWAY).id(), plaintext, false) {
        Sealed::Datagram(transmit) => transmit.datagram,
        other => panic!("{other:?}"),
    }
}

/// The payload of the next packet that a handler gets.
fn delivered(rig: &Rig) -> String {
    let queue = rig.port.queue(0).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(batch) = queue.read(1).pop() {
            let body: serde_json::Value = serde_json::from_slice(batch.body()).unwrap();
            return body["Messages"][0]["Data"].as_str().unwrap().to_owned();
        }
        assert!(readable(queue.ready(), deadline), "a packet should have arrived");
    }
}

fn wireguard(keepalive: u16) -> impl FnOnce(&mut serde_json::Value) {
    move |spec| {
        spec["WireGuard"] = json!({
            "PrivateKey": PublicKey([GATEWAY; 32]).to_base64(),
            "Peers": [{"PublicKey": public(CLIENT), "PersistentKeepaliveSeconds": keepalive}],
        });
    }
}

/// The client and the gateway speak, after a handshake.
fn spoken(rig: &Rig) -> (WireGuard, UdpSocket) {
    let (socket, _) = remote();
    let gateway = rig.port.bound();
    let mut client = client(gateway);
    assert_eq!(client.seal(now(0), &public(GATEWAY).id(), b"", false), Sealed::Wait);
    assert_eq!(exchange(&mut client, &socket, gateway).0, 2);
    socket.send_to(&sealed(&mut client, b"before"), gateway).unwrap();
    assert_eq!(delivered(rig), "before");
    (client, socket)
}

clock!(KEYS, keys_clock);

#[test]
fn keys_of_before_a_suspension_open_and_seal_nothing() {
    let rig = Rig::by(keys_clock, wireguard(0));
    let (mut client, socket) = spoken(&rig);
    KEYS.store(HOUR, Ordering::Relaxed);
    // A turn that began before goes on by its own time.
    (0..2).for_each(|_| drop(rig.plane.counters(&rig.port)));
    socket.send_to(&sealed(&mut client, b"under old keys"), rig.port.bound()).unwrap();
    let push = json!({"Data": "push", "Formatter": "utf8", "Remote": {"PeerKey": public(CLIENT)}});
    let body = push.to_string().into_bytes();
    rig.port.submit([Submission {
        id: "m".into(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal: None,
        due: None,
    }]);
    assert_eq!(exchange(&mut client, &socket, rig.port.bound()).0, 1, "a handshake comes first");
    assert_eq!(exchange(&mut client, &socket, rig.port.bound()).0, 4, "then the packet");
    assert_eq!(rig.completions(1)[0].sent, 1);
    let counters = rig.plane.counters(&rig.port).unwrap().counters;
    assert_eq!(counters.rejected.values().sum::<u64>(), 1, "{:?}", counters.rejected);
    assert!(rig.port.queue(0).unwrap().read(1).is_empty());
}

clock!(KEEPALIVE, keepalive_clock);

#[test]
fn a_keepalive_that_became_due_is_sent_though_nobody_wakes_the_thread() {
    let rig = Rig::by(keepalive_clock, wireguard(50_000));
    let (mut client, socket) = spoken(&rig);
    KEEPALIVE.store(24 * HOUR, Ordering::Relaxed);
    assert_eq!(exchange(&mut client, &socket, rig.port.bound()).0, 1, "with new keys");
}

clock!(PLAIN, plain_clock);

#[test]
fn what_waits_on_a_plain_listener_becomes_due_too() {
    let rig = Rig::by(plain_clock, |spec| {
        spec["Destinations"][0]["TimeoutSeconds"] = json!(1_000);
        spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 0.02, "Burst": 1});
    });
    let (socket, address) = remote();
    socket.send_to(b"in a batch", rig.port.bound()).unwrap();
    let entries = [(address, "at once".to_owned()), (address, "paced".to_owned())];
    assert_eq!(rig.port.submit([document("m", &entries)]), 1);
    assert_eq!(next(&socket), "at once");
    PLAIN.store(55 * SECOND, Ordering::Relaxed);
    assert_eq!(next(&socket), "paced");
    PLAIN.store(HOUR, Ordering::Relaxed);
    assert_eq!(delivered(&rig), "in a batch");
}
