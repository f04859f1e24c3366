//! Entries that are to be sent later (contract section 4.1): named in the completion, and sent when they come again.

mod sourcing;

use serde_json::{Value, json};
use sluice_core::{Completion, Due, Reason, scheduled::WAITING_LIMIT};
use sourcing::{Node, SECOND, remote};

const START: f64 = 1_780_000_000.0;

fn entry(at: Value) -> Value {
    json!({"Data": "AQ==", "Id": "fw", "SendAt": at, "Remote": remote(1)})
}

fn due(ids: &[&str]) -> Due {
    Due { index: 3, ids: ids.iter().map(|&id| id.to_owned()).collect(), overdue: false }
}

fn ends(completion: &Completion) -> (u32, u32, usize, usize) {
    (completion.sent, completion.duplicates, completion.failures.len(), completion.scheduled.len())
}

#[test]
fn an_entry_of_later_is_named_and_sent_when_it_comes_again() {
    let mut node = Node::new(|_| {});
    let completion = node.publish(json!({"Messages": [{"Data": "", "Remote": remote(2)}, entry(json!(START + 60.5))]}));
    assert_eq!(ends(&completion), (1, 0, 0, 1));
    let scheduled = &completion.scheduled[0];
    assert_eq!((scheduled.index, scheduled.remote_index, scheduled.at_ms), (1, None, 1_780_000_060_500));
    assert_eq!(scheduled.id.as_deref(), Some("fw"));
    assert_eq!(node.wire.len(), 1);
    assert_eq!(ends(&node.publish(entry(json!(START + 70.0)))), (0, 1, 0, 0), "its Id is remembered");
    assert_eq!(ends(&node.publish(entry(json!(null)))), (0, 1, 0, 0));
    node.pass(61 * SECOND);
    assert_eq!(node.wire.len(), 1, "the core keeps nothing");
    assert_eq!(ends(&node.comes_due(entry(json!(START + 60.5)), due(&["fw"]), None)), (1, 0, 0, 0));
    assert_eq!(node.wire.len(), 2);
    assert_eq!(ends(&node.publish(entry(json!(null)))), (0, 1, 0, 0), "and after it was sent");
    let counters = &node.listener.counters().sources[0];
    assert_eq!((counters.entries, counters.sent, counters.duplicates, counters.scheduled), (5, 2, 3, 1));
}

#[test]
fn times_that_are_none_or_too_far_are_malformed_and_past_ones_are_now() {
    let mut node = Node::new(|_| {});
    let week = 7.0 * 86_400.0;
    for at in [json!("soon"), json!(true), json!([1]), json!(-1), json!(START * 1e3), json!(START + week + 1.0)] {
        let completion = node.publish(entry(at));
        assert_eq!(completion.failures[0].reason, Reason::MalformedMessage);
    }
    for at in [json!(START + week), json!("2026-05-28T20:27:00Z"), json!("2026-05-28T22:27:00.5+02:00")] {
        let mut entry = entry(at);
        entry["Id"] = json!(null);
        assert_eq!(ends(&node.publish(entry)), (0, 0, 0, 1));
    }
    for at in [json!(null), json!(0), json!(START), json!("2026-01-01T00:00:00Z")] {
        let mut entry = entry(at);
        entry["Id"] = json!(null);
        entry["TtlSeconds"] = json!(30);
        assert_eq!(ends(&node.publish(entry)), (1, 0, 0, 0));
    }
}

#[test]
fn what_is_finer_than_a_millisecond_is_not_early() {
    let mut node = Node::new(|_| {});
    let fine = [json!(START + 60.0005), json!("2026-05-28T20:27:40.0001Z"), json!("2026-05-28T20:27:40.001Z")];
    for at in fine {
        let mut entry = entry(at);
        entry["Id"] = json!(null);
        assert_eq!(node.publish(entry).scheduled[0].at_ms, 1_780_000_060_001);
    }
}

#[test]
fn a_messages_time_is_that_of_its_entries_unless_they_have_their_own() {
    let mut node = Node::new(|_| {});
    let bare = |n| json!({"Data": "", "Remote": remote(n)});
    let mut own = bare(3);
    own["SendAt"] = json!(0);
    let body = json!({"Messages": [bare(1), bare(2), own], "SendAt": START + 60.0});
    let completion = node.publish(body);
    assert_eq!(ends(&completion), (1, 0, 0, 2));
    let escaped = format!("{{\"SendAt\": {}, \"Messages\": [{}, 5, \"\\ud800\"]}}", START + 60.0, bare(1));
    let submission = sluice_core::Submission {
        id: "m".into(),
        origin: sluice_core::Origin::Source(0),
        published_ms: None,
        body: escaped.into_bytes().into(),
        refusal: None,
        due: None,
    };
    node.listener.submit(node.now, &node.own, submission);
    node.pass(0);
    assert_eq!(ends(&node.completions.pop().unwrap()), (0, 0, 2, 1));
}

