//! Any JSON as a document: every field takes every value, and text that is JSON by its grammar and still no string harms only
//! its own entry.

use super::element::{
    Element, Entry, Field, InnerField, InnerObject, Parsed, RemoteField, RemoteParts, Remotes, Scalar, Target,
    send_all_at,
};
use crate::json;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, marker::PhantomData};

/// What the body is, or why it is no JSON.
pub fn parse<'a>(body: &'a str, list: &'static str) -> Result<Parsed<'a>, String> {
    let mut json = serde_json::Deserializer::from_str(body);
    let whole = json.deserialize_any(ParsedVisitor { list }).and_then(|document| json.end().map(|()| document));
    whole.or_else(|error| parse_each(body, list).ok_or_else(|| describe(body, &error)))
}

/// The slow way: the array's elements are cut out by grammar alone, then each stands or falls by itself.
fn parse_each<'a>(body: &'a str, list: &str) -> Option<Parsed<'a>> {
    let fields: std::collections::HashMap<Cow<'a, str>, &'a RawValue> = serde_json::from_str(body).ok()?;
    let elements: Vec<&'a RawValue> = serde_json::from_str(fields.get(list)?.get()).ok()?;
    let element = |raw: &'a RawValue| {
        serde_json::from_str(raw.get()).unwrap_or_else(|error| Element::Malformed(describe(raw.get(), &error)))
    };
    let mut elements: Vec<_> = elements.into_iter().map(element).collect();
    if let Some(send_at) = fields.get("SendAt") {
        send_all_at(&mut elements, &serde_json::from_str(send_at.get()).unwrap_or(Scalar::Other));
    }
    Some(Parsed::List(elements))
}

fn describe(text: &str, error: &serde_json::Error) -> String {
    // The library's text names its own line and column; keep only those, in our words.
    let (line, column) = json::place(text, error);
    format!("not valid JSON (line {line}, column {column})")
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
                let mut remote = RemoteParts::default();
                while let Some(Text(key)) = map.next_key()? {
                    read(remote.field(&key), &mut map)?;
                }
                Ok(remote.whole())
            }
        }
        deserializer.deserialize_any(RemoteVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Target<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TargetVisitor;
        fn other<'a>(scalar: Scalar<'a>) -> Target<'a> {
            match scalar {
                Scalar::Null => Target::default(),
                _ => Target { remote: RemoteField::Other, tag: Scalar::Absent },
            }
        }
        impl<'de> Visitor<'de> for TargetVisitor {
            visit_scalars!(Target<'de>, other);
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Target<'de>, A::Error> {
                skip_seq(seq).map(|()| other(Scalar::Other))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Target<'de>, A::Error> {
                let mut parts = RemoteParts::default();
                while let Some(Text(key)) = map.next_key()? {
                    read(parts.field_or_tag(&key), &mut map)?;
                }
                Ok(parts.target())
            }
        }
        deserializer.deserialize_any(TargetVisitor)
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
                    read(inner.field(&key), &mut map)?;
                }
                Ok(InnerField::Object(inner))
            }
        }
        deserializer.deserialize_any(InnerVisitor)
    }
}

/// Reads a value into its place, if it has one.
fn read<'de: 'a, 'a, A: MapAccess<'de>>(place: Option<&mut Scalar<'a>>, map: &mut A) -> Result<(), A::Error> {
    match place {
        Some(scalar) => *scalar = map.next_value()?,
        None => drop(map.next_value::<IgnoredAny>()?),
    }
    Ok(())
}

impl<'a> Entry<'a> {
    /// Takes the value of `key` if it is one of an entry's fields.
    fn take<'de: 'a, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match self.field(key) {
            Some(Field::Scalar(scalar)) => *scalar = map.next_value()?,
            Some(Field::Remote(remote)) => *remote = map.next_value()?,
            Some(Field::Remotes(remotes)) => {
                *remotes = match map.next_value()? {
                    List::Elements(targets) => Some(Box::new(Remotes::List(targets))),
                    List::Null => None,
                    List::Other => Some(Box::new(Remotes::Other)),
                }
            }
            Some(Field::Inner(inner)) => *inner = map.next_value()?,
            None => drop(map.next_value::<IgnoredAny>()?),
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

/// The value under a list's name.
enum List<T> {
    Elements(Vec<T>),
    Null,
    Other,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        fn not_a_list<T>(scalar: Scalar<'_>) -> List<T> {
            if scalar == Scalar::Null { List::Null } else { List::Other }
        }
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            visit_scalars!(List<T>, not_a_list);
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(List::Elements(elements))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
                skip_map(map).map(|()| List::Other)
            }
        }
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ParsedVisitor {
    list: &'static str,
}

fn not_a_document<'a>(scalar: Scalar<'_>) -> Parsed<'a> {
    if scalar == Scalar::Null { Parsed::Null } else { Parsed::NotAnObject }
}

impl<'de> Visitor<'de> for ParsedVisitor {
    visit_scalars!(Parsed<'de>, not_a_document);
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Parsed<'de>, A::Error> {
        skip_seq(seq).map(|()| Parsed::NotAnObject)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed<'de>, A::Error> {
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
            List::Elements(mut elements) => {
                send_all_at(&mut elements, &flat.send_at);
                Parsed::List(elements)
            }
            List::Null => Parsed::Flat(Box::new(flat)),
            List::Other => Parsed::NotAList,
        })
    }
}
