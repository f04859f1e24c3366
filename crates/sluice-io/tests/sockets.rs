//! The data plane and real sockets on loopback: runs (GSO) and their fallback, errors of some remotes among others, and
//! every way in which a Listener ends.

mod common;

use common::{PATIENCE, Rig, document, in_own_network, next, nothing_more, payload, readable_fd, remote};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use serde_json::{Value, json};
use sluice_core::{
    Completion, Reason,
    reason::{Dropped, Rejected},
};
use std::{
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// Sends entries of these sizes in documents small enough for any receive buffer, and checks that they arrive whole and in
/// order.
fn arrive_in_order(rig: &Rig, receiver: &UdpSocket, sizes: &[usize]) {
    let to = receiver.local_addr().unwrap();
    let all: Vec<_> = sizes.iter().enumerate().map(|(number, &size)| (to, payload(number, size))).collect();
    for part in all.chunks(50) {
        let completion = rig.publish(part);
        assert_eq!((completion.sent as usize, &completion.failures[..]), (part.len(), &[][..]));
        for (_, expected) in part {
            assert_eq!(&next(receiver), expected);
        }
    }
    assert!(nothing_more(receiver));
}

#[test]
fn a_thousand_entries_to_one_remote_arrive_in_order_and_size() {
    let rig = Rig::new(|_| {});
    let (receiver, _) = remote();
    // Equal ones, shorter last ones, growing and shrinking ones, empty ones, and some too large for a run.
    let pattern = [200, 200, 200, 200, 7, 200, 200, 1, 0, 0, 300, 400, 1_452, 1_452, 100, 1_453, 1_453, 3_000, 64, 64];
    let sizes: Vec<_> = pattern.into_iter().cycle().take(1_000).collect();
    arrive_in_order(&rig, &receiver, &sizes);
    let counters = rig.plane.counters(&rig.port).unwrap().counters;
    assert_eq!(counters.sent_packets, 1_000);
    assert_eq!(counters.sent_bytes, sizes.iter().sum::<usize>() as u64);
}

/// Receives as GRO does: a run that left as one arrives as one. How many datagrams each receive held.
fn receive_runs(receiver: &UdpSocket, state: &UdpSocketState, count: usize) -> Vec<usize> {
    let mut buffers = vec![vec![0; 1 << 16]; BATCH_SIZE];
    let mut runs = Vec::new();
    while runs.iter().sum::<usize>() < count {
        assert!(readable_fd(receiver, Instant::now() + PATIENCE), "{runs:?}");
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let received = state.recv(receiver.into(), &mut slices, &mut metas).unwrap_or(0);
        runs.extend(metas[..received].iter().map(|meta| meta.len.div_ceil(meta.stride.max(1))));
    }
    runs
}

#[test]
fn a_run_leaves_in_one_piece() {
    let rig = Rig::new(|_| {});
    let (receiver, to) = remote();
    let state = UdpSocketState::new((&receiver).into()).unwrap();
    if state.max_gso_segments() == 1 {
        println!("skipped: this kernel has no UDP_SEGMENT");
        return;
    }
    let entries: Vec<_> = (0..40).map(|number| (to, payload(number, 200))).collect();
    assert_eq!(rig.publish(&entries).sent, 40);
    assert_eq!(receive_runs(&receiver, &state, 40), [40]);
    // A shorter one ends a run, and a size above Ethernet's is none.
    let sizes = [200, 200, 50, 200, 200, 2_000, 2_000];
    let entries: Vec<_> = sizes.iter().enumerate().map(|(number, &size)| (to, payload(number, size))).collect();
    assert_eq!(rig.publish(&entries).sent, 7);
    assert_eq!(receive_runs(&receiver, &state, 7), [3, 2, 1, 1]);
}

#[test]
fn a_size_above_the_mtu_falls_back_to_single_datagrams() {
    in_own_network(&["ip link set lo mtu 1300 up"], || {
        let rig = Rig::new(|_| {});
        let (receiver, to) = remote();
        arrive_in_order(&rig, &receiver, &[1_400; 30]);
        arrive_in_order(&rig, &receiver, &[1_400, 1_400, 1_300, 1_280, 1_280, 1_273, 1_273, 1_272, 1_272, 600, 600]);
        // Only that size is given up.
        let state = UdpSocketState::new((&receiver).into()).unwrap();
        let entries: Vec<_> = (0..20).map(|number| (to, payload(number, 600))).collect();
        assert_eq!(rig.publish(&entries).sent, 20);
        assert_eq!(receive_runs(&receiver, &state, 20), [20]);
    });
}

#[test]
fn a_dead_remote_costs_a_live_one_nothing() {
    let rig = Rig::new(|_| {});
    let (receiver, live) = remote();
    let dead = remote().1; // its socket is closed again
    let to = |number: usize| if number.is_multiple_of(2) { live } else { dead };
    for round in 0..10 {
        let entries: Vec<_> = (0..50).map(|number| (to(number), payload(round * 50 + number, 100))).collect();
        let completion = rig.publish(&entries);
        assert_eq!(completion.entries, 50);
        assert!(completion.failures.iter().all(|failure| failure.index.unwrap() % 2 == 1), "{completion:?}");
        for (_, expected) in entries.iter().filter(|(remote, _)| *remote == live) {
            assert_eq!(&next(&receiver), expected);
        }
    }
    assert!(nothing_more(&receiver));
    let icmp: u64 = rig.plane.counters(&rig.port).unwrap().icmp_errors.values().sum();
    assert!(icmp > 0, "nobody answered for the dead remote");
}

#[test]
fn many_remotes_are_reached_from_where_each_has_spoken_to() {
    let rig = Rig::new(|spec| {
        spec["Bind"] = json!("[::]:0");
        spec["DualStack"] = json!(true);
        spec["ClientNetworks"] = json!(["0.0.0.0/0", "::/0"]);
        spec["Sources"][0]["EgressNetworks"] = json!(["127.0.0.0/8", "::1/128", "fe80::/10"]);
    });
    let port = rig.port.bound().port();
    let clients: Vec<_> = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1", "127.0.0.1", "::1", "127.0.0.4", "127.0.0.5"]
        .into_iter()
        .map(|gateway| {
            let gateway = SocketAddr::new(gateway.parse().unwrap(), port);
            let any = if gateway.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let client = UdpSocket::bind(any).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(b"hello", gateway).unwrap();
            (client, gateway)
        })
        .collect();
    while rig.plane.counters(&rig.port).unwrap().counters.received_packets < clients.len() as u64 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The kernel refuses one in the midst of them: there is no such interface.
    let refused: SocketAddr = "[fe80::1%999999]:9".parse().unwrap();
    let mut entries = Vec::new();
    for round in 0..20 {
        entries.extend(clients.iter().map(|(client, _)| (client.local_addr().unwrap(), payload(round, 30))));
        entries.push((refused, payload(round, 30)));
    }
    let completion = rig.publish(&entries);
    assert_eq!(completion.sent as usize, 20 * clients.len());
    let failed: Vec<_> = completion.failures.iter().map(|f| (f.index.unwrap() as usize, f.reason)).collect();
    let expected =
        (1..=20).map(|round| (round * (clients.len() + 1) - 1, Reason::RemoteUnreachable)).collect::<Vec<_>>();
    assert_eq!(failed, expected);
    for (client, gateway) in &clients {
        for round in 0..20 {
            let mut buffer = [0; 100];
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (payload(round, 30).as_bytes(), *gateway));
        }
        assert!(nothing_more(client));
    }
}

