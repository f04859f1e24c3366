//! WireGuard endpoints against each other over a simulated link: no sockets, no sleeps.

mod clocks;
mod link;
mod listener;

use link::{MS, SECOND, Weather, World, knowing, peer, public, secret, spec};
use sluice_core::{
    Rejected,
    session::wireguard::{HandshakeOutcome, Received, Sealed},
};
use std::{collections::HashSet, net::SocketAddr};

const A: u8 = 1;
const B: u8 = 2;

fn refused(why: Rejected) -> Received {
    Received::Refused(why)
}

#[test]
fn a_packet_waits_for_the_handshake_and_arrives() {
    let mut world = World::pair();
    assert_eq!(world.send(0, B, b"hello"), Sealed::Wait);
    assert_eq!(world.nodes[0].sent.last().unwrap().len(), 148);
    world.run(10 * MS);
    assert_eq!(world.texts(1), ["hello"]);
    assert_eq!(world.nodes[1].got[0].0, public(A).id());
    assert!(matches!(world.send(1, A, b"and back"), Sealed::Datagram(_)), "the responder has a session now");
    world.run(10 * MS);
    assert_eq!(world.texts(0), ["and back"]);
    // No keepalive beside the packet that confirmed the session.
    assert_eq!(world.nodes[0].wg.counters().keepalives_sent, 0);
}

#[test]
fn without_packets_the_initiator_confirms_by_a_keepalive() {
    let mut first = spec(A, vec![peer(B)]);
    first.peers[0].persistent_keepalive_seconds = 25;
    let mut world = World::new(vec![knowing(first, B, 1), spec(B, vec![peer(A)])]);
    world.run(26 * SECOND);
    assert!(matches!(world.send(1, A, b"first word"), Sealed::Datagram(_)));
    world.run(SECOND);
    assert_eq!(world.texts(0), ["first word"]);
    assert!(world.nodes[1].wg.counters().keepalives_received > 0);
}

#[test]
fn the_responder_sends_nothing_before_the_initiator_has_confirmed() {
    let mut world = World::pair();
    world.send(0, B, b"hello");
    world.run(MS + MS / 2); // the initiation has arrived, its answer has not
    assert_eq!(world.nodes[1].wg.counters().responses_sent, 1);
    assert!(!world.nodes[1].wg.has_session(world.now(), &public(A).id()));
    assert_eq!(world.send(1, A, b"too early"), Sealed::NoEndpoint, "an initiation alone proves no address");
}

#[test]
fn without_an_endpoint_or_a_peer_nothing_is_sent() {
    let mut world = World::pair();
    assert_eq!(world.send(1, A, b"x"), Sealed::NoEndpoint);
    assert_eq!(world.send(0, 9, b"x"), Sealed::UnknownPeer);
    assert!(world.nodes[1].sent.is_empty());
    let (id, at) = (public(A).id(), world.nodes[0].at);
    world.nodes[1].wg.offer_endpoint(&id, at);
    assert_eq!(world.send(1, A, b"now"), Sealed::Wait);
    world.run(SECOND);
    assert_eq!(world.texts(0), ["now"]);
}

#[test]
fn what_a_peer_has_shown_weighs_more_than_what_an_application_says() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(SECOND);
    world.nodes[1].wg.offer_endpoint(&public(A).id(), "203.0.113.9:9".parse().unwrap());
    assert_eq!(world.nodes[1].wg.endpoint_of(&public(A).id()).unwrap().remote, world.nodes[0].at);
}

#[test]
fn an_initiation_is_repeated_for_90_seconds_and_then_given_up() {
    let mut world = World::pair();
    world.weather.lost = 1_000;
    world.send(0, B, b"x");
    world.run(80 * SECOND);
    let counters = world.nodes[0].wg.counters().clone();
    assert!((15..=16).contains(&counters.initiations_sent), "{}", counters.initiations_sent);
    assert_eq!(counters.unanswered, 0);
    world.run(20 * SECOND);
    assert_eq!(world.nodes[0].wg.counters().unanswered, 1);
    assert_eq!(world.nodes[0].outcomes, [HandshakeOutcome::GaveUp(public(B).id())]);
    let keys: HashSet<_> = world.nodes[0].sent.iter().map(|m| m[8..40].to_vec()).collect();
    assert_eq!(keys.len(), world.nodes[0].sent.len(), "each attempt has a key of its own");
    assert_eq!(world.nodes[0].wg.poll_timeout(), None, "an idle peer costs nothing");
    assert_eq!(world.nodes[0].wg.counters().live_peers, 0);
}

