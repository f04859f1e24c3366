//! Handshake messages: without the right keys nothing is answered, and nothing changes for those who have them.

use sluice_core::{
    Now, Rejected,
    session::{
        WireGuard,
        wireguard::{
            PublicKey, Received, Sealed, Secret,
            keys::{Identity, PeerId, mac, mac1_key},
        },
    },
    spec::{PeerSpec, WireGuardSpec},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

/// The moment of everything here.
pub const NOW: Now = Now { mono: 1_000_000_000, unix_ms: 1_780_000_000_000 };
const NOISE_OF_AN_INITIATION: usize = 108;
const NOISE_OF_A_RESPONSE: usize = 48;

static GATEWAY: LazyLock<PublicKey> = LazyLock::new(|| Identity::new(&Secret([2; 32])).public);
static CLIENT: LazyLock<PublicKey> = LazyLock::new(|| Identity::new(&Secret([1; 32])).public);

/// An end of a tunnel.
struct End {
    wg: WireGuard,
    at: SocketAddr,
}

/// Any bytes as a datagram, and as the sealed part of each handshake message.
pub fn check(data: &[u8]) {
    let (mut gateway, mut client) = (end(2, *CLIENT, true), end(1, *GATEWAY, false));
    let id = GATEWAY.id();
    client.wg.offer_endpoint(&id, gateway.at);
    assert_eq!(client.wg.seal(NOW, &id, b"x", false), Sealed::Wait);
    let genuine = client.wg.poll_transmit().expect("an initiation").datagram;
    let index: [u8; 4] = genuine[4..8].try_into().expect("four bytes");
    refuse(&mut gateway, data);
    if let Some(noise) = data.first_chunk::<NOISE_OF_AN_INITIATION>() {
        let head = [&[1, 0, 0, 0], &index[..], noise].concat();
        refuse(&mut gateway, &signed(head, &GATEWAY));
    }
    refuse(&mut client, data);
    if let Some(noise) = data.first_chunk::<NOISE_OF_A_RESPONSE>() {
        let head = [&[2, 0, 0, 0, 9, 9, 9, 9], &index[..], noise].concat();
        refuse(&mut client, &signed(head, &CLIENT));
    }
    if let Some(cookie) = data.first_chunk::<56>() {
        refuse(&mut client, &[&[3, 0, 0, 0], &index[..], cookie].concat());
    }
    // The genuine handshake goes on as if nothing had been.
    let mut plaintext = Vec::new();
    assert_eq!(receive(&mut gateway, client.at, &genuine, &mut plaintext), Received::Protocol);
    let response = gateway.wg.poll_transmit().expect("a response").datagram;
    assert_eq!(receive(&mut client, gateway.at, &response, &mut plaintext), Received::Protocol);
    assert!(client.wg.has_session(NOW, &id));
}

fn end(private: u8, peer: PublicKey, open: bool) -> End {
    let spec = WireGuardSpec {
        private_key: Secret([private; 32]),
        peers: vec![PeerSpec {
            public_key: peer,
            allowed_ips: Vec::new(),
            shared_secret: Some(Secret([3; 32])),
            persistent_keepalive_seconds: 0,
        }],
        allow_unknown_peers: open,
        unknown_peer_pre_shared_key: None,
        decapsulated_delivery: false,
        known: Vec::new(),
        stamp_floor: 0,
        stamp_reserved: 0,
    };
    End { wg: WireGuard::new(&spec, 10), at: SocketAddr::from(([192, 0, 2, private], 51_820)) }
}

fn signed(mut message: Vec<u8>, to: &PublicKey) -> Vec<u8> {
    let mac1 = mac(&mac1_key(to), &[&message]);
    message.extend(mac1);
    message.extend([0; 16]);
    message
}

fn refuse(end: &mut End, datagram: &[u8]) {
    let from: SocketAddr = "203.0.113.66:6".parse().expect("an address");
    match receive(end, from, datagram, &mut Vec::new()) {
        Received::Refused(why) => assert_ne!(why, Rejected::HandshakeLimit, "there is no load"),
        other => panic!("{other:?}"),
    }
    assert!(end.wg.poll_transmit().is_none(), "silence");
    assert!(end.wg.poll_outcome().is_none());
    assert!(end.wg.take_changes().is_empty());
    let known: Vec<PeerId> = end.wg.status(NOW).map(|peer| peer.public_key.id()).collect();
    assert_eq!(known.len(), 1);
    assert!(!end.wg.has_session(NOW, &known[0]));
}

fn receive(end: &mut End, from: SocketAddr, datagram: &[u8], plaintext: &mut Vec<u8>) -> Received {
    let local: IpAddr = end.at.ip();
    end.wg.receive(NOW, local, from, datagram, plaintext)
}
