//! One payload, many remotes (contract section 4.1): each is judged, counted, paced, remembered and failing alone.

mod sourcing;

use serde_json::{Value, json};
use sluice_core::{About, Completion, Origin, Reason, Submission};
use sourcing::{Node, SECOND, remote};

fn failures(completion: &Completion) -> Vec<(Option<u32>, Option<u32>, Reason)> {
    completion.failures.iter().map(|failed| (failed.index, failed.remote_index, failed.reason)).collect()
}

/// Why the only one of these `Remotes` fails.
fn detail_of(node: &mut Node, remotes: Value) -> String {
    node.publish(json!({"Data": "", "Remotes": remotes})).failures.remove(0).detail
}

#[test]
fn each_remote_gets_the_payload_and_the_bad_ones_fail_alone() {
    let mut node = Node::new(|_| {});
    let mut remotes: Vec<_> = (0..100).map(remote).collect();
    remotes[7] = json!(null);
    remotes[20] = json!({"IP": "10.0.0.1", "Port": 1});
    remotes[21] = json!({"IP": "198.51.100.7"});
    remotes[99] = json!({"Tag": "no"});
    let body = json!({"Messages": [{"Data": "AQID", "Remote": remote(1)}, {"Data": "BAUG", "Remotes": remotes}]});
    let completion = node.publish(body);
    assert_eq!((completion.entries, completion.sent), (101, 97));
    let expected = [
        (Some(1), Some(7), Reason::MalformedRemote),
        (Some(1), Some(20), Reason::RemoteDenied),
        (Some(1), Some(21), Reason::MalformedRemote),
        (Some(1), Some(99), Reason::InvalidTag),
    ];
    assert_eq!(failures(&completion), expected);
    let detail = |place: usize| completion.failures[place].detail.as_str();
    assert_eq!(detail(0), "Remotes[7] is missing or not an object");
    assert_eq!(detail(2), "Remotes[21].Port is not a whole number from 1 to 65535");
    assert_eq!(node.wire.len(), 97);
    assert!(node.wire[1..].iter().all(|(_, payload)| payload == &[4, 5, 6]));
    let counters = node.listener.counters();
    assert_eq!((counters.sources[0].entries, counters.sources[0].sent, counters.sent_packets), (101, 97, 97));
    let places: Vec<_> = node.listener.take_events().into_iter().map(|event| event.about).collect();
    let place = |about: &About| match about {
        About::Sent { index, remote_index, .. } => (*index, *remote_index),
        other => panic!("{other:?}"),
    };
    assert_eq!(place(&places[0]), (0, None));
    assert_eq!((place(&places[1]), place(&places[96])), ((1, Some(0)), (1, Some(98))));
    assert_eq!(detail_of(&mut node, json!([{"IP": "127.1", "Port": 1}])), "Remotes[0].IP is not an IP address");
    assert_eq!(detail_of(&mut node, json!([{"Tag": 5}])), "Remotes[0].Tag is not a string");
}

#[test]
fn what_all_have_in_common_fails_each_of_them() {
    let mut node = Node::new(|_| {});
    for (fields, reason) in [
        (json!({"Data": "!"}), Reason::MalformedData),
        (json!({}), Reason::MalformedData),
        (json!({"Data": "", "Id": 5}), Reason::MalformedMessage),
        (json!({"Data": "", "TtlSeconds": 0}), Reason::Expired),
        (json!({"Data": "A".repeat(4 * 30_000)}), Reason::PayloadTooLarge),
    ] {
        let mut entry = fields;
        entry["Remotes"] = json!([remote(1), remote(2)]);
        let failed = failures(&node.publish(entry));
        assert_eq!(failed, [(Some(0), Some(0), reason), (Some(0), Some(1), reason)]);
    }
    node.submit(json!({"Data": "", "Remotes": [remote(1), remote(2)]}), Some((Reason::WrongRegion, "no".to_owned())));
    assert_eq!(failures(&node.completions.pop().unwrap()).len(), 2);
}