#[test]
fn everything_arrives_over_a_bad_link_once() {
    let mut world = World::pair();
    world.weather = Weather { lost: 0, doubled: 300, longest: 40 };
    for i in 0..2_000u32 {
        world.send(0, B, format!("a{i}").as_bytes());
        world.send(1, A, format!("b{i}").as_bytes());
        world.run(if i % 100 == 0 { SECOND } else { MS });
    }
    world.run(SECOND);
    let mut texts = world.texts(1);
    assert_eq!(texts.len(), 2_000);
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 2_000, "none twice");
    assert!(world.nodes[1].refused.contains(&Rejected::Replayed));
}

#[test]
fn a_link_that_loses_a_fifth_carries_the_rest_for_ten_minutes() {
    let mut world = World::pair();
    world.weather = Weather { lost: 200, doubled: 100, longest: 300 };
    for i in 0..600u32 {
        world.send(0, B, format!("{i}").as_bytes());
        world.send(1, A, format!("{i}").as_bytes());
        world.run(SECOND);
    }
    for (sender, receiver) in [(0, 1), (1, 0)] {
        let got: HashSet<String> = world.texts(receiver).into_iter().collect();
        assert_eq!(got.len(), world.texts(receiver).len(), "none twice");
        assert!(got.len() > 430, "{} of 600 from {sender}", got.len());
    }
    assert!(world.nodes[0].wg.counters().sessions >= 5, "a new session each two minutes");
}

#[test]
fn sessions_are_renewed_without_a_gap() {
    let mut world = World::pair();
    for i in 0..400 {
        world.send(0, B, format!("{i}").as_bytes());
        world.run(SECOND);
    }
    let expected: Vec<String> = (0..400).map(|i| i.to_string()).collect();
    assert_eq!(world.texts(1), expected);
    assert_eq!(world.nodes[0].wg.counters().initiations_sent, 4);
    assert_eq!(world.nodes[1].wg.counters().initiations_sent, 0);
}

#[test]
fn who_only_receives_renews_too() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    for i in 0..400 {
        world.run(SECOND);
        assert!(matches!(world.send(1, A, b"push"), Sealed::Datagram(_)), "{i}");
    }
    world.run(SECOND);
    assert_eq!(world.texts(0).len(), 400);
}

#[test]
fn keepalives_answer_what_nobody_answers() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(9 * SECOND);
    assert_eq!(world.nodes[1].wg.counters().keepalives_sent, 0);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[1].wg.counters().keepalives_sent, 1);
    world.run(60 * SECOND);
    assert_eq!(world.nodes[1].wg.counters().keepalives_sent, 1, "nobody answers a keepalive");
    assert_eq!(world.nodes[0].wg.counters().initiations_sent, 1);
    assert_eq!(world.texts(0).len() + world.texts(1).len(), 1, "keepalives are not delivered");
}

#[test]
fn who_hears_nothing_back_begins_anew() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(SECOND);
    world.restart(1, Vec::new()); // it has lost its sessions
    world.send(0, B, b"lost");
    world.run(14 * SECOND);
    assert_eq!(world.nodes[0].wg.counters().initiations_sent, 1);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[0].wg.counters().initiations_sent, 2);
    world.send(0, B, b"there again");
    world.run(SECOND);
    assert_eq!(world.texts(1), ["x", "there again"]);
}

#[test]
fn persistent_keepalives_come_unasked() {
    let mut first = spec(A, vec![peer(B)]);
    first.peers[0].persistent_keepalive_seconds = 25;
    let mut world = World::new(vec![knowing(first, B, 1), spec(B, vec![peer(A)])]);
    world.run(25 * 8 * SECOND);
    let sent = world.nodes[0].wg.counters().keepalives_sent;
    assert!((7..=9).contains(&sent), "{sent}");
    // The responder hears of it: it always has a session.
    assert!(world.nodes[1].wg.has_session(world.now(), &public(A).id()));
}

