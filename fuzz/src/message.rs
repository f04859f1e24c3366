//! Sourced messages through a whole Listener: every sum adds up, policy holds, entries fail alone, and the two ways in
//! which the parser reads a message agree.

use crate::{
    oracle,
    world::{GATEWAY, GENUINE, START, Sent, World, spec},
};
use serde_json::{Value, json, value::RawValue};
use sluice_core::{
    Completion, ListenerSpec, Origin, Reason,
    message::{Element, parse_message},
};
use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

/// Any bytes as the body of a message.
pub fn check(body: &[u8]) {
    elements_stand_alone(body);
    let entries = entries(body);
    for spec in SPECS.iter() {
        let mut world = world(spec);
        for round in 0..2 {
            let (completion, sent) = world.settle(Origin::Source(0), None, body);
            check_entries(entries, &completion);
            check_scheduled(&world, &completion);
            for sent in &sent {
                check_policy(&world, sent);
            }
            if round == 0 && !world.unreliable {
                retried(&mut world, body, completion);
            }
            world.unreliable = true;
        }
        refused(&mut world, body);
    }
}

/// An open source; one that paces, ages and forgets; one that answers only who spoke first.
static SPECS: LazyLock<[ListenerSpec; 3]> = LazyLock::new(|| {
    let paced = |spec: &mut Value| {
        spec["Bind"] = json!("192.0.2.10:2048");
        spec["DualStack"] = json!(false);
        spec["Sources"][0] = json!({
            "Name": "replies", "EgressNetworks": ["0.0.0.0/0", "10.0.0.0/8"], "HoldSeconds": 1, "DedupSeconds": 1,
            "DedupLimit": 4, "DefaultTtlSeconds": 3,
            "RateLimit": {"PacketsPerSecond": 100, "Burst": 2, "PerRemotePacketsPerSecond": 10},
        });
    };
    [spec(|_| {}), spec(paced), spec(|spec| spec["Sources"][0]["RequireSession"] = json!(true))]
});

fn world(spec: &ListenerSpec) -> World {
    let mut world = World::new(spec.clone());
    if spec.sources[0].require_session {
        for remote in SESSIONS {
            let local = GATEWAY.parse().expect("an address");
            world.listener.handle_datagram(START, local, remote.parse().expect("an address"), b"hello");
        }
    }
    world
}

const SESSIONS: [&str; 2] = ["198.51.100.7:40001", "10.0.0.7:5000"];

/// What an independent reader makes of the body: how many entries, or None where only the whole body can fail.
/// Outer None: it does not read it, and says nothing.
fn entries(body: &[u8]) -> Option<Option<usize>> {
    let document: Value = serde_json::from_slice(body).ok()?;
    Some(match &document {
        Value::Object(fields) => match fields.get("Messages") {
            Some(Value::Array(messages)) => Some(messages.iter().map(packets).sum()),
            None | Some(Value::Null) => Some(packets(&document)),
            Some(_) => None,
        },
        _ => None,
    })
}

/// Contract 4.1: `Remotes` stand for as many entries, where they are a list with something in it, and alone.
fn packets(entry: &Value) -> usize {
    let none = |name: &str| entry.get(name).is_none_or(Value::is_null);
    match entry.get("Remotes").and_then(Value::as_array) {
        Some(remotes) if none("Remote") && none("Tag") => remotes.len().max(1),
        _ => 1,
    }
}

/// Contract 4.1: later than now, and at most 7 days ahead.
fn check_scheduled(world: &World, completion: &Completion) {
    for one in &completion.scheduled {
        let latest = world.now.unix_ms + 7 * 86_400_000;
        assert!(START.unix_ms < one.at_ms && one.at_ms <= latest, "{one:?}");
    }
}

