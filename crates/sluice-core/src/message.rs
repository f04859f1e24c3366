//! The JSON that comes from applications: sourced messages of both generations (contract section 4.1) and the answers of
//! handlers (section 3).
//!
//! Theory. Entries fail alone, so parsing must not stop at the first field of a wrong type: every field accepts any JSON
//! value and is judged afterwards ([`Scalar`]). One pass over the body does that without a copy. What a single pass
//! cannot survive is text that is JSON by its grammar and still cannot be a string (a lone surrogate such as
//! `"\ud800"`); then a second, slower pass cuts the array into its elements first and parses each by itself.

mod any;
mod element;
mod plain;

pub use element::{Element, Entry, InnerField, InnerObject, RemoteField, Remotes, Scalar, Target, Way};

use element::Parsed;

/// Most entries of a sourced message; each of an entry's `Remotes` counts as one. The least that can be sent has 40 bytes, so that 256 KiB hold fewer of them; but of
/// `1,1,1,…` they would hold 131,000, and to report each would take seconds and a hundred times the bytes.
pub const ENTRIES_LIMIT: usize = 10_000;

/// The entries of a sourced message: `Messages` of the wrapped generation, or the one flat entry that the body is.
/// An error describes why there are none.
pub fn parse_message(body: &[u8]) -> Result<Vec<Element<'_>>, String> {
    let elements = match parse(body, "Messages")? {
        Parsed::List(elements) => elements,
        Parsed::Flat(entry) => vec![Element::Entry(*entry)],
        Parsed::NotAList => return Err("Messages is not an array".to_owned()),
        Parsed::Null | Parsed::NotAnObject => return Err("the message is not a JSON object".to_owned()),
    };
    let (entries, packets) = (elements.len(), elements.iter().map(packets).sum::<usize>());
    if packets <= ENTRIES_LIMIT {
        Ok(elements)
    } else if packets == entries {
        Err(format!("Messages has {entries} entries, a message at most {ENTRIES_LIMIT}"))
    } else {
        Err(format!("the message has {packets} remotes, each of all Remotes counted, and may have {ENTRIES_LIMIT}"))
    }
}

/// How many packets the element asks for.
fn packets(element: &Element) -> usize {
    match element {
        Element::Entry(Entry { remotes: Some(remotes), .. }) => match &**remotes {
            Remotes::List(targets) => targets.len().max(1),
            Remotes::Other => 1,
        },
        _ => 1,
    }
}

/// The replies in a handler's answer: none for `null`, missing or null `Replies`, or an empty body.
pub fn parse_replies(body: &[u8]) -> Result<Vec<Element<'_>>, String> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    match parse(body, "Replies")? {
        Parsed::List(elements) => Ok(elements),
        Parsed::Flat(_) | Parsed::Null => Ok(Vec::new()),
        Parsed::NotAList => Err("Replies is not an array".to_owned()),
        Parsed::NotAnObject => Err("the answer is not a JSON object".to_owned()),
    }
}

