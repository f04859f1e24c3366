//! Documents as programs write them, read several times as fast as any JSON: a list of objects whose fields are strings
//! without escapes, small whole numbers, or objects of such. Whatever else a document has, [`read`] leaves it to the parser
//! of [`message`](super), and what it does read, that parser would read to the same end.

use super::element::{
    Element, Entry, Field, InnerField, InnerObject, RemoteField, RemoteParts, Remotes, Scalar, Target, send_all_at,
};
use std::borrow::Cow;

/// Digits of whole numbers that an f64 holds exactly.
const DIGITS: usize = 15;
/// Places for entries that are made at once, at most.
const RESERVED: usize = 4_096;

/// The elements under the name `list`, or None: read it another way.
pub fn read<'a>(body: &'a str, list: &str) -> Option<Vec<Element<'a>>> {
    let mut cursor = Cursor { text: body, at: 0 };
    let mut elements = None;
    let mut send_at = Scalar::Absent;
    cursor.object(|cursor, key| {
        if key == list {
            elements = Some(cursor.elements()?);
        } else {
            let value = cursor.scalar()?;
            if key == "SendAt" {
                send_at = value;
            }
        }
        Some(())
    })?;
    cursor.skip_space();
    let mut elements = elements.filter(|_| cursor.at == body.len())?;
    send_all_at(&mut elements, &send_at);
    Some(elements)
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn elements(&mut self) -> Option<Vec<Element<'a>>> {
        self.array(|cursor| {
            Some(match cursor.peek()? {
                b'{' => Element::Entry(cursor.entry()?),
                _ => cursor.literal("null").map(|()| Element::Null)?,
            })
        })
    }

    /// Reads an array; `item` reads one of its values.
    #[inline]
    fn array<T>(&mut self, mut item: impl FnMut(&mut Cursor<'a>) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(items);
        }
        let start = self.at;
        loop {
            items.push(item(self)?);
            if items.len() == 1 {
                // Most likely the others are as long.
                items.reserve(((self.text.len() - start) / (self.at - start)).min(RESERVED));
            }
            match self.next()? {
                b',' => {}
                b']' => return Some(items),
                _ => return None,
            }
        }
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let mut entry = Entry::default();
        self.object(|cursor, key| {
            match entry.field(key) {
                Some(Field::Scalar(scalar)) => *scalar = cursor.scalar()?,
                Some(Field::Remote(remote)) => *remote = cursor.remote()?,
                Some(Field::Remotes(remotes)) => *remotes = Some(Box::new(Remotes::List(cursor.targets()?))),
                Some(Field::Inner(inner)) => *inner = cursor.inner()?,
                None => drop(cursor.scalar()?),
            }
            Some(())
        })?;
        Some(entry)
    }

    fn remote(&mut self) -> Option<RemoteField<'a>> {
        let mut remote = RemoteParts::default();
        self.object(|cursor, key| cursor.read(remote.field(key)))?;
        Some(remote.whole())
    }

    fn targets(&mut self) -> Option<Vec<Target<'a>>> {
        self.array(|cursor| match cursor.peek()? {
            b'{' => {
                let mut parts = RemoteParts::default();
                cursor.object(|cursor, key| cursor.read(parts.field_or_tag(key)))?;
                Some(parts.target())
            }
            _ => cursor.literal("null").map(|()| Target::default()),
        })
    }

    fn inner(&mut self) -> Option<InnerField<'a>> {
        let mut inner = Box::<InnerObject>::default();
        self.object(|cursor, key| cursor.read(inner.field(key)))?;
        Some(InnerField::Object(inner))
    }

    /// Reads a value into its place, if it has one.
    fn read(&mut self, place: Option<&mut Scalar<'a>>) -> Option<()> {
        let value = self.scalar()?;
        if let Some(scalar) = place {
            *scalar = value;
        }
        Some(())
    }

    /// Reads an object; `field` reads the value behind each key.
    fn object(&mut self, mut field: impl FnMut(&mut Cursor<'a>, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let key = self.string()?;
            self.expect(b':')?;
            field(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn scalar(&mut self) -> Option<Scalar<'a>> {
        match self.peek()? {
            b'"' => {
                self.at += 1;
                self.string().map(|text| Scalar::Text(Cow::Borrowed(text)))
            }
            b'n' => self.literal("null").map(|()| Scalar::Null),
            b't' => self.literal("true").map(|()| Scalar::Other),
            b'f' => self.literal("false").map(|()| Scalar::Other),
            _ => self.number().map(Scalar::Number),
        }
    }

    /// The rest of a string, behind its opening quote.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        let end = start + plain_len(&self.text.as_bytes()[start..]);
        if self.text.as_bytes().get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// A whole number without a sign.
    fn number(&mut self) -> Option<f64> {
        let rest = &self.text.as_bytes()[self.at..];
        let digits = rest.iter().take(DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
        let whole = (1..=DIGITS).contains(&digits)
            && (rest[0] != b'0' || digits == 1)
            && !matches!(rest.get(digits), Some(b'.' | b'e' | b'E'));
        if !whole {
            return None;
        }
        self.at += digits;
        Some(rest[..digits].iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0')) as f64)
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.text.as_bytes()[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    /// The next byte that is not space, consumed.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// The next byte that is not space.
    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }
}

/// How many bytes stand before a quote, a backslash or a control character (RFC 8259, section 7).
fn plain_len(bytes: &[u8]) -> usize {
    let special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    // Looked at as a whole, a chunk becomes a few vector instructions.
    let plain = |chunk: &&[u8; 64]| chunk.iter().fold(0, |found, &byte| found | u8::from(special(byte))) == 0;
    let start = 64 * bytes.as_chunks::<64>().0.iter().take_while(plain).count();
    start + bytes[start..].iter().position(|&byte| special(byte)).unwrap_or(bytes.len() - start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Parsed, any};
    use proptest::{collection::vec, option, prelude::*, sample::select};
    use serde_json::{Value, json};

    fn plain(body: &str) -> Vec<Element<'_>> {
        read(body, "Messages").unwrap_or_else(|| panic!("not read: {body}"))
    }

    #[test]
    fn what_programs_write_is_read() {
        let entry = r#"{"Data":"AQIDBA==","Remote":{"Address":"203.0.113.42","Port":4567,"PeerKey":null}}"#;
        let long = "é".repeat(100);
        let spaced = format!(
            "\n{{ \"X\" : 1 , \"Messages\" : [ {entry} ,\tnull, {{ }} , {{\"Data\": \"{long}\", \"Y\": true}} ] , \"Z\": \"\" }} "
        );
        let elements = plain(&spaced);
        assert_eq!(elements.len(), 4);
        assert_eq!(elements[0], plain(&format!("{{\"Messages\":[{entry}]}}"))[0]);
        assert_eq!(elements[1], Element::Null);
        assert_eq!(elements[2], Element::Entry(Entry::default()));
        let Element::Entry(entry) = &elements[3] else { panic!("not an entry") };
        assert_eq!(entry.data, Scalar::Text(Cow::Owned(long)));
        assert_eq!(plain("{\"Messages\":[]}"), []);
    }

    #[test]
    fn strings_of_every_length_end_where_they_end() {
        for length in 0..200 {
            let text = "x".repeat(length);
            for end in ["\"", "\\", "\n", "\u{1f}"] {
                assert_eq!(plain_len(format!("{text}{end}\"{text}").as_bytes()), length);
            }
            assert_eq!(plain_len(text.as_bytes()), length);
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_other_parser() {
        for entry in [
            r#"{"Data":"a\u0062"}"#,
            r#"{"Data":-1}"#,
            r#"{"Data":1.5}"#,
            r#"{"Data":1e3}"#,
            r#"{"Data":01}"#,
            r#"{"Data":1234567890123456}"#,
            r#"{"Data":[]}"#,
            r#"{"Data":"a	b"}"#,
            r#"{"Data":"a"#,
            r#"{"Data":"a"}]} x"#,
            r#"{"Data":"a",}"#,
            r#"{"Data" "a"}"#,
            r#"{"Data":nul}"#,
            "1",
        ] {
            assert_eq!(read(&format!("{{\"Messages\":[{entry}]}}"), "Messages"), None, "{entry}");
        }
        for body in ["", "[]", "{}", r#"{"Data":"a"}"#, r#"{"Messages":null}"#, r#"{"Messages":[1"#] {
            assert_eq!(read(body, "Messages"), None, "{body}");
        }
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            "[a-zA-Z0-9+/=]{0,90}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            select(vec![json!(null), json!(true), json!(-1), json!([1]), json!({"Port": 1})]),
        ]
    }

    fn object(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
        vec((select(keys), scalar()), 0..4)
            .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn entry() -> impl Strategy<Value = Value> {
        let remote = object(&["Address", "IP", "IpAddress", "Port", "PeerKey", "X"]);
        let inner = object(&["SourceAddress", "SourcePort", "DestinationAddress", "DestinationPort", "X"]);
        let rest =
            object(&["Data", "Formatter", "Tag", "Remote", "Remotes", "TtlSeconds", "ExpiresAt", "Id", "SendAt", "X"]);
        let target = prop_oneof![object(&["Address", "IP", "Port", "PeerKey", "Tag", "X"]), scalar()];
        let remotes = option::of(vec(target, 0..4));
        (option::of(remote), remotes, option::of(inner), rest).prop_map(|(remote, remotes, inner, mut entry)| {
            remotes.into_iter().for_each(|remotes| entry["Remotes"] = remotes.into());
            remote.into_iter().for_each(|remote| entry["Remote"] = remote);
            inner.into_iter().for_each(|inner| entry["Inner"] = inner);
            entry
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn both_parsers_agree(
            entries in vec(entry(), 0..4),
            send_at in option::of(scalar()),
            pretty: bool,
            changes in vec((any::<prop::sample::Index>(), select(b"{}[]\",:\\ \n\t01-.eEntx\x01".to_vec())), 0..3),
        ) {
            let mut document = json!({ "Messages": entries });
            send_at.into_iter().for_each(|at| document["SendAt"] = at);
            let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
            let mut bytes = text.unwrap().into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let Ok(body) = String::from_utf8(bytes) else { return Ok(()) };
            if let Some(elements) = read(&body, "Messages") {
                match any::parse(&body, "Messages") {
                    Ok(Parsed::List(others)) => prop_assert_eq!(elements, others),
                    _ => prop_assert!(false, "only one of them reads {}", body),
                }
            }
        }
    }
}
