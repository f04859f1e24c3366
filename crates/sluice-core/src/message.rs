//! The JSON that comes from applications: sourced messages of both generations (contract section 4.1) and the answers of
//! handlers (section 3).
//!
//! Theory. Entries fail alone, so parsing must not stop at the first field of a wrong type: every field accepts any JSON
//! value and is judged afterwards ([`Scalar`]). One pass over the body does that without a copy. What a single pass
//! cannot survive is text that is JSON by its grammar and still cannot be a string (a lone surrogate such as
//! `"\ud800"`); then a second, slower pass cuts the array into its elements first and parses each by itself.

mod plain;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// Any JSON value, kept as far as a field may need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar<'a> {
    /// The field does not occur.
    #[default]
    Absent,
    /// `null`
    Null,
    /// A string.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
    /// `true`, `false`, an array or an object.
    Other,
}

impl Scalar<'_> {
    /// True where the field has no value: absent or `null`.
    pub fn is_none(&self) -> bool {
        matches!(self, Scalar::Absent | Scalar::Null)
    }
}

/// `Remote` of an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RemoteField<'a> {
    /// Absent or `null`.
    #[default]
    None,
    /// An object.
    Object {
        /// `Address`, `IP` or `IpAddress`: the same thing.
        address: Scalar<'a>,
        /// `Port`
        port: Scalar<'a>,
        /// `PeerKey`
        peer_key: Scalar<'a>,
    },
    /// Anything else.
    Other,
}

/// `Inner` of an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum InnerField<'a> {
    /// Absent or `null`.
    #[default]
    None,
    /// An object. Boxed, because few entries have one.
    Object(Box<InnerObject<'a>>),
    /// Anything else.
    Other,
}

/// Addresses inside a tunnel; `Version` and `Protocol` follow from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InnerObject<'a> {
    /// `SourceAddress`, `SourcePort`: the client's side.
    pub source: [Scalar<'a>; 2],
    /// `DestinationAddress`, `DestinationPort`: the gateway's side.
    pub destination: [Scalar<'a>; 2],
}

/// One element of `Messages` or `Replies`, not yet judged.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the fields are the contract's
pub struct Entry<'a> {
    pub data: Scalar<'a>,
    pub formatter: Scalar<'a>,
    pub tag: Scalar<'a>,
    pub remote: RemoteField<'a>,
    pub inner: InnerField<'a>,
    pub ttl_seconds: Scalar<'a>,
    pub expires_at: Scalar<'a>,
    pub id: Scalar<'a>,
}

/// An element of `Messages` or `Replies`. Nearly all are entries: boxing them would only cost.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Element<'a> {
    /// An object.
    Entry(Entry<'a>),
    /// `null`
    Null,
    /// Neither; what is wrong with it.
    Malformed(String),
}

/// The entries of a sourced message: `Messages` of the wrapped generation, or the one flat entry that the body is.
/// An error describes why there are none.
pub fn parse_message(body: &[u8]) -> Result<Vec<Element<'_>>, String> {
    match parse(body, "Messages")? {
        Document::List(elements) => Ok(elements),
        Document::Flat(entry) => Ok(vec![Element::Entry(*entry)]),
        Document::NotAList => Err("Messages is not an array".to_owned()),
        Document::Null | Document::NotAnObject => Err("the message is not a JSON object".to_owned()),
    }
}

/// The replies in a handler's answer: none for `null`, missing or null `Replies`, or an empty body.
pub fn parse_replies(body: &[u8]) -> Result<Vec<Element<'_>>, String> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    match parse(body, "Replies")? {
        Document::List(elements) => Ok(elements),
        Document::Flat(_) | Document::Null => Ok(Vec::new()),
        Document::NotAList => Err("Replies is not an array".to_owned()),
        Document::NotAnObject => Err("the answer is not a JSON object".to_owned()),
    }
}