fn parse<'a>(body: &'a [u8], list: &'static str) -> Result<Parsed<'a>, String> {
    // JSON is UTF-8 (RFC 8259, section 8.1): also where nobody reads, so that a body has one verdict.
    let body = std::str::from_utf8(body).map_err(|error| format!("not UTF-8 (at byte {})", error.valid_up_to()))?;
    match plain::read(body, list) {
        Some(elements) => Ok(Parsed::List(elements)),
        None => any::parse(body, list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn text(text: &str) -> Scalar<'_> {
        Scalar::Text(Cow::Borrowed(text))
    }

    fn remote<'a>(address: &'a str, port: f64) -> RemoteField<'a> {
        RemoteField::Object {
            address: text(address),
            spelling: "Address",
            port: Scalar::Number(port),
            peer_key: Scalar::Absent,
        }
    }

    #[test]
    fn both_generations() {
        let flat = br#"{"Data": "AQIDBA==", "Remote": {"IP": "203.0.113.42", "Port": 4567}}"#;
        let wrapped = br#"{"Messages": [{"Data": "AQIDBA==", "Remote": {"Address": "203.0.113.42", "Port": 4567}}]}"#;
        let stored = br#"{"Messages": [{"Remote": {"IpAddress": "203.0.113.42", "Port": 4567}, "Data": "AQIDBA=="}], "X": [{}]}"#;
        for (body, written) in [(&flat[..], "IP"), (wrapped, "Address"), (stored, "IpAddress")] {
            let mut entry =
                Entry { data: text("AQIDBA=="), remote: remote("203.0.113.42", 4567.0), ..Entry::default() };
            if let RemoteField::Object { spelling, .. } = &mut entry.remote {
                *spelling = written;
            }
            assert_eq!(parse_message(body), Ok(vec![Element::Entry(entry)]));
        }
    }

    #[test]
    fn entries_of_any_type_stand_or_fall_alone() {
        let body = br#"{"Messages": [1, null, "x", [[]], {"Data": {"a": [1]}, "Remote": [1]}, {"Data": "a\u0062", "Tag": true}]}"#;
        let elements = parse_message(body).unwrap();
        assert_eq!(elements.len(), 6);
        assert!(matches!(elements[0], Element::Malformed(_)));
        assert_eq!(elements[1], Element::Null);
        let wrong = Entry { data: Scalar::Other, remote: RemoteField::Other, ..Entry::default() };
        assert_eq!(elements[4], Element::Entry(wrong));
        assert_eq!(elements[5], Element::Entry(Entry { data: text("ab"), tag: Scalar::Other, ..Entry::default() }));
    }

    #[test]
    fn a_lone_surrogate_harms_only_its_entry() {
        let body = br#"{"Messages": [{"Data": "YQ=="}, {"Data": "\ud800"}, {"Data": "Yg=="}]}"#;
        let elements = parse_message(body).unwrap();
        assert!(matches!(&elements[..], [Element::Entry(_), Element::Malformed(_), Element::Entry(_)]), "{elements:?}");
    }

    #[test]
    fn bodies_that_are_no_message() {
        for body in [
            "",
            "null",
            "[]",
            "1",
            "{",
            "{}x",
            "{\"Messages\": {}}",
            "{\"Messages\": 5}",
            "\u{feff}{}",
            "{\"Messages\": [1,]}",
        ] {
            assert!(parse_message(body.as_bytes()).is_err(), "{body}");
        }
        assert!(parse_message(b"{\"Data\": \"\xff\"}").is_err());
        assert!(parse_message(b"{\"X\": \"\xff\", \"Messages\": []}").is_err());
        assert_eq!(parse_message(b"{\"Messages\": []}"), Ok(vec![]));
        // A flat entry without fields is one entry, which then fails by itself.
        assert_eq!(parse_message(b"{}").unwrap().len(), 1);
    }

    #[test]
    fn entries_are_bounded() {
        for entry in ["1", "null", "{}", "\"\\ud800\""] {
            let message = |count| format!("{{\"Messages\": [{}]}}", vec![entry; count].join(",")).into_bytes();
            assert_eq!(parse_message(&message(ENTRIES_LIMIT)).unwrap().len(), ENTRIES_LIMIT, "{entry}");
            let refused = parse_message(&message(ENTRIES_LIMIT + 1)).unwrap_err();
            assert_eq!(refused, "Messages has 10001 entries, a message at most 10000", "{entry}");
        }
    }

    #[test]
    fn remotes_of_any_type() {
        let body =
            br#"{"Data": "YQ==", "Remotes": [{"Address": "203.0.113.42", "Port": 1}, {"Tag": "t"}, null, 5, [1], {}]}"#;
        let elements = parse_message(body).unwrap();
        let [Element::Entry(Entry { remotes: Some(remotes), .. })] = &elements[..] else { panic!("{elements:?}") };
        let none = RemoteField::Object {
            address: Scalar::Absent,
            spelling: "Address",
            port: Scalar::Absent,
            peer_key: Scalar::Absent,
        };
        let target = |remote| Target { remote, tag: Scalar::Absent };
        let tagged = Target { remote: none.clone(), tag: text("t") };
        let other = target(RemoteField::Other);
        let expected =
            vec![target(remote("203.0.113.42", 1.0)), tagged, Target::default(), other.clone(), other, target(none)];
        assert_eq!(**remotes, Remotes::List(expected));
        for (value, expected) in [("null", None), ("{}", Some(Remotes::Other)), ("[]", Some(Remotes::List(vec![])))] {
            let body = format!("{{\"Messages\": [{{\"Remotes\": {value}}}]}}");
            let elements = parse_message(body.as_bytes()).unwrap();
            assert_eq!(elements, [Element::Entry(Entry { remotes: expected.map(Box::new), ..Entry::default() })]);
        }
    }

    #[test]
    fn remotes_count_into_the_limit() {
        for remote in ["{\"IP\":\"203.0.113.42\",\"Port\":1}", "null", "1"] {
            let list = |count| vec![remote; count].join(",");
            let flat = |count| format!("{{\"Remotes\": [{}]}}", list(count)).into_bytes();
            let two = |count| format!("{{\"Messages\": [{{\"Remotes\": [{}]}}, {{}}]}}", list(count)).into_bytes();
            assert_eq!(parse_message(&flat(ENTRIES_LIMIT)).unwrap().len(), 1);
            assert_eq!(parse_message(&two(ENTRIES_LIMIT - 1)).unwrap().len(), 2);
            let refused = "the message has 10001 remotes, each of all Remotes counted, and may have 10000";
            assert_eq!(parse_message(&flat(ENTRIES_LIMIT + 1)).unwrap_err(), refused);
            assert_eq!(parse_message(&two(ENTRIES_LIMIT)).unwrap_err(), refused);
        }
    }

    #[test]
    fn tolerated_answers() {
        for body in ["", "null", "{}", "{\"Replies\": null}", "{\"Replies\": []}", "{\"statusCode\": 200}"] {
            assert_eq!(parse_replies(body.as_bytes()), Ok(vec![]), "{body}");
        }
        for body in
            ["[]", "\"ok\"", "5", "{\"Replies\": {\"Tag\": \"t\", \"Data\": \"\"}}", "{\"Replies\": \"x\"}", "garbage"]
        {
            assert!(parse_replies(body.as_bytes()).is_err(), "{body}");
        }
        let body = br#"{"Replies": [null, {}, {"Tag": "t", "Data": null}, {"Tag": "t", "Data": ""}]}"#;
        assert_eq!(parse_replies(body).unwrap().len(), 4);
    }

    #[test]
    fn deep_nesting_is_refused_without_harm() {
        let body = format!("{{\"Messages\": [{}1{}]}}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = parse_message(body.as_bytes());
        let body = format!("{{\"X\": {}1{}, \"Data\": \"\"}}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        let _ = parse_message(body.as_bytes());
    }

    proptest! {
        #[test]
        fn never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_message(&body);
            let _ = parse_replies(&body);
        }

        #[test]
        fn any_fields(data in any::<String>(), port in any::<i64>(), address in any::<String>()) {
            let body = serde_json::json!({"Data": data, "Remote": {"Port": port, "Address": address}}).to_string();
            let elements = parse_message(body.as_bytes()).unwrap();
            let Element::Entry(entry) = &elements[0] else { panic!("not an entry") };
            prop_assert_eq!(&entry.data, &Scalar::Text(Cow::Owned(data)));
        }
    }
}