#[test]
fn a_restarted_gateway_speaks_first() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(SECOND);
    let memories = world.nodes[1].wg.take_changes();
    assert_eq!(memories.len(), 1);
    assert_eq!((memories[0].remote, memories[0].local), (Some(world.nodes[0].at), Some(world.nodes[1].at.ip())));
    world.restart(1, memories);
    assert_eq!(world.send(1, A, b"push"), Sealed::Wait);
    world.run(10 * MS);
    assert_eq!(world.texts(0), ["push"]);
}

#[test]
fn a_peer_that_moves_is_followed_by_its_newest_packet() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(SECOND);
    world.nodes[1].wg.take_changes();
    let now = world.now();
    let overtaken = match world.nodes[0].wg.seal(now, &public(B).id(), b"old", false) {
        Sealed::Datagram(transmit) => transmit.datagram,
        other => panic!("{other:?}"),
    };
    let before = world.nodes[0].at;
    world.nodes[0].at = "203.0.113.77:1234".parse().unwrap();
    world.send(0, B, b"here I am");
    world.run(SECOND);
    let moved = world.nodes[1].wg.take_changes();
    assert_eq!(moved.iter().map(|m| m.remote).collect::<Vec<_>>(), [Some(world.nodes[0].at)]);
    world.inject(1, before, &overtaken);
    assert_eq!(world.texts(1), ["x", "here I am", "old"]);
    assert!(world.nodes[1].wg.take_changes().is_empty(), "it does not move back");
    world.send(1, A, b"push");
    world.run(SECOND);
    assert_eq!(world.texts(0), ["push"]);
}

#[test]
fn neither_replays_nor_forgeries_move_a_peer() {
    let mut world = World::pair();
    let attacker: SocketAddr = "203.0.113.66:6".parse().unwrap();
    world.send(0, B, b"x");
    world.run(SECOND);
    world.nodes[1].wg.take_changes();
    for mut datagram in world.nodes[0].sent.clone() {
        world.inject(1, attacker, &datagram);
        *datagram.last_mut().unwrap() ^= 1;
        world.inject(1, attacker, &datagram);
    }
    assert!(world.nodes[1].wg.take_changes().is_empty());
    assert_eq!(world.nodes[1].wg.endpoint_of(&public(A).id()).unwrap().remote, world.nodes[0].at);
}

#[test]
fn a_recorded_conversation_is_delivered_once() {
    let mut world = World::pair();
    for i in 0..500 {
        world.send(0, B, format!("{i}").as_bytes());
    }
    world.run(SECOND);
    let recorded = world.nodes[0].sent.clone();
    for round in 0..4 {
        for i in 0..recorded.len() {
            world.inject(1, "203.0.113.66:6".parse().unwrap(), &recorded[(i * 7 + round) % recorded.len()]);
        }
    }
    assert_eq!(world.texts(1).len(), 500);
}

#[test]
fn the_wrong_mac_gets_no_byte() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    let mut initiation = world.last_sent(0);
    world.run(SECOND);
    let sent = world.nodes[1].sent.len();
    initiation[120] ^= 1; // within mac1
    let from = world.nodes[0].at;
    assert_eq!(world.inject(1, from, &initiation), refused(Rejected::InvalidMac));
    for length in [0, 1, 4, 31, 32, 147, 149, 1_000] {
        world.inject(1, from, &vec![4; length]);
        world.inject(1, from, &vec![0; length]);
    }
    assert_eq!(world.nodes[1].sent.len(), sent);
}

