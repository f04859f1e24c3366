//! What the I/O thread shares with others: the ring, the Destinations' queues, and watches. All of them are bounded, and
//! what does not fit is counted.

mod common;

use common::{PATIENCE, Rig, document, next, payload, readable, remote};
use serde_json::{Value, json};
use sluice_core::{Batch, Now, batch::Batcher, brex::Budget, spec::DestinationSpec};
use sluice_io::{BatchQueue, FilterSpec, Signals};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

fn batch(packets: usize, bytes: usize) -> Batch {
    let spec: DestinationSpec = serde_json::from_value(json!({
        "Name": "d", "Formatter": "utf8", "Count": packets, "TimeoutSeconds": 1, "SizeBytes": 1 << 30,
        "QueueBytes": 0, "Bound": true,
    }))
    .unwrap();
    let mut batcher = Batcher::new(&spec);
    let mut made = None;
    for _ in 0..packets {
        let record = |out: &mut Vec<u8>| out.extend(std::iter::repeat_n(b'1', bytes));
        batcher.add(Now { mono: 0, unix_ms: 0 }, b"", &mut Budget::default(), record, |batch| made = Some(batch));
    }
    made.unwrap()
}

#[test]
fn the_oldest_batches_give_way() {
    let queue = BatchQueue::new(1_000, &Signals::new().unwrap());
    let dropped: usize = (1..=10).map(|packets| queue.push(batch(packets, 20)).evicted).sum();
    let left: Vec<_> = queue.read(100).iter().map(Batch::count).collect();
    assert_eq!(left, [6, 7, 8, 9, 10]);
    assert_eq!(dropped, 1 + 2 + 3 + 4 + 5);
    // Always one, however large.
    assert_eq!(queue.push(batch(1, 5_000)).evicted, 0);
    assert_eq!(queue.push(batch(2, 5_000)).evicted, 1);
    assert_eq!(queue.waiting().0, 2);
}