fn check_entries(expected: Option<Option<usize>>, completion: &Completion) {
    let whole = completion.failures.iter().any(|failure| failure.index.is_none());
    match expected {
        Some(Some(count)) => {
            assert!(!whole, "{completion:?}");
            assert_eq!(completion.entries as usize, count);
        }
        Some(None) => assert!(whole, "{completion:?}"),
        None => {}
    }
    if whole {
        assert_eq!((completion.entries, completion.failures.len()), (1, 1));
        assert_eq!(completion.failures[0].reason, Reason::MalformedMessage);
    }
}

/// Contract 4.4, for every datagram that left.
fn check_policy(world: &World, sent: &Sent) {
    let Sent { remote, payload, .. } = sent;
    assert_ne!(remote.port(), 0);
    assert_eq!(sluice_core::canonical(*remote), *remote, "an address in another form than the policy judges");
    assert!(!world.owns(*remote), "{remote} is the gateway itself");
    assert!(payload.len() <= if remote.is_ipv4() { 65_507 } else { 65_527 });
    let spec = world.listener.spec();
    let known = SESSIONS.contains(&remote.to_string().as_str());
    let tagged = GENUINE.iter().any(|tag| tag.answers && tag.address.remote == *remote);
    if spec.sources[0].require_session {
        assert!(known, "{remote} has no session");
    }
    let named = spec.bind.is_ipv4() && remote.ip().to_string().starts_with("10.");
    assert!(tagged || named || !oracle::special(remote.ip()), "{remote} is special");
    assert!(spec.dual_stack || remote.is_ipv4(), "{remote} is beyond the socket");
}

/// Contract 4.3: a publisher may retry what carries an Id.
fn retried(world: &mut World, body: &[u8], first: Completion) {
    // Where there is pacing Ids are soon forgotten, and time passes.
    if world.listener.spec().sources[0].rate_limit.is_some() {
        return;
    }
    let ids = world.listener.take_sent_ids().len();
    let (second, _) = world.settle(Origin::Source(0), None, body);
    assert!(second.duplicates as usize >= ids, "{second:?}");
    assert_eq!(second.entries, first.entries);
    assert_eq!(second.sent as usize, first.sent as usize - ids);
}

fn refused(world: &mut World, body: &[u8]) {
    let refusal = Some((Reason::WrongRegion, "elsewhere".to_owned()));
    let (completion, sent) = world.settle(Origin::Source(0), refusal, body);
    assert!(sent.is_empty());
    let by_refusal = |reason| matches!(reason, Reason::WrongRegion | Reason::MalformedMessage);
    assert!(completion.failures.iter().all(|failure| by_refusal(failure.reason)), "{completion:?}");
}

/// Each element parsed as the only one of a message gives what it gave among the others: so an entry can neither harm
/// nor help another, and the parser's fast way agrees with its slow way.
fn elements_stand_alone(body: &[u8]) {
    let parsed = parse_message(body);
    let Some(alone) = cut(body) else {
        // The cutter wants UTF-8 throughout, and no elements in a flat message.
        return;
    };
    let parsed = parsed.expect("the body is an object with an array of values");
    assert_eq!(parsed.len(), alone.len());
    // The message's own SendAt holds for each of them.
    let fields: HashMap<Cow<str>, &RawValue> = serde_json::from_slice(body).expect("it was cut");
    let send_at = fields.get("SendAt").map_or("null", |raw| raw.get());
    for (among, raw) in parsed.iter().zip(alone) {
        let wrapped = format!("{{\"Messages\":[{}],\"SendAt\":{send_at}}}", raw.get());
        match (among, parse_message(wrapped.as_bytes()).as_deref()) {
            (Element::Malformed(_), Ok([Element::Malformed(_)])) => {}
            (among, Ok([single])) => assert_eq!(among, single),
            (among, single) => panic!("{among:?} is {single:?} by itself"),
        }
    }
}

/// The elements of `Messages` by grammar alone.
fn cut(body: &[u8]) -> Option<Vec<&RawValue>> {
    let fields: HashMap<Cow<str>, &RawValue> = serde_json::from_slice(body).ok()?;
    serde_json::from_str(fields.get("Messages")?.get()).ok()
}