#[test]
fn stopping_ends_receiving_and_not_sending() {
    let rig = Rig::paced(100.0, |_| {});
    let (client, address) = remote();
    for number in 0..25 {
        client.send_to(payload(number, 20).as_bytes(), rig.port.bound()).unwrap();
    }
    let entries: Vec<_> = (0..20).map(|number| (address, payload(number, 10))).collect();
    assert_eq!(rig.port.submit([document("m", &entries)]), 1);
    rig.plane.stop(&rig.port).unwrap();
    let queue = rig.port.queue(0).unwrap();
    let packets: usize = queue.read(100).iter().map(|batch| batch.count()).sum();
    assert_eq!(packets, 25, "what had arrived is delivered");
    assert!(queue.is_finished());
    for number in 0..5 {
        client.send_to(payload(number, 20).as_bytes(), rig.port.bound()).unwrap();
    }
    assert_eq!(rig.completions(1)[0].sent, 20);
    rig.plane.close(&rig.port, PATIENCE).unwrap();
    let counters = rig.plane.counters(&rig.port).unwrap().counters;
    assert_eq!(counters.received_packets, 30);
    assert_eq!(counters.rejected, [(Rejected::Shutdown, 5)].into());
    assert_eq!(counters.destinations[0].packets, 25);
    assert_eq!(counters.destinations[0].dropped.get(&Dropped::QueueFull), None);
}

