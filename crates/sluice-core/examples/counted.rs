//! Work of the packet path whose instructions `bench/instructions.py` counts under callgrind.
//!
//! `counted CASE` prepares the case, runs it once to warm it up, and then `measured` runs it: callgrind is told to count
//! inside that function alone. `counted` without a case lists them, each with the packets or entries in one run.

use serde_json::{Value, json};
use sluice_core::{
    DataplaneSpec, Listener, ListenerSpec, Now, Origin, OwnEndpoints, RunLimit, Shared, Submission,
    own::Local,
    session::wireguard::{PeerId, Received, Sealed, Secret, WireGuard, keys::Identity},
    spec::{PeerMemory, PeerSpec, WireGuardSpec},
};
use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

const UNITS: u64 = 512;
const NOW: Now = Now { mono: 1_000_000_000_000, unix_ms: 1_780_000_000_000 };
const GATEWAY: &str = "192.0.2.10";
const RUN: RunLimit = RunLimit { segments: 64, segment: 1_452, bytes: 65_000 };

/// A name, and what makes a run of it: `UNITS` packets or entries.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

const CASES: [Case; 10] = [
    ("publish_64", || publish(64, UNITS)),
    ("publish_1200", || publish(1_200, UNITS)),
    ("publish_1200_to_one", || publish(1_200, 1)),
    ("receive_64_base64", || receive(64, "base64", 1_000)),
    ("receive_64_utf8", || receive(64, "utf8", 1_000)),
    ("receive_1200_base64", || receive(1_200, "base64", 1_000)),
    ("receive_1200_utf8", || receive(1_200, "utf8", 1_000)),
    ("receive_64_single", || receive(64, "base64", 1)),
    ("seal_1200", || tunnel(false)),
    ("open_1200", || tunnel(true)),
];

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        let listed: Vec<Value> = CASES.iter().map(|(name, _)| json!({"case": name, "units": UNITS})).collect();
        return println!("{}", json!(listed));
    };
    let (_, make) = CASES.iter().find(|(known, _)| *known == name).expect("a case that `counted` lists");
    let mut work = make();
    work();
    measured(&mut *work);
}

/// What callgrind counts: it keeps a name of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn measured(work: &mut dyn FnMut()) {
    black_box(work)();
}

fn listener(formatter: &str, count: u64) -> Listener {
    let shared: DataplaneSpec = serde_json::from_value(json!({
        "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}], "TagSeconds": 3600,
    }))
    .expect("a valid spec");
    let spec: ListenerSpec = serde_json::from_value(json!({
        "Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": "[::]:2048", "DualStack": true,
        "ClientNetworks": ["0.0.0.0/0", "::/0"], "SessionIdleSeconds": 300, "SessionLimit": 10_000,
        "RingBytes": 4 << 20,
        "Destinations": [{"Name": "one", "Formatter": formatter, "Count": count, "TimeoutSeconds": 1.0,
                          "SizeBytes": 4 << 20, "QueueBytes": 4 << 20, "Bound": true}],
        "Sources": [{"Name": "source", "EgressNetworks": ["0.0.0.0/0", "::/0"], "HoldSeconds": 60,
                     "DedupSeconds": 600, "DedupLimit": 1000}],
    }))
    .expect("a valid spec");
    let shared = Arc::new(Shared::new(&shared).expect("valid keys"));
    Listener::new(spec, shared, "[::]:2048".parse().expect("an address"), [9; 6])
}

/// One client of `clients`.
fn remote(client: u64) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, (client % 250) as u8 + 1], 4_000 + (client / 250) as u16))
}

/// A message of `UNITS` entries of `size` bytes to as many remotes as `remotes`: parsed, judged, decoded, taken as by the
/// kernel in runs to one remote, accounted.
fn publish(size: usize, remotes: u64) -> Box<dyn FnMut()> {
    let data = base64_of(size);
    let entries: Vec<Value> = (0..UNITS)
        .map(|entry| {
            let to = remote(entry % remotes);
            json!({"Data": data, "Remote": {"Address": to.ip(), "Port": to.port()}})
        })
        .collect();
    let body = json!({ "Messages": entries }).to_string().into_bytes();
    let mut listener = listener("base64", 10);
    let mut own = OwnEndpoints::default();
    own.listen(listener.bound(), true);
    own.routes.add(GATEWAY.parse::<IpAddr>().expect("an address").into(), Local::Address);
    Box::new(move || {
        let submission = Submission {
            id: "m".into(),
            origin: Origin::Source(0),
            published_ms: None,
            body: body.clone().into(),
            refusal: None,
            due: None,
        };
        listener.submit(NOW, &own, submission);
        while listener.next_outgoing(NOW).is_some() {
            for _ in 0..listener.outgoing_run(NOW, RUN).max(1) {
                black_box(listener.next_outgoing(NOW));
                listener.sent(NOW);
            }
        }
        let completion = listener.poll_completion().expect("it has ended");
        assert_eq!(u64::from(completion.sent), UNITS);
    })
}

