//! Clocks that jump, on either side (contract section 5).

use crate::link::{SECOND, World, knowing, peer, public, spec};
use sluice_core::{
    Now, PeerClock, Rejected,
    inner::Recent,
    session::wireguard::{PublicKey, Received, Sealed, Secret, WireGuard, keys::Identity},
    spec::{PeerMemory, PeerSpec, WireGuardSpec},
};
use std::net::SocketAddr;

const A: u8 = 1;
const B: u8 = 2;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const DAY_MS: i64 = 86_400_000;

/// A gateway (0) that spoke to its peer, and is gone; what its state has.
fn spoken() -> (World, u64, Vec<PeerMemory>) {
    let mut world = World::pair();
    world.send(0, B, b"before");
    world.run(SECOND);
    assert_eq!(world.texts(1), ["before"]);
    let mark = world.now().unix_ms * 1_000_000 + MINUTE;
    let memories = world.nodes[0].wg.take_changes();
    (world, mark, memories)
}

/// It starts again with this mark, while its clock is `ahead_ms` ahead.
fn starts_again(world: &mut World, mark: Option<u64>, memories: Vec<PeerMemory>, ahead_ms: i64) {
    world.nodes[0].ahead_ms = ahead_ms;
    let mark = mark.unwrap_or(0);
    (world.nodes[0].spec.stamp_floor, world.nodes[0].spec.stamp_reserved) = (mark, mark + SECOND);
    world.restart(0, memories);
    assert_eq!(world.send(0, B, b"after"), Sealed::Wait);
    world.run(10 * SECOND);
}

#[test]
fn with_its_mark_a_gateway_whose_clock_went_back_is_answered() {
    for ahead_ms in [-DAY_MS, -30_000, 0, DAY_MS, -20_000 * DAY_MS] {
        let (mut world, mark, memories) = spoken();
        starts_again(&mut world, Some(mark), memories, ahead_ms);
        assert_eq!(world.texts(1), ["before", "after"], "{ahead_ms}");
        assert_eq!(world.nodes[1].refused, [], "{ahead_ms}");
    }
}

#[test]
fn without_it_its_handshakes_are_refused() {
    let (mut world, _, memories) = spoken();
    starts_again(&mut world, None, memories, -DAY_MS);
    assert_eq!(world.texts(1), ["before"]);
    assert_eq!(world.nodes[1].refused.first(), Some(&Rejected::ReplayedHandshake));
}

#[test]
fn after_a_suspension_old_keys_are_of_no_use_and_the_next_packet_arrives() {
    for (slept, alive) in [(179 * SECOND, true), (200 * SECOND, false), (DAY, false)] {
        let mut world = World::pair();
        world.send(0, B, b"before");
        world.run(SECOND);
        world.send(0, B, b"recorded");
        let recorded = world.last_sent(0);
        world.run(SECOND);
        // Both sleep: time passes, and no timer is looked at.
        world.mono += slept - 2 * SECOND;
        let (at, id) = (world.nodes[0].at, public(A).id());
        assert_eq!(world.nodes[1].wg.has_session(world.now(), &id), alive, "{slept}");
        let replayed = if alive { Rejected::Replayed } else { Rejected::NoSession };
        assert_eq!(world.inject(1, at, &recorded), Received::Refused(replayed), "{slept}");
        let sealed = world.send(0, B, b"after");
        assert_eq!(matches!(sealed, Sealed::Datagram(_)), alive, "{slept}: {sealed:?}");
        world.run(SECOND);
        assert_eq!(world.texts(1), ["before", "recorded", "after"], "{slept}");
    }
}

#[test]
fn after_a_suspension_a_handshake_of_before_is_begun_anew() {
    let mut world = World::pair();
    world.weather.lost = 1_000;
    world.send(0, B, b"x");
    world.mono += HOUR;
    world.run(SECOND);
    assert_eq!(world.nodes[0].wg.counters().unanswered, 1, "its time is over");
    world.weather.lost = 0;
    world.send(0, B, b"y");
    world.run(SECOND);
    assert_eq!(world.texts(1).last().unwrap(), "y");
}

/// Keys of many peers.
fn crowd(count: u32) -> Vec<PublicKey> {
    let private = |n: u32| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        Secret(key)
    };
    (0..count).map(|n| Identity::new(&private(n)).public).collect()
}