enum Document<'a> {
    List(Vec<Element<'a>>),
    /// An object without the list (or with `null` for it): itself the entry.
    Flat(Box<Entry<'a>>),
    NotAList,
    Null,
    NotAnObject,
}

fn parse<'a>(body: &'a [u8], list: &'static str) -> Result<Document<'a>, String> {
    // JSON is UTF-8 (RFC 8259, section 8.1): also where nobody reads, so that a body has one verdict.
    let body = std::str::from_utf8(body).map_err(|error| format!("not UTF-8 (at byte {})", error.valid_up_to()))?;
    match plain::read(body, list) {
        Some(elements) => Ok(Document::List(elements)),
        None => parse_any(body, list),
    }
}

fn parse_any<'a>(body: &'a str, list: &'static str) -> Result<Document<'a>, String> {
    let mut json = serde_json::Deserializer::from_str(body);
    let whole = json.deserialize_any(DocumentVisitor { list }).and_then(|document| json.end().map(|()| document));
    whole.or_else(|error| parse_each(body, list).ok_or_else(|| describe(&error)))
}

/// The slow way: the array's elements are cut out by grammar alone, then each stands or falls by itself.
fn parse_each<'a>(body: &'a str, list: &str) -> Option<Document<'a>> {
    let fields: std::collections::HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(body).ok()?;
    let elements: Vec<&'a RawValue> = serde_json::from_str(fields.get(list)?.get()).ok()?;
    let element = |raw: &'a RawValue| {
        serde_json::from_str(raw.get()).unwrap_or_else(|error| Element::Malformed(describe(&error)))
    };
    Some(Document::List(elements.into_iter().map(element).collect()))
}

fn describe(error: &serde_json::Error) -> String {
    // The library's text names its own line and column; keep only those, in our words.
    format!("not valid JSON (line {}, column {})", error.line(), error.column())
}

/// A key or a string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The parts of a visitor that say the same for every kind of value: `$scalar` makes the result of a JSON number, text,
/// boolean or null.
macro_rules! visit_scalars {
    ($value:ty, $scalar:expr) => {
        type Value = $value;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("any JSON value")
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Null))
        }
        fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Other))
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Number(number as f64)))
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Number(number as f64)))
        }
        fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Number(number)))
        }
        fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Text(Cow::Borrowed(text))))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok($scalar(Scalar::Text(Cow::Owned(text.to_owned()))))
        }
    };
}

/// Values of no interest are still read to their end.
fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            visit_scalars!(Scalar<'de>, |scalar| scalar);
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Scalar<'de>, A::Error> {
                skip_seq(seq).map(|()| Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar<'de>, A::Error> {
                skip_map(map).map(|()| Scalar::Other)
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RemoteField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RemoteVisitor;
        fn other<'a>(scalar: Scalar<'a>) -> RemoteField<'a> {
            if scalar == Scalar::Null { RemoteField::None } else { RemoteField::Other }
        }
        impl<'de> Visitor<'de> for RemoteVisitor {
            visit_scalars!(RemoteField<'de>, other);
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<RemoteField<'de>, A::Error> {
                skip_seq(seq).map(|()| RemoteField::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RemoteField<'de>, A::Error> {
                let (mut address, mut port, mut peer_key) = (Scalar::Absent, Scalar::Absent, Scalar::Absent);
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "Address" | "IP" | "IpAddress" => address = map.next_value()?,
                        "Port" => port = map.next_value()?,
                        "PeerKey" => peer_key = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(RemoteField::Object { address, port, peer_key })
            }
        }
        deserializer.deserialize_any(RemoteVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for InnerField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InnerVisitor;
        fn other<'a>(scalar: Scalar<'a>) -> InnerField<'a> {
            if scalar == Scalar::Null { InnerField::None } else { InnerField::Other }
        }
        impl<'de> Visitor<'de> for InnerVisitor {
            visit_scalars!(InnerField<'de>, other);
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<InnerField<'de>, A::Error> {
                skip_seq(seq).map(|()| InnerField::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InnerField<'de>, A::Error> {
                let mut inner = Box::<InnerObject>::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "SourceAddress" => inner.source[0] = map.next_value()?,
                        "SourcePort" => inner.source[1] = map.next_value()?,
                        "DestinationAddress" => inner.destination[0] = map.next_value()?,
                        "DestinationPort" => inner.destination[1] = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(InnerField::Object(inner))
            }
        }
        deserializer.deserialize_any(InnerVisitor)
    }
}