#[test]
fn pushing_and_reading_at_once_loses_no_packet_uncounted() {
    const LIMIT: usize = 20_000;
    const EACH: usize = 3_000;
    let queue = Arc::new(BatchQueue::new(LIMIT, &Signals::new().unwrap()));
    let (dropped, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let pushers: Vec<_> = (0..2)
        .map(|_| {
            let (queue, dropped) = (queue.clone(), dropped.clone());
            thread::spawn(move || {
                for number in 0..EACH {
                    dropped.fetch_add(queue.push(batch(1 + number % 7, 100)).evicted, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (queue, read) = (queue.clone(), read.clone());
            thread::spawn(move || {
                while !queue.is_finished() {
                    // A wake-up that gets lost ends the test here.
                    assert!(readable(queue.ready(), Instant::now() + PATIENCE));
                    assert!(queue.waiting().1 <= LIMIT);
                    read.fetch_add(queue.read(3).iter().map(Batch::count).sum::<usize>(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    pushers.into_iter().for_each(|thread| thread.join().unwrap());
    queue.close();
    readers.into_iter().for_each(|thread| thread.join().unwrap());
    let pushed: usize = 2 * (0..EACH).map(|number| 1 + number % 7).sum::<usize>();
    assert_eq!(pushed, read.load(Ordering::Relaxed) + dropped.load(Ordering::Relaxed));
    assert_eq!(queue.waiting(), (0, 0));
}

#[test]
fn what_a_queue_cannot_hold_is_counted_to_the_packet() {
    let rig = Rig::new(|spec| spec["Destinations"][0]["QueueBytes"] = json!(10_000));
    let (client, _) = remote();
    for number in 0..500 {
        client.send_to(payload(number, 100).as_bytes(), rig.port.bound()).unwrap();
    }
    rig.plane.stop(&rig.port).unwrap();
    let counters = rig.plane.counters(&rig.port).unwrap();
    let queue = rig.port.queue(0).unwrap();
    assert!(queue.waiting().1 <= 10_000);
    let read: usize = queue.read(usize::MAX).iter().map(Batch::count).sum();
    let destination = &counters.counters.destinations[0];
    let dropped: u64 = destination.dropped.values().sum();
    assert!(dropped > 0);
    assert_eq!(destination.packets, read as u64 + dropped);
    assert_eq!(counters.counters.received_packets + counters.kernel_drops, 500);
}

#[test]
fn the_ring_is_bounded_and_says_when_there_is_room() {
    let rig = Rig::paced(50.0, |spec| spec["RingBytes"] = json!(2_000));
    let (receiver, to) = remote();
    let one = document("m", &[(to, payload(0, 500))]);
    let fits = 2_000 / one.body.len();
    assert_eq!(rig.port.submit(vec![one.clone(); 10]), fits);
    let (mut taken, mut ended) = (fits, 0);
    let deadline = Instant::now() + PATIENCE;
    while taken < 10 {
        // Whoever was turned away waits for this alone.
        assert!(readable(rig.port.completed(), deadline), "{taken} taken, {ended} ended");
        ended += rig.port.completions().len();
        taken += rig.port.submit(vec![one.clone(); 10 - taken]);
        assert!(rig.port.ring_load().0 <= 2_000);
    }
    rig.completions(10 - ended);
    (0..10).for_each(|_| assert_eq!(next(&receiver), payload(0, 500)));
    assert_eq!(rig.port.ring_load(), (0, 0));
    // An empty ring takes any document, and nothing beside it.
    let large = document("large", &[(to, payload(0, 9_000))]);
    assert_eq!(rig.port.submit([large, one]), 1);
    assert_eq!(rig.completions(1)[0].sent, 1);
}

#[test]
fn documents_that_wait_are_taken_without_a_further_call() {
    let rig = Rig::new(|_| {});
    let (_receiver, to) = remote();
    // More than one turn of the loop takes: each document is more than what it wants to have in its queue.
    let entries: Vec<_> = (0..150).map(|number| (to, payload(number, 8))).collect();
    assert_eq!(rig.port.submit(vec![document("m", &entries); 20]), 20);
    assert!(rig.completions(20).iter().all(|completion| completion.sent == 150));
    assert_eq!(rig.port.ring_load(), (0, 0));
}

#[test]
fn a_full_ring_wakes_nobody_before_there_is_room() {
    let rig = Rig::paced(0.1, |spec| spec["RingBytes"] = json!(1_000));
    let (_receiver, to) = remote();
    let one = document("m", &[(to, payload(0, 400)), (to, payload(1, 400))]);
    assert_eq!(rig.port.submit([one.clone(), one.clone()]), 1);
    // The second entry leaves after ten seconds. Until then the I/O thread is busy with something else.
    let (client, _) = remote();
    let until = Instant::now() + Duration::from_millis(700);
    let mut woken = 0;
    while Instant::now() < until {
        client.send_to(b"hello", rig.port.bound()).unwrap();
        if readable(rig.port.completed(), Instant::now() + Duration::from_millis(1)) {
            assert_eq!(rig.port.completions(), []);
            assert_eq!(rig.port.submit([one.clone()]), 0);
            woken += 1;
        }
    }
    assert_eq!(woken, 0, "times that somebody was told of room that there was not");
}

/// Reads until `events` of them were shown or counted as skipped; the lines, and how many were skipped.
fn watched(watch: &sluice_io::Watch, events: u64) -> (Vec<Value>, u64) {
    let deadline = Instant::now() + PATIENCE;
    let (mut shown, mut skipped) = (Vec::new(), 0);
    while (shown.len() as u64) + skipped < events {
        assert!(readable(watch.ready(), deadline), "{} shown, {skipped} skipped", shown.len());
        for line in watch.read().split_inclusive(|&byte| byte == b'\n') {
            let event: Value = serde_json::from_slice(line).unwrap();
            match event["Event"].as_str().unwrap() {
                "EventsSkipped" => skipped += event["Suppressed"].as_u64().unwrap(),
                _ => shown.push(event),
            }
        }
    }
    assert_eq!(shown.len() as u64 + skipped, events);
    (shown, skipped)
}

#[test]
fn watches_filter_and_count_what_they_leave_out() {
    let rig = Rig::new(|spec| spec["ClientNetworks"] = json!(["127.0.0.1/32"]));
    let watch = |filter: Value| rig.port.watch(serde_json::from_value::<FilterSpec>(filter).unwrap()).unwrap();
    let ((one, one_address), (two, two_address)) = (remote(), remote());
    let all = watch(json!({"Rate": 1_000_000}));
    let few = watch(json!({"Events": ["PacketReceived"], "Port": one_address.port(), "Rate": 10}));
    let elsewhere = watch(json!({"Remotes": ["127.0.0.2/32"], "Rate": 1_000}));
    let rejected = watch(json!({"Events": ["PacketRejected"], "Rate": 1_000}));
    let none = watch(json!({"Rate": 0}));
    // Several receive buffers' worth, so in steps.
    for step in 1..=4 {
        for number in 0..75 {
            one.send_to(payload(number, 30).as_bytes(), rig.port.bound()).unwrap();
            two.send_to(payload(number, 60).as_bytes(), rig.port.bound()).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while rig.plane.counters(&rig.port).unwrap().counters.received_packets < step * 150 {
            assert!(Instant::now() < deadline);
        }
    }
    let sent = rig.publish(&[(two_address, payload(0, 5))]);
    assert_eq!(sent.sent, 1);

    let (shown, skipped) = watched(&all, 601);
    assert_eq!(skipped, 0);
    let from = |events: &[Value], event: &str, port: u16| {
        events.iter().filter(|shown| shown["Event"] == event && shown["Remote"]["Port"] == port).count()
    };
    assert_eq!(from(&shown, "PacketReceived", one_address.port()), 300);
    assert_eq!(from(&shown, "PacketReceived", two_address.port()), 300);
    assert_eq!(from(&shown, "PacketSourced", two_address.port()), 1);

    let (shown, skipped) = watched(&few, 300);
    assert_eq!(from(&shown, "PacketReceived", one_address.port()), shown.len());
    assert!(skipped > 0 && shown.iter().all(|event| event["Bytes"] == 30));
    for second in shown.chunk_by(|a, b| a["Time"].as_str().unwrap()[..19] == b["Time"].as_str().unwrap()[..19]) {
        assert!(second.len() <= 10, "{} in one second", second.len());
    }
    assert_eq!(watched(&none, 601), (vec![], 601));

    // A watch that has ended learns nothing more; the others learn of the end.
    rig.port.unwatch(&all);
    one.send_to(b"one more", rig.port.bound()).unwrap();
    rig.plane.close(&rig.port, Duration::ZERO).unwrap();
    for quiet in [&elsewhere, &rejected] {
        assert!(readable(quiet.ready(), Instant::now() + PATIENCE));
        assert_eq!((quiet.read(), quiet.is_finished()), (vec![], true));
    }
    assert_eq!((all.read(), all.is_finished()), (vec![], false));
    assert!(rig.port.watch(serde_json::from_value(json!({"Rate": 1})).unwrap()).unwrap().is_finished());
}