#[test]
fn what_is_due_for_thousands_after_a_suspension_is_done_in_turns() {
    const PEERS: u32 = 3_000;
    let keys = crowd(PEERS);
    let remote = |n: usize| SocketAddr::from(([10, 9, (n / 250) as u8, (n % 250) as u8], 51_820));
    let peers = keys.iter().map(|&public_key| PeerSpec { public_key, persistent_keepalive_seconds: 25, ..peer(B) });
    let known = keys.iter().enumerate().map(|(n, &public_key)| PeerMemory {
        public_key,
        remote: Some(remote(n)),
        local: None,
        recent: Recent::None,
    });
    let spec = WireGuardSpec { known: known.collect(), ..spec(A, peers.collect()) };
    let mut wg = WireGuard::new(&spec, 1);
    let now = Now { mono: 10 * HOUR, unix_ms: 1_780_000_000_000 };
    let mut turns = 0;
    let mut spoken_to = std::collections::HashSet::new();
    while wg.poll_timeout().is_some_and(|at| at <= now.mono) {
        wg.handle_timeout(now);
        let sent: Vec<_> = std::iter::from_fn(|| wg.poll_transmit()).collect();
        assert!(sent.len() <= 64, "{} in one turn", sent.len());
        spoken_to.extend(sent.iter().map(|transmit| transmit.endpoint.remote));
        turns += 1;
    }
    assert_eq!((spoken_to.len(), wg.counters().initiations_sent), (PEERS as usize, PEERS.into()), "each once");
    assert!(turns >= 3_000 / 64);
    let next = wg.poll_timeout().unwrap();
    assert!(next > now.mono + 4 * SECOND, "nothing more is due at once");
}

/// What a handshake of B, whose clock is `ahead_ms` ahead, tells the gateway.
fn handshake(world: &mut World, ahead_ms: i64) -> Option<(PublicKey, PeerClock)> {
    world.nodes[0].ahead_ms = ahead_ms;
    world.restart(0, Vec::new());
    let gateway = world.nodes[1].at;
    world.nodes[0].wg.offer_endpoint(&public(B).id(), gateway);
    world.send(0, B, b"x");
    world.run(2 * SECOND);
    world.nodes[1].wg.take_clock_report()
}

/// `(ahead, lacks)` as the gateway shows them for its only peer.
fn shown(world: &World) -> (Option<u64>, Option<u64>) {
    let status = world.nodes[1].wg.status(world.now()).next().unwrap();
    (status.stamp_ahead_seconds, status.stamp_lacks_seconds)
}

#[test]
fn a_peer_whose_clock_was_ahead_is_named_with_the_time_that_it_lacks() {
    let mut world = World::pair();
    assert_eq!(handshake(&mut world, 0), None);
    assert_eq!(handshake(&mut world, 60_000), None, "a minute is no matter");
    assert_eq!(shown(&world), (None, None));
    let day = DAY / SECOND;
    assert_eq!(handshake(&mut world, DAY_MS), Some((public(A), PeerClock::Ahead(day))));
    assert_eq!(shown(&world), (Some(day - 2), None));
    assert_eq!(handshake(&mut world, DAY_MS), None, "once");
    let Some((key, PeerClock::Behind { lacks, ahead })) = handshake(&mut world, 0) else { panic!("it is not named") };
    assert_eq!((key, lacks), (public(A), day - 2));
    assert!((day - 3..day).contains(&ahead), "{ahead}");
    let (ahead, lacks) = shown(&world);
    assert!(ahead.is_some_and(|ahead| ahead > day - 10) && lacks.is_some_and(|lacks| lacks > day - 10));
    assert_eq!(handshake(&mut world, 0), None, "once");
    // Its clock catches up.
    world.mono += DAY;
    assert_eq!(handshake(&mut world, 0), None);
    assert_eq!(shown(&world), (None, None));
    assert_eq!(world.texts(1).len(), 5);
}

#[test]
fn a_peer_whose_clock_begins_in_1970_is_named_and_can_be_let_in() {
    let mut world = World::pair();
    assert_eq!(handshake(&mut world, 0), None);
    let years = world.now().unix_ms as i64;
    let Some((_, PeerClock::Behind { lacks, ahead: 0 })) = handshake(&mut world, -years) else { panic!("not named") };
    assert_eq!(lacks, years as u64 / 1_000 - 2);
    assert_eq!(shown(&world), (None, Some(lacks)));
    assert!(world.nodes[1].wg.forget_stamp(&public(A)) && !world.nodes[1].wg.forget_stamp(&public(9)));
    assert_eq!(shown(&world), (None, None));
    assert_eq!(handshake(&mut world, -years), None);
    assert_eq!(world.texts(1).len(), 2);
}

#[test]
fn a_repeated_message_and_a_stranger_name_nobody() {
    let mut world = World::pair();
    handshake(&mut world, 0);
    let initiation = world.nodes[0].sent.iter().rfind(|datagram| datagram[0] == 1).unwrap().clone();
    let at = world.nodes[0].at;
    assert_eq!(world.inject(1, at, &initiation), Received::Refused(Rejected::ReplayedHandshake));
    assert_eq!((world.nodes[1].wg.take_clock_report(), shown(&world)), (None, (None, None)));
    // Who is not let in yet cannot fill the log.
    let open = WireGuardSpec { allow_unknown_peers: true, ..spec(B, Vec::new()) };
    let mut world = World::new(vec![knowing(spec(A, vec![peer(B)]), B, 1), open]);
    assert_eq!(handshake(&mut world, DAY_MS), None);
    assert_eq!(world.texts(1).len(), 1);
}