#[test]
fn ages_count_from_the_time_of_sending() {
    let mut node = Node::new(|_| {});
    let mut late = entry(json!(START + 60.0));
    late["TtlSeconds"] = json!(2);
    assert_eq!(ends(&node.publish(late.clone())), (0, 0, 0, 1));
    node.pass(61 * SECOND);
    assert_eq!(ends(&node.comes_due(late.clone(), due(&["fw"]), None)), (1, 0, 0, 0));
    node.pass(SECOND);
    late["Id"] = json!("other");
    assert_eq!(node.comes_due(late, due(&[]), None).failures[0].reason, Reason::Expired);
}

#[test]
fn remotes_are_put_off_each_by_itself() {
    let mut node = Node::new(|_| {});
    let remotes = json!([remote(0), null, {"IP": "10.0.0.1", "Port": 1}, remote(1)]);
    let mut entry = json!({"Data": "AQ==", "Id": "fw", "SendAt": START + 60.0, "Remotes": remotes});
    let completion = node.publish(entry.clone());
    assert_eq!(ends(&completion), (0, 0, 1, 3));
    let ids: Vec<_> = completion.scheduled.iter().map(|one| one.id.clone().unwrap()).collect();
    let places: Vec<_> = completion.scheduled.iter().map(|one| one.remote_index).collect();
    assert_eq!(places, [Some(0), Some(2), Some(3)]);
    assert_eq!(ends(&node.publish(entry.clone())), (0, 3, 1, 0));
    node.pass(61 * SECOND);
    entry["Remotes"][1] = json!(null);
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let completion = node.comes_due(entry, due(&ids), None);
    assert_eq!((completion.entries, ends(&completion)), (3, (2, 0, 1, 0)));
    let failure = &completion.failures[0];
    assert_eq!((failure.index, failure.remote_index, failure.reason), (Some(3), Some(2), Reason::RemoteDenied));
}

#[test]
fn what_is_cancelled_ends_so_and_may_come_again() {
    let mut node = Node::new(|_| {});
    let entry = entry(json!(START + 60.0));
    assert_eq!(ends(&node.publish(entry.clone())), (0, 0, 0, 1));
    let cancelled = Some((Reason::Cancelled, "by the API".to_owned()));
    let completion = node.comes_due(entry.clone(), due(&["fw"]), cancelled);
    assert_eq!((completion.failures[0].index, completion.failures[0].reason), (Some(3), Reason::Cancelled));
    assert_eq!(ends(&node.publish(entry)), (0, 0, 0, 1));
}

#[test]
fn the_window_knows_what_waits_over_a_restart() {
    let mut node = Node::new(|_| {});
    node.listener.expect(0, "fw");
    assert_eq!(ends(&node.publish(entry(json!(null)))), (0, 1, 0, 0));
    node.listener.remember(node.now, 0, "fw", SECOND);
    let completion = node.comes_due(entry(json!(START)), due(&["fw"]), None);
    assert_eq!(ends(&completion), (0, 1, 0, 0), "it was sent before the crash");
}

#[test]
fn what_is_overdue_waits_for_its_turn_as_long_as_it_takes() {
    let mut node = Node::new(|spec| {
        spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": 1});
        spec["Sources"][0]["HoldSeconds"] = json!(2);
    });
    let remotes: Vec<_> = (0..10).map(remote).collect();
    let body = json!({"Data": "AQ==", "SendAt": START - 5.0, "Remotes": remotes}).to_string().into_bytes();
    let submission = sluice_core::Submission {
        id: "m".into(),
        origin: sluice_core::Origin::Source(0),
        published_ms: Some(0),
        body: body.into(),
        refusal: None,
        due: Some(Box::new(Due { index: 0, ids: Vec::new(), overdue: true })),
    };
    node.listener.submit(node.now, &node.own, submission);
    for _ in 0..10 {
        node.pass(SECOND);
    }
    assert_eq!(ends(&node.completions.pop().unwrap()), (10, 0, 0, 0));
}

#[test]
fn no_more_than_a_million_wait() {
    let mut node = Node::new(|_| {});
    node.waiting().set(WAITING_LIMIT - 1);
    let entry = |id: &str| json!({"Data": "", "Id": id, "SendAt": START + 60.0, "Remote": remote(1)});
    assert_eq!(ends(&node.publish(entry("a"))), (0, 0, 0, 1));
    assert_eq!(node.publish(entry("b")).failures[0].reason, Reason::RateLimited);
    assert_eq!(ends(&node.comes_due(entry("a"), due(&["a"]), None)), (1, 0, 0, 0));
    assert_eq!(ends(&node.publish(entry("b"))), (0, 0, 0, 1));
}