impl<'a> Entry<'a> {
    /// Takes the value of `key` if it is one of an entry's fields.
    fn take<'de: 'a, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "Data" => self.data = map.next_value()?,
            "Formatter" => self.formatter = map.next_value()?,
            "Tag" => self.tag = map.next_value()?,
            "Remote" => self.remote = map.next_value()?,
            "Inner" => self.inner = map.next_value()?,
            "TtlSeconds" => self.ttl_seconds = map.next_value()?,
            "ExpiresAt" => self.expires_at = map.next_value()?,
            "Id" => self.id = map.next_value()?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        fn not_an_object<'a>(scalar: Scalar<'a>) -> Element<'a> {
            match scalar {
                Scalar::Null => Element::Null,
                _ => Element::Malformed("the entry is not a JSON object".to_owned()),
            }
        }
        impl<'de> Visitor<'de> for ElementVisitor {
            visit_scalars!(Element<'de>, not_an_object);
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Element<'de>, A::Error> {
                skip_seq(seq).map(|()| not_an_object(Scalar::Other))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element<'de>, A::Error> {
                let mut entry = Entry::default();
                while let Some(Text(key)) = map.next_key()? {
                    entry.take(&key, &mut map)?;
                }
                Ok(Element::Entry(entry))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

/// The value under the list's name.
enum List<'a> {
    Elements(Vec<Element<'a>>),
    Null,
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;
        fn not_a_list<'a>(scalar: Scalar<'_>) -> List<'a> {
            if scalar == Scalar::Null { List::Null } else { List::Other }
        }
        impl<'de> Visitor<'de> for ListVisitor {
            visit_scalars!(List<'de>, not_a_list);
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<'de>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(List::Elements(elements))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<'de>, A::Error> {
                skip_map(map).map(|()| List::Other)
            }
        }
        deserializer.deserialize_any(ListVisitor)
    }
}

struct DocumentVisitor {
    list: &'static str,
}

fn not_a_document<'a>(scalar: Scalar<'_>) -> Document<'a> {
    if scalar == Scalar::Null { Document::Null } else { Document::NotAnObject }
}

impl<'de> Visitor<'de> for DocumentVisitor {
    visit_scalars!(Document<'de>, not_a_document);
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Document<'de>, A::Error> {
        skip_seq(seq).map(|()| Document::NotAnObject)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document<'de>, A::Error> {
        let mut flat = Entry::default();
        let mut list = List::Null;
        while let Some(Text(key)) = map.next_key()? {
            if key == self.list {
                list = map.next_value()?;
            } else {
                flat.take(&key, &mut map)?;
            }
        }
        Ok(match list {
            List::Elements(elements) => Document::List(elements),
            List::Null => Document::Flat(Box::new(flat)),
            List::Other => Document::NotAList,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Scalar<'_> {
        Scalar::Text(Cow::Borrowed(text))
    }

    fn remote<'a>(address: &'a str, port: f64) -> RemoteField<'a> {
        RemoteField::Object { address: text(address), port: Scalar::Number(port), peer_key: Scalar::Absent }
    }

    #[test]
    fn both_generations() {
        let flat = br#"{"Data": "AQIDBA==", "Remote": {"IP": "203.0.113.42", "Port": 4567}}"#;
        let wrapped = br#"{"Messages": [{"Data": "AQIDBA==", "Remote": {"Address": "203.0.113.42", "Port": 4567}}]}"#;
        let stored = br#"{"Messages": [{"Remote": {"IpAddress": "203.0.113.42", "Port": 4567}, "Data": "AQIDBA=="}], "X": [{}]}"#;
        let entry = Entry { data: text("AQIDBA=="), remote: remote("203.0.113.42", 4567.0), ..Entry::default() };
        for body in [&flat[..], wrapped, stored] {
            assert_eq!(parse_message(body), Ok(vec![Element::Entry(entry.clone())]));
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