/// Sums over documents: entries, sent, failed as `SendFailed`.
fn sums(ended: &[Completion]) -> (u32, u32, u32) {
    let failures = ended.iter().flat_map(|completion| &completion.failures);
    let unsent = failures.filter(|failure| failure.reason == Reason::SendFailed).count() as u32;
    (ended.iter().map(|c| c.entries).sum(), ended.iter().map(|c| c.sent).sum(), unsent)
}

/// After a close: nothing is owed any more, and nothing is taken.
fn closed(rig: &Rig, remote: SocketAddr, ended: &[Completion]) {
    assert_eq!(rig.port.ring_load(), (0, 0));
    assert_eq!(rig.port.submit([document("late", &[(remote, "x".to_owned())])]), 0);
    let (entries, sent, unsent) = sums(ended);
    assert_eq!(entries, sent + unsent);
    let counters = rig.plane.counters(&rig.port).unwrap().counters;
    let source = &counters.sources[0];
    assert_eq!((source.entries, source.sent), (entries.into(), sent.into()));
    assert_eq!(source.failed.get(&Reason::SendFailed).copied().unwrap_or(0), u64::from(unsent));
    assert_eq!(counters.sent_packets, u64::from(sent));
}

#[test]
fn closing_fails_what_is_still_held() {
    let rig = Rig::paced(1.0, |_| {});
    let (receiver, to) = remote();
    let documents = (0..5).map(|id| document(&id.to_string(), &[0, 1, 2, 3].map(|n| (to, payload(n, 10)))));
    assert_eq!(rig.port.submit(documents), 5);
    assert_eq!(next(&receiver), payload(0, 10), "the first leaves at once");
    let drain = Duration::from_millis(200);
    let begun = Instant::now();
    rig.plane.close(&rig.port, drain).unwrap();
    let took = begun.elapsed();
    assert!(took >= drain && took < drain + Duration::from_secs(2), "{took:?}");
    let ended = rig.completions(5);
    let (entries, sent, unsent) = sums(&ended);
    assert_eq!(entries, 20);
    assert!(sent >= 1 && unsent >= 18, "{sent} sent, {unsent} not");
    closed(&rig, to, &ended);
    // A closed Listener stays closed.
    rig.plane.close(&rig.port, PATIENCE).unwrap();
    rig.plane.stop(&rig.port).unwrap();
}

#[test]
fn closing_does_not_wait_longer_than_it_must() {
    let rig = Rig::paced(50.0, |_| {});
    let (receiver, to) = remote();
    assert_eq!(rig.port.submit([document("m", &[0, 1, 2, 3].map(|n| (to, payload(n, 10))))]), 1);
    let begun = Instant::now();
    rig.plane.close(&rig.port, PATIENCE).unwrap();
    assert!(begun.elapsed() < PATIENCE / 2);
    let ended = rig.completions(1);
    assert_eq!(sums(&ended), (4, 4, 0));
    assert_eq!([0; 4].map(|_| next(&receiver)), [0, 1, 2, 3].map(|n| payload(n, 10)));
    closed(&rig, to, &ended);
}

#[test]
fn a_full_socket_does_not_delay_the_end() {
    // Slow enough for a full socket; were this program killed, the queue would still be empty within a minute.
    let slow = ["ip link set lo up", "tc qdisc add dev lo root tbf rate 2mbit burst 4000 limit 1000000000"];
    in_own_network(&slow, || {
        let rig = Rig::new(|spec: &mut Value| spec["RingBytes"] = json!(64 << 20));
        let (_receiver, to) = remote();
        // More than any send buffer that we may get.
        let entries: Vec<_> = (0..1_000).map(|number| (to, payload(number, 1_400))).collect();
        let documents = (0..20).map(|id| document(&id.to_string(), &entries));
        assert_eq!(rig.port.submit(documents), 20);
        let begun = Instant::now();
        let drain = Duration::from_millis(500);
        rig.plane.close(&rig.port, drain).unwrap();
        let took = begun.elapsed();
        assert!(took >= drain && took < drain + Duration::from_secs(4), "{took:?}");
        let ended = rig.completions(20);
        let (entries, sent, unsent) = sums(&ended);
        assert_eq!(entries, 20_000);
        assert!(sent > 0 && unsent > 0, "{sent} sent, {unsent} not: the socket was not full");
        closed(&rig, to, &ended);
    });
}