#[test]
fn a_replayed_or_older_initiation_is_refused() {
    let mut world = World::pair();
    world.weather.lost = 1_000;
    world.send(0, B, b"x");
    let older = world.last_sent(0);
    world.run(6 * SECOND);
    let newer = world.last_sent(0);
    assert_ne!(older, newer);
    let from = world.nodes[0].at;
    assert_eq!(world.inject(1, from, &newer), Received::Protocol);
    assert_eq!(world.inject(1, from, &newer), refused(Rejected::ReplayedHandshake), "equal stamps are a replay");
    assert_eq!(world.inject(1, from, &older), refused(Rejected::ReplayedHandshake));
    world.weather.lost = 0;
    world.run(6 * SECOND);
    assert_eq!(world.texts(1), ["x"], "the next attempt gets through");
}

#[test]
fn strangers_are_met_with_silence() {
    let mut world = World::new(vec![knowing(spec(A, vec![peer(B)]), B, 1), spec(B, vec![peer(9)])]);
    world.send(0, B, b"x");
    world.run(20 * SECOND);
    assert!(world.nodes[1].sent.is_empty());
    assert!(world.nodes[1].refused.iter().all(|&why| why == Rejected::UnknownPeer));
}

#[test]
fn unknown_peers_where_they_are_allowed() {
    for (theirs, ours, enters) in
        [(None, None, true), (Some(7), Some(7), true), (Some(8), Some(7), false), (None, Some(7), false)]
    {
        let mut client = spec(A, vec![peer(B)]);
        client.peers[0].shared_secret = theirs.map(secret);
        let mut gateway = spec(B, vec![peer(9)]);
        gateway.allow_unknown_peers = true;
        gateway.unknown_peer_pre_shared_key = ours.map(secret);
        let mut world = World::new(vec![knowing(client, B, 1), gateway]);
        world.send(0, B, b"x");
        world.run(SECOND);
        assert_eq!(world.texts(1).len(), usize::from(enters), "{theirs:?} {ours:?}");
        let status: Vec<_> = world.nodes[1].wg.status(world.now()).collect();
        assert_eq!(status.len(), 1 + usize::from(enters), "who shows nothing is not listed");
        if enters {
            assert!(matches!(world.send(1, A, b"y"), Sealed::Datagram(_)));
            world.nodes[1].wg.set_unknown(false, None);
            assert_eq!(world.send(1, A, b"z"), Sealed::UnknownPeer);
        }
    }
}

#[test]
fn a_configured_peer_keeps_its_own_psk_among_unknown_ones() {
    let mut client = spec(A, vec![peer(B)]);
    client.peers[0].shared_secret = Some(secret(5));
    let mut gateway = spec(B, vec![peer(A)]);
    gateway.peers[0].shared_secret = Some(secret(5));
    gateway.allow_unknown_peers = true;
    gateway.unknown_peer_pre_shared_key = Some(secret(7));
    let mut world = World::new(vec![knowing(client, B, 1), gateway]);
    world.send(0, B, b"x");
    world.run(SECOND);
    assert_eq!(world.texts(1), ["x"]);
}

#[test]
fn candidates_drive_out_candidates_only() {
    let mut gateway = spec(B, Vec::new());
    gateway.allow_unknown_peers = true;
    let mut world = World::new(vec![knowing(spec(A, vec![peer(B)]), B, 1), gateway]);
    world.send(0, B, b"x");
    world.run(SECOND);
    // Many begin a handshake; they never read the answer. More slowly than what counts as load.
    for i in 0..5_000u32 {
        let mut key = [0x55; 32];
        key[..4].copy_from_slice(&i.to_le_bytes());
        let mut other = spec(0, vec![peer(B)]);
        other.private_key = sluice_core::session::wireguard::Secret(key);
        let mut stranger = sluice_core::session::WireGuard::new(&knowing(other, B, 1), 1);
        stranger.seal(world.now(), &public(B).id(), b"x", false);
        let initiation = stranger.poll_transmit().unwrap().datagram;
        world.inject(1, SocketAddr::from(([198, 51, 100, 1], 1)), &initiation);
        world.mono += 5 * MS;
    }
    assert!(world.nodes[1].wg.has_session(world.now(), &public(A).id()));
    assert!(world.nodes[1].wg.counters().live_peers <= 4_097);
    world.run(200 * SECOND);
    assert!(world.nodes[1].wg.counters().live_peers <= 1, "who does not go on is forgotten");
}

