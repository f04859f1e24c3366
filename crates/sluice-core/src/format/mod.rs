//! Formatters: how a payload becomes the `Data` string of a RequestPacket and back (contract section 3).
//!
//! `base64`, `hex` and `utf8` of valid text lose nothing. `utf8` shows bytes that are not UTF-8 as U+FFFD and `ascii`
//! shows bytes above 127 as `?`: those two are for payloads known to be text. `coap` loses nothing either, but not every
//! payload is a CoAP message.

mod base64;
mod coap;
mod hex;
mod text;

use crate::{coap::Message, reason::Dropped};
use serde::Deserialize;

/// The name of a formatter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Formatter {
    /// RFC 4648 section 4, with padding.
    #[default]
    Base64,
    /// Upper case out, either case in.
    Hex,
    /// Text.
    Utf8,
    /// Seven-bit text.
    Ascii,
    /// A CoAP message as a JSON object.
    Coap,
}

/// A payload that a formatter can show.
#[derive(Clone, Copy, Debug)]
pub enum View<'p> {
    /// Any bytes, in one of the other formatters.
    Bytes(Formatter, &'p [u8]),
    /// A message, in `coap`.
    Coap(Message<'p>),
}

impl View<'_> {
    /// The formatter that shows it.
    #[inline]
    pub fn formatter(&self) -> Formatter {
        match self {
            View::Bytes(formatter, _) => *formatter,
            View::Coap(_) => Formatter::Coap,
        }
    }

    /// Appends a JSON string that shows the payload, with its quotes.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            View::Bytes(Formatter::Hex, payload) => hex::write(payload, out),
            View::Bytes(Formatter::Utf8, payload) => text::write_utf8(payload, out),
            View::Bytes(Formatter::Ascii, payload) => text::write_ascii(payload, out),
            View::Bytes(_, payload) => base64::write(payload, out),
            View::Coap(message) => coap::write(message, out),
        }
    }
}

impl Formatter {
    /// Every formatter.
    pub const ALL: [Formatter; 5] =
        [Formatter::Base64, Formatter::Hex, Formatter::Utf8, Formatter::Ascii, Formatter::Coap];

    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Formatter::Base64 => "base64",
            Formatter::Hex => "hex",
            Formatter::Utf8 => "utf8",
            Formatter::Ascii => "ascii",
            Formatter::Coap => "coap",
        }
    }

    /// The formatter with this name.
    pub fn from_name(name: &str) -> Option<Formatter> {
        Formatter::ALL.into_iter().find(|f| f.as_str() == name)
    }

    /// What there is to show of `payload`, or why this formatter cannot: `coap` shows CoAP messages alone.
    #[inline(always)]
    pub fn view(self, payload: &[u8]) -> Result<View<'_>, Dropped> {
        match self {
            Formatter::Coap => Message::parse(payload).map(View::Coap),
            _ => Ok(View::Bytes(self, payload)),
        }
    }

    /// The payload that `data` (a JSON string's value) stands for, or what is wrong with it.
    pub fn read(self, data: &str) -> Result<Vec<u8>, String> {
        match self {
            Formatter::Base64 => base64::read(data).map_err(or_plain_text),
            Formatter::Hex => hex::read(data).map_err(or_plain_text),
            Formatter::Utf8 => Ok(data.as_bytes().to_vec()),
            Formatter::Ascii => text::read_ascii(data),
            Formatter::Coap => coap::read(data),
        }
    }
}

/// The most likely cause of text that is neither Base64 nor hexadecimal, and what to do.
fn or_plain_text(cause: String) -> String {
    format!(
        "{cause}; for plain text set `formatter: utf8` on the Destination, or `\"Formatter\": \"utf8\"` in a message"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(formatter: Formatter, payload: &[u8]) -> String {
        let mut out = Vec::new();
        formatter.view(payload).unwrap().write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn known_answers() {
        assert_eq!(json(Formatter::Base64, b"\x01\x02\x03\x04"), "AQIDBA==");
        assert_eq!(json(Formatter::Hex, b"\x0a\xff"), "0AFF");
        assert_eq!(json(Formatter::Utf8, "a\"\\\n\u{1}é\u{2028}".as_bytes()), "a\"\\\n\u{1}é\u{2028}");
        assert_eq!(json(Formatter::Utf8, b"a\xffb"), "a\u{fffd}b");
        assert_eq!(json(Formatter::Ascii, b"a\"\xff\x00"), "a\"?\0");
        for formatter in [Formatter::Base64, Formatter::Hex, Formatter::Utf8, Formatter::Ascii] {
            assert_eq!(json(formatter, b""), "");
            assert_eq!(formatter.read(""), Ok(vec![]));
            assert_eq!(Formatter::from_name(formatter.as_str()), Some(formatter));
        }
        assert_eq!(Formatter::Hex.read("0aFf"), Ok(vec![0x0a, 0xff]));
    }

    #[test]
    fn what_is_refused() {
        for bad in ["AQIDBA", "AQIDBA=", "AQID\n", "A-_=", "!!!!", "AQIDBB=="] {
            assert!(Formatter::Base64.read(bad).is_err(), "{bad:?}");
        }
        for bad in ["0", "0x00", "zz", "00 11"] {
            assert!(Formatter::Hex.read(bad).is_err(), "{bad:?}");
        }
        assert!(Formatter::Ascii.read("é").is_err());
        for formatter in [Formatter::Base64, Formatter::Hex] {
            assert!(formatter.read("hello, world").unwrap_err().contains("formatter: utf8"));
        }
    }

    proptest! {
        #[test]
        fn binary_formatters_round_trip(payload: Vec<u8>) {
            for formatter in [Formatter::Base64, Formatter::Hex] {
                prop_assert_eq!(formatter.read(&json(formatter, &payload)), Ok(payload.clone()));
            }
        }

        #[test]
        fn text_round_trips(text: String) {
            prop_assert_eq!(Formatter::Utf8.read(&json(Formatter::Utf8, text.as_bytes())), Ok(text.into_bytes()));
        }

        #[test]
        fn reading_never_panics(text: String) {
            for formatter in Formatter::ALL {
                let _ = formatter.read(&text);
            }
        }
    }
}
