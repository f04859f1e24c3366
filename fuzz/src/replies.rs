//! Handlers' answers through a whole Listener, in each formatter: every sum adds up, only Tags of ours are answered, and
//! what the contract tolerates is no failure.

use crate::world::{FORMATTERS, GENUINE, World, spec};
use serde_json::Value;
use sluice_core::{Completion, ListenerSpec, Origin, Reason, message::parse_replies};
use std::sync::LazyLock;

static SPEC: LazyLock<ListenerSpec> = LazyLock::new(|| spec(|_| {}));

/// Any bytes as a handler's answer.
pub fn check(body: &[u8]) {
    let _ = parse_replies(body);
    let asking = asking(body);
    for destination in 0..FORMATTERS.len() {
        let mut world = World::new(SPEC.clone());
        for unreliable in [false, true] {
            world.unreliable = unreliable;
            let (completion, sent) = world.settle(Origin::Destination(destination), None, body);
            check_entries(asking, &completion);
            assert_eq!((completion.duplicates, world.listener.take_sent_ids().len()), (0, 0));
            for sent in sent {
                let answered = |tag: &&crate::world::Genuine| {
                    tag.address.remote == sent.remote && Some(tag.address.local.ip()) == sent.local
                };
                let tag = GENUINE.iter().find(answered).expect("a reply goes where a Tag says");
                assert!(tag.answers, "{} must not be answered", tag.name);
                assert!(!world.owns(sent.remote));
            }
        }
    }
}

/// How many elements ask for a packet, by an independent reader; inner None: the answer as a whole is wrong. Outer None:
/// it does not read it, and says nothing.
fn asking(body: &[u8]) -> Option<Option<usize>> {
    if body.is_empty() {
        return Some(Some(0));
    }
    let document: Value = serde_json::from_slice(body).ok()?;
    let has = |element: &Value, name: &str| element.get(name).is_some_and(|value| !value.is_null());
    Some(match &document {
        Value::Null => Some(0),
        Value::Object(fields) => match fields.get("Replies") {
            None | Some(Value::Null) => Some(0),
            Some(Value::Array(replies)) => Some(
                replies
                    .iter()
                    .filter(|element| match element {
                        Value::Null => false,
                        Value::Object(_) => has(element, "Tag") && has(element, "Data"),
                        _ => true,
                    })
                    .count(),
            ),
            Some(_) => None,
        },
        _ => None,
    })
}

fn check_entries(asking: Option<Option<usize>>, completion: &Completion) {
    let whole = completion.failures.iter().any(|failure| failure.index.is_none());
    match asking {
        Some(Some(count)) => assert_eq!((completion.entries as usize, whole), (count, false), "{completion:?}"),
        Some(None) => assert!(whole, "{completion:?}"),
        None => {}
    }
    if whole {
        assert_eq!((completion.entries, completion.failures.len()), (1, 1));
        assert_eq!(completion.failures[0].reason, Reason::MalformedMessage);
    }
}