#[test]
fn guests_are_bounded_and_the_least_recent_leaves() {
    let mut gateway = spec(B, Vec::new());
    gateway.allow_unknown_peers = true;
    let clients = (0..102u8).map(|i| knowing(spec(100 + i, vec![peer(B)]), B, 0));
    let mut world = World::new(std::iter::once(gateway).chain(clients).collect());
    for i in 0..102usize {
        world.send(i + 1, B, b"x");
        world.run(20 * MS);
        world.send(1, B, b"still here"); // the first one stays recent
        world.run(20 * MS);
    }
    let now = world.now();
    assert!(world.nodes[0].wg.has_session(now, &public(100).id()));
    assert!(world.nodes[0].wg.key_of(&public(101).id()).is_none(), "the least recent has left");
    assert_eq!(world.nodes[0].wg.status(now).count(), 100);
    let forgotten: Vec<_> = world.nodes[0].wg.take_changes().into_iter().filter(|m| m.remote.is_none()).collect();
    assert_eq!(forgotten.iter().map(|m| m.public_key).collect::<Vec<_>>(), [public(101), public(102)]);
}

#[test]
fn a_removed_peer_is_cut_off_at_once_and_may_come_back() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(SECOND);
    assert!(world.nodes[1].wg.remove_peer(&public(A)));
    assert!(!world.nodes[1].wg.remove_peer(&public(A)));
    world.send(0, B, b"cut");
    world.run(SECOND);
    assert_eq!(world.texts(1), ["x"]);
    assert_eq!(world.nodes[1].refused, [Rejected::NoSession]);
    assert_eq!(world.nodes[1].outcomes.last(), Some(&HandshakeOutcome::Gone(public(A).id())));
    assert_eq!(world.nodes[1].wg.poll_timeout(), None);
    let now = world.now();
    world.nodes[1].wg.set_peer(now, &peer(A));
    world.run(40 * SECOND); // until the client has noticed
    world.send(0, B, b"again");
    world.run(SECOND);
    assert_eq!(world.texts(1), ["x", "again"]);
}

#[test]
fn both_begin_at_once_and_both_packets_arrive() {
    let mut world = World::new(vec![knowing(spec(A, vec![peer(B)]), B, 1), knowing(spec(B, vec![peer(A)]), A, 0)]);
    world.send(0, B, b"from a");
    world.send(1, A, b"from b");
    world.run(SECOND);
    assert_eq!((world.texts(0), world.texts(1)), (vec!["from b".to_owned()], vec!["from a".to_owned()]));
}

#[test]
fn under_load_a_peer_gets_in_with_a_cookie() {
    let mut world = World::pair();
    // Somebody who knows the gateway's public key floods it.
    let mut other = World::new(vec![knowing(spec(3, vec![peer(B)]), B, 1)]);
    other.send(0, B, b"x");
    let flood = other.last_sent(0);
    let load = |world: &mut World| {
        for i in 0..400u16 {
            world.inject(1, SocketAddr::from(([198, 51, 100, 1], 1_000 + i)), &flood);
        }
    };
    load(&mut world);
    assert!(world.nodes[1].wg.counters().cookies_sent > 100);
    world.send(0, B, b"hello");
    for _ in 0..8 {
        world.run(900 * MS);
        load(&mut world);
    }
    assert_eq!(world.texts(1), ["hello"]);
    assert_eq!(world.nodes[0].wg.counters().initiations_sent, 2, "the second one had the cookie");
    let second = world.nodes[0].sent.iter().filter(|m| m[0] == 1).nth(1).unwrap();
    assert_ne!(second[132..], [0; 16]);
}

#[test]
fn under_load_the_answers_that_we_have_asked_for_need_no_cookie() {
    let mut world = World::new(vec![knowing(spec(A, vec![peer(B)]), B, 1), knowing(spec(B, vec![peer(A)]), A, 0)]);
    let mut other = World::new(vec![knowing(spec(3, vec![peer(B)]), B, 1)]);
    other.send(0, B, b"x");
    let flood = other.last_sent(0);
    for i in 0..400u16 {
        world.inject(1, SocketAddr::from(([198, 51, 100, 1], 1_000 + i)), &flood);
    }
    assert!(world.nodes[1].wg.counters().cookies_sent > 100);
    world.send(1, A, b"push");
    world.run(SECOND / 2);
    assert_eq!(world.texts(0), ["push"]);
    assert_eq!(world.nodes[1].wg.counters().initiations_sent, 1);
}