#[test]
fn remotes_are_a_list_with_something_in_it_and_alone() {
    let mut node = Node::new(|_| {});
    for fields in [
        json!({"Remotes": []}),
        json!({"Remotes": {}}),
        json!({"Remotes": "198.51.100.7:1"}),
        json!({"Remotes": [remote(1)], "Remote": remote(1)}),
        json!({"Remotes": [remote(1)], "Remote": 5}),
        json!({"Remotes": [remote(1)], "Tag": "x"}),
        json!({"Remotes": [], "Remote": remote(1)}),
        json!({"Remotes": null}),
    ] {
        let mut entry = fields;
        entry["Data"] = json!("");
        assert_eq!(failures(&node.publish(entry)), [(Some(0), None, Reason::MalformedRemote)]);
    }
    let nulls = json!({"Data": "", "Remotes": [remote(1)], "Remote": null, "Tag": null});
    assert_eq!(node.publish(nulls).sent, 1);
    assert_eq!(node.publish(json!({"Data": "", "Remotes": null, "Remote": remote(1)})).sent, 1);
}

#[test]
fn an_id_is_remembered_with_each_remote() {
    let mut node = Node::new(|spec| spec["Sources"][0]["EgressNetworks"] = json!(["198.51.100.0/24"]));
    let publish = |node: &mut Node, remotes: Value| {
        let completion = node.publish(json!({"Data": "AQ==", "Id": "fw", "Remotes": remotes}));
        (completion.sent, completion.duplicates, completion.failures.len())
    };
    let denied = json!({"IP": "192.0.2.77", "Port": 5});
    assert_eq!(publish(&mut node, json!([remote(1), denied, remote(2), remote(1)])), (2, 1, 1));
    let ids = node.listener.take_sent_ids();
    assert_eq!(ids.len(), 2);
    assert_eq!(publish(&mut node, json!([remote(2), remote(3)])), (1, 1, 0), "the rest may be named alone");
    assert_eq!(publish(&mut node, json!([denied])), (0, 0, 1), "what failed may be tried again");

    let mut later = Node::new(|_| {});
    for (source, id) in ids {
        later.listener.remember(later.now, source, &id, SECOND);
    }
    assert_eq!(publish(&mut later, json!([remote(1), remote(2), remote(3)])), (1, 2, 0), "over a restart too");
}

#[test]
fn each_remote_is_paced() {
    let mut node = Node::new(|spec| spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 10}));
    node.submit(json!({"Data": "AQ==", "Remotes": (0..20).map(remote).collect::<Vec<_>>()}), None);
    assert_eq!(node.wire.len(), 1);
    for step in 0..19 {
        assert_eq!(node.wire.len(), 1 + step);
        node.pass(SECOND / 10);
    }
    assert_eq!(node.completions.pop().unwrap().sent, 20);
    let order: Vec<_> = node.wire.iter().map(|(remote, _)| *remote).collect();
    assert!(order.is_sorted());
}

#[test]
fn what_the_remotes_of_a_message_ask_for_is_bounded() {
    let mut node = Node::new(|_| {});
    let remotes: Vec<_> = (0..2_000).map(remote).collect();
    let completion = node.publish(json!({"Data": "A".repeat(4 * 20_000), "Remotes": remotes}));
    assert_eq!(completion.sent as usize, (64 << 20) / 60_000);
    assert!(completion.failures.iter().all(|failure| failure.reason == Reason::PayloadTooLarge));
}

#[test]
fn answers_know_no_remotes() {
    let mut node = Node::new(|_| {});
    let body = json!({"Replies": [{"Data": "AQ==", "Remotes": [remote(1)]}]}).to_string().into_bytes().into();
    let origin = Origin::Destination(0);
    let submission = Submission { id: "m".into(), origin, published_ms: None, body, refusal: None, due: None };
    node.listener.submit(node.now, &node.own, submission);
    node.pass(0);
    assert_eq!((node.completions.pop().unwrap().entries, node.wire.len()), (0, 0));
}