/// `UNITS` datagrams of `size` bytes by as many clients: judged, tagged, rendered, closed as batches of `count`.
fn receive(size: usize, formatter: &str, count: u64) -> Box<dyn FnMut()> {
    let payload: Vec<u8> = (0..size).map(|byte| b' ' + (byte % 90) as u8).collect();
    let local: IpAddr = GATEWAY.parse().expect("an address");
    let mut listener = listener(formatter, count);
    Box::new(move || {
        for client in 0..UNITS {
            listener.handle_datagram(NOW, local, remote(client), &payload);
        }
        listener.flush(NOW);
        let batches = std::iter::from_fn(|| listener.poll_batch());
        let packets: usize = batches.map(|(_, batch)| black_box(batch).count()).sum();
        assert_eq!(packets as u64, UNITS);
    })
}

/// `UNITS` packets of 1,200 bytes through a WireGuard session: sealed, and `open`ed at the other end.
fn tunnel(open: bool) -> Box<dyn FnMut()> {
    let at: [SocketAddr; 2] = [([192, 0, 2, 1], 51_820).into(), ([192, 0, 2, 2], 51_820).into()];
    let mut ends = [end(1, 2, at[1]), end(2, 1, at[0])];
    let ids = [ends[1].1, ends[0].1]; // the peer of each
    let data = [0x5a; 1_200];
    assert!(matches!(ends[0].0.seal(NOW, &ids[0], &data, false), Sealed::Wait));
    let mut plaintext = Vec::new();
    loop {
        let mut moved = false;
        for from in [0, 1] {
            while let Some(transmit) = ends[from].0.poll_transmit() {
                let to = 1 - from;
                ends[to].0.receive(NOW, at[to].ip(), at[from], &transmit.datagram, &mut plaintext);
                moved = true;
            }
            while ends[from].0.poll_outcome().is_some() {}
        }
        if !moved {
            break;
        }
    }
    let [(mut near, _), (mut far, _)] = ends;
    let mut seal = move || match near.seal(NOW, &ids[0], &data, false) {
        Sealed::Datagram(transmit) => transmit.datagram,
        other => panic!("no session: {other:?}"),
    };
    if !open {
        return Box::new(move || (0..UNITS).for_each(|_| drop(black_box(seal()))));
    }
    let mut waiting = (0..2 * UNITS).map(|_| seal()).collect::<Vec<_>>().into_iter();
    Box::new(move || {
        for datagram in waiting.by_ref().take(UNITS as usize) {
            plaintext.clear();
            let received = far.receive(NOW, at[1].ip(), at[0], &datagram, &mut plaintext);
            assert!(matches!(received, Received::Packet(_)));
        }
    })
}

/// An endpoint that knows the other one and where it is, and its own id.
fn end(private: u8, other: u8, at: SocketAddr) -> (WireGuard, PeerId) {
    let key = |byte| Identity::new(&Secret([byte; 32])).public;
    let spec = WireGuardSpec {
        private_key: Secret([private; 32]),
        peers: vec![PeerSpec {
            public_key: key(other),
            allowed_ips: Vec::new(),
            shared_secret: None,
            persistent_keepalive_seconds: 0,
        }],
        allow_unknown_peers: false,
        unknown_peer_pre_shared_key: None,
        decapsulated_delivery: false,
        known: vec![PeerMemory { public_key: key(other), remote: Some(at), local: None, recent: Default::default() }],
        stamp_floor: 0,
        stamp_reserved: 0,
    };
    (WireGuard::new(&spec, 100), key(private).id())
}

/// Text in base64 that stands for `size` bytes.
fn base64_of(size: usize) -> String {
    let mut text: String = ["QUJD"; 400][..size / 3].concat();
    text.push_str(["", "QQ==", "QUI="][size % 3]);
    text
}