#[test]
fn a_peer_that_only_answers_handshakes_is_renewed_by_the_gateway() {
    for (up, down) in [(true, true), (true, false), (false, true)] {
        let mut world = World::pair();
        world.send(0, B, b"up");
        world.run(SECOND);
        world.begins_nothing = Some(0);
        for second in (5..=900).step_by(5) {
            world.run(5 * SECOND);
            for (speaks, from, to) in [(up, 0, B), (down, 1, A)] {
                let sent = speaks.then(|| world.send(from, to, b"on"));
                assert!(matches!(sent, None | Some(Sealed::Datagram(_))), "after {second} s node {from}: {sent:?}");
            }
        }
        world.run(SECOND);
        let expected = |speaks: bool| if speaks { 180 } else { 0 };
        assert_eq!((world.nodes[0].got.len(), world.nodes[1].got.len()), (expected(down), expected(up) + 1));
        // At 170 s as the responder of the first session, and then as the initiator of its own.
        let renewed = world.nodes[1].wg.counters().initiations_sent;
        assert!((5..=7).contains(&renewed), "{renewed} handshakes in 15 minutes");
    }
}

#[test]
fn a_peer_that_never_renews_is_served_as_long_as_it_speaks() {
    // The first session of the initiator is all that the client ever has; it answers no handshake.
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(SECOND);
    let mut client = world.nodes.remove(0);
    for i in 0..60u32 {
        world.run(10 * SECOND);
        // The client's own rules do not hold: it uses its keys by hand.
        let datagram = client_seal(&mut client);
        world.inject(0, client.at, &datagram);
        let now = world.now();
        let reply = world.nodes[0].wg.seal(now, &public(A).id(), b"reply", false);
        assert!(matches!(reply, Sealed::Datagram(_)), "after {} s: {reply:?}", i * 10);
    }
    assert_eq!(world.texts(0).len(), 61);
    let begun = world.nodes[0].wg.counters().initiations_sent;
    assert!((1..=3).contains(&begun), "it tries to renew, and then no more: {begun}");
    world.run(181 * SECOND);
    let now = world.now();
    assert_eq!(world.nodes[0].wg.seal(now, &public(A).id(), b"x", false), Sealed::Wait);
}

/// What a client that knows no end of a session sends.
fn client_seal(client: &mut link::Node) -> Vec<u8> {
    // Its clock stands still, so that its session never ends.
    let now = sluice_core::Now { mono: 2 * SECOND, unix_ms: 0 };
    match client.wg.seal(now, &public(B).id(), b"hello", false) {
        Sealed::Datagram(transmit) => transmit.datagram,
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_are_wiped_when_they_are_of_no_more_use() {
    let mut world = World::pair();
    world.send(0, B, b"x");
    world.run(400 * SECOND);
    for node in &world.nodes {
        assert_eq!((node.wg.counters().live_peers, node.wg.poll_timeout()), (0, None));
    }
    let late = world.nodes[0].sent.iter().find(|m| m[0] == 4).unwrap().clone();
    let from = world.nodes[0].at;
    assert_eq!(world.inject(1, from, &late), refused(Rejected::NoSession));
}

#[test]
fn status_tells_what_people_ask() {
    let mut world = World::pair();
    world.send(0, B, b"hello");
    world.run(SECOND);
    let status = world.nodes[1].wg.status(world.now()).next().unwrap();
    assert_eq!((status.public_key, status.configured, status.session), (public(A), true, true));
    assert_eq!(status.endpoint, Some(world.nodes[0].at));
    assert_eq!(status.received_bytes, 37);
    assert!(status.last_handshake_ms > 0);
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.contains(&public(A).to_base64()), "{text}");
}
