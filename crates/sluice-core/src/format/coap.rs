//! A CoAP message (RFC 7252) as a JSON object, which `Data` holds as text (`reference-service.md` section 3.4):
//! `{"Version":1,"Type":0,"Code":1,"MessageId":4711,"Token":"AQID","Method":"GET","Path":"/time","Options":[…]}`.
//!
//! `docs/reference/coap.md` is the description for users.

use crate::{
    coap::{Code, Draft, Kind, Message, OPTION_LIMIT, TOKEN_LIMIT},
    json,
};
use serde_json::{Map, Value};
use std::io::Write;

const URI_PATH: u16 = 11;
/// No datagram needs more text than this; more would only cost memory.
const TEXT_LIMIT: usize = 2 << 20;

/// Appends the JSON string. Everything in it is ASCII without backslashes, so only the quotes are escaped.
pub fn write(message: &Message<'_>, out: &mut Vec<u8>) {
    let _ = write!(
        out,
        r#""{{\"Version\":1,\"Type\":{},\"Code\":{},\"MessageId\":{},\"Token\":\""#,
        message.kind as u8, message.code.0, message.id
    );
    write_base64(message.token, out);
    if message.code.is_request() {
        if let Some(method) = message.code.method() {
            let _ = write!(out, r#"\",\"Method\":\"{method}"#);
        }
        out.extend_from_slice(br#"\",\"Path\":\""#);
        write_path(message, out);
    }
    out.extend_from_slice(br#"\",\"Options\":["#);
    for (nth, (number, value)) in message.options().enumerate() {
        let comma = if nth == 0 { "" } else { "," };
        let _ = write!(out, r#"{comma}{{\"Number\":{number},\"Value\":\""#);
        write_base64(value, out);
        out.extend_from_slice(br#"\"}"#);
    }
    out.push(b']');
    if !message.payload.is_empty() {
        out.extend_from_slice(br#",\"Payload\":\""#);
        write_base64(message.payload, out);
        out.extend_from_slice(br#"\""#);
    }
    out.extend_from_slice(br#"}""#);
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    base64_simd::STANDARD.encode_append(bytes, out);
}

/// The segments of Uri-Path as RFC 7252 section 6.5 puts them into a URI: `/` alone where there are none. What may not
/// stand in a segment is percent-encoded, so that `/` never comes from within one.
fn write_path(message: &Message<'_>, out: &mut Vec<u8>) {
    let mut segments = message.options().filter(|(number, _)| *number == URI_PATH).map(|(_, value)| value).peekable();
    if segments.peek().is_none() {
        out.push(b'/');
    }
    for segment in segments {
        out.push(b'/');
        for &byte in segment {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(byte),
                _ if b"-._~!$&'()*+,;=:@".contains(&byte) => out.push(byte),
                _ => drop(write!(out, "%{byte:02X}")),
            }
        }
    }
}

/// The message that a JSON object stands for, or which field of it is wrong.
pub fn read(data: &str) -> Result<Vec<u8>, String> {
    if data.len() > TEXT_LIMIT {
        return Err(format!("Data has more than {TEXT_LIMIT} bytes: no CoAP message is so large"));
    }
    let fields = match serde_json::from_str(data) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err("Data is text that holds no JSON object: write the CoAP message as one".to_owned()),
        Err(error) => {
            let (line, column) = json::place(data, &error);
            return Err(format!("Data is text that holds no JSON: line {line}, column {column} is wrong"));
        }
    };
    let fields = Fields(&fields);
    if !matches!(fields.number("Version", 255)?, None | Some(1)) {
        return Err("Version is not 1: leave it out".to_owned());
    }
    let draft = Draft {
        kind: fields.kind()?,
        code: fields.code()?,
        id: fields.number("MessageId", u16::MAX.into())?.ok_or_else(|| {
            "MessageId is missing: an acknowledgement has its request's, another message one of its own".to_owned()
        })? as u16,
        token: fields.base64("Token")?,
        options: fields.options()?,
        payload: fields.base64("Payload")?,
    };
    if draft.token.len() > TOKEN_LIMIT {
        return Err(format!("Token has more than {TOKEN_LIMIT} bytes"));
    }
    let contents = [
        ("Token", draft.token.is_empty()),
        ("Options", draft.options.is_empty()),
        ("Payload", draft.payload.is_empty()),
    ];
    if draft.code == Code::EMPTY
        && let Some((field, _)) = contents.iter().find(|(_, empty)| !empty)
    {
        return Err(format!("{field} is there, but Code is 0.00: such a message has no content"));
    }
    Ok(draft.encode())
}

/// An object of which any field may hold any value; null is none.
struct Fields<'v>(&'v Map<String, Value>);

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn number(&self, field: &str, most: u32) -> Result<Option<u32>, String> {
        self.get(field).map(|value| whole(value, most).ok_or_else(|| not_a_number(field, most))).transpose()
    }

    fn base64(&self, field: &str) -> Result<Vec<u8>, String> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(value) => value
                .as_str()
                .and_then(|text| base64_simd::STANDARD.decode_to_vec(text).ok())
                .ok_or_else(|| format!("{field} is not standard Base64 with padding (RFC 4648 section 4)")),
        }
    }

    fn kind(&self) -> Result<Kind, String> {
        let value = self.get("Type").ok_or("Type is missing: 0 (CON), 1 (NON), 2 (ACK) or 3 (RST)")?;
        let number = match value.as_str() {
            Some(name) => ["CON", "NON", "ACK", "RST"].iter().position(|known| known.eq_ignore_ascii_case(name)),
            None => whole(value, 3).map(|number| number as usize),
        };
        let kind = number.and_then(|number| Kind::from_number(number as u8));
        kind.ok_or_else(|| "Type is none of 0 (CON), 1 (NON), 2 (ACK), 3 (RST)".to_owned())
    }

    fn code(&self) -> Result<Code, String> {
        let value = self.get("Code").ok_or(r#"Code is missing: write it as "2.05""#)?;
        let code = match value.as_str() {
            Some(text) => dotted(text),
            None => whole(value, 255).map(|number| Code(number as u8)),
        };
        code.ok_or_else(|| {
            r#"Code is neither text such as "2.05" (classes 0 to 7, details 00 to 31) nor 0 to 255"#.to_owned()
        })
    }

    fn options(&self) -> Result<Vec<(u16, Vec<u8>)>, String> {
        let Some(value) = self.get("Options") else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or("Options is not a list")?;
        let option = |(nth, value): (usize, &Value)| {
            let Value::Object(fields) = value else { return Err(format!("Options[{nth}] is not an object")) };
            option(fields).map_err(|detail| format!("Options[{nth}].{detail}"))
        };
        list.iter().enumerate().map(option).collect()
    }
}

fn option(fields: &Map<String, Value>) -> Result<(u16, Vec<u8>), String> {
    let fields = Fields(fields);
    let number = fields.number("Number", u16::MAX.into())?.ok_or("Number is missing")?;
    let value = fields.base64("Value")?;
    match value.len() > OPTION_LIMIT {
        true => Err(format!("Value has more than {OPTION_LIMIT} bytes")),
        false => Ok((number as u16, value)),
    }
}

/// A whole number from 0 to `most`; some writers put `.0` behind it.
fn whole(value: &Value, most: u32) -> Option<u32> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    (0.0..=f64::from(most)).contains(&number).then_some(number as u32)
}

fn not_a_number(field: &str, most: u32) -> String {
    format!("{field} is not a whole number from 0 to {most}")
}

/// `c.dd` as RFC 7252 section 3 writes it.
fn dotted(text: &str) -> Option<Code> {
    let &[class, b'.', tens, ones] = text.as_bytes() else { return None };
    let digits = [class, tens, ones].map(|digit| digit.wrapping_sub(b'0'));
    digits.iter().all(|digit| *digit < 10).then_some(())?;
    Code::new(digits[0], digits[1] * 10 + digits[2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn shown(datagram: &[u8]) -> String {
        let mut out = Vec::new();
        write(&Message::parse(datagram).unwrap(), &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    fn object(datagram: &[u8]) -> Value {
        serde_json::from_str(&shown(datagram)).unwrap()
    }

    #[test]
    fn a_request() {
        let datagram = b"\x43\x01\x12\x67\x01\x02\x03\x60\x54time\xff\x01";
        let expected = json!({
            "Version": 1, "Type": 0, "Code": 1, "MessageId": 4711, "Token": "AQID", "Method": "GET", "Path": "/time",
            "Options": [{"Number": 6, "Value": ""}, {"Number": 11, "Value": "dGltZQ=="}], "Payload": "AQ==",
        });
        assert_eq!(object(datagram), expected);
        assert_eq!(read(&expected.to_string()), Ok(datagram.to_vec()));
    }

    #[test]
    fn empty_messages_and_responses_have_no_method_and_no_path() {
        let empty = json!({"Version": 1, "Type": 3, "Code": 0, "MessageId": 9, "Token": "", "Options": []});
        assert_eq!(object(b"\x70\x00\x00\x09"), empty);
        let response = json!({"Version": 1, "Type": 2, "Code": 69, "MessageId": 9, "Token": "", "Options": []});
        assert_eq!(object(b"\x60\x45\x00\x09"), response);
        let unknown = object(b"\x40\x1f\x00\x09");
        assert_eq!((&unknown["Path"], unknown.get("Method")), (&json!("/"), None));
    }

    #[test]
    fn methods_by_name() {
        let names = ["GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "iPATCH"];
        for (code, name) in (1u8..).zip(names) {
            assert_eq!(object(&[0x40, code, 0, 1])["Method"], name);
        }
    }

    #[test]
    fn a_path_tells_a_slash_within_a_segment_from_one_between_segments() {
        assert_eq!(object(b"\x40\x01\x00\x01\xb3a/b\x01c")["Path"], "/a%2Fb/c");
        assert_eq!(object(b"\x40\x01\x00\x01\xb5\xc3\xa9\"\\%\x00")["Path"], "/%C3%A9%22%5C%25/");
    }

    #[test]
    fn the_response_of_the_reference() {
        let data = r#"{"Type":2,"Code":"2.05","MessageId":4711,"Token":"AQID","Options":[{"Number":12,"Value":""}],"Payload":"b2s="}"#;
        assert_eq!(read(data), Ok(b"\x63\x45\x12\x67\x01\x02\x03\xc0\xffok".to_vec()));
    }

    #[test]
    fn an_empty_acknowledgement_is_4_bytes() {
        for data in [
            r#"{"Type":2,"Code":"0.00","MessageId":258,"Token":""}"#,
            r#"{"Type":"ack","Code":0,"MessageId":258,"Options":[],"Payload":null}"#,
            r#"{"Version":1,"Type":2.0,"Code":"0.00","MessageId":258.0,"Token":null,"Options":null,"Payload":"","Other":[1]}"#,
        ] {
            assert_eq!(read(data), Ok(vec![0x60, 0, 1, 2]), "{data}");
        }
    }

    #[test]
    fn options_in_any_order() {
        let data = r#"{"Type":1,"Code":"0.03","MessageId":1,"Options":[{"Number":65535},{"Number":11,"Value":"Yg=="},
            {"Number":11,"Value":"YQ=="},{"Number":4,"Value":null}]}"#;
        assert_eq!(read(data), Ok(b"\x50\x03\x00\x01\x40\x71b\x01a\xe0\xfe\xe7".to_vec()));
    }

    #[test]
    fn what_is_refused_names_its_field() {
        let good = json!({"Type": 2, "Code": "2.05", "MessageId": 1, "Token": "AQ==", "Payload": "AQ=="});
        for (field, value) in [
            ("Version", json!(2)),
            ("Version", json!("1")),
            ("Type", json!(4)),
            ("Type", json!(-1)),
            ("Type", json!("2")),
            ("Type", json!(null)),
            ("Code", json!("2.5")),
            ("Code", json!("8.00")),
            ("Code", json!("2.32")),
            ("Code", json!("2,05")),
            ("Code", json!("-.05")),
            ("Code", json!(2.05)),
            ("Code", json!(404)),
            ("Code", json!([2, 5])),
            ("MessageId", json!(65_536)),
            ("MessageId", json!("1")),
            ("MessageId", json!(1.5)),
            ("MessageId", json!(null)),
            ("Token", json!("AQIDBAUGBwgJ")),
            ("Token", json!("AQ")),
            ("Token", json!(1)),
            ("Payload", json!({"a": 1})),
            ("Payload", json!("A-_=")),
            ("Options", json!({"12": ""})),
            ("Options", json!("")),
            ("Options[0]", json!([null])),
            ("Options[1]", json!([{"Number": 1}, 12])),
            ("Options[0].Number", json!([{"Value": ""}])),
            ("Options[0].Number", json!([{"Number": 65_536}])),
            ("Options[0].Number", json!([{"Number": "Uri-Path"}])),
            ("Options[1].Value", json!([{"Number": 1}, {"Number": 1, "Value": 5}])),
            ("Options[0].Value", json!([{"Number": 1, "Value": "A".repeat(87_744)}])),
        ] {
            let mut bad = good.clone();
            bad[field.split('[').next().unwrap()] = value;
            let detail = read(&bad.to_string()).expect_err(&bad.to_string());
            assert!(detail.starts_with(&format!("{field} ")), "{detail}");
        }
        for field in ["Token", "Payload", "Options"] {
            let mut content = json!({"Type": 2, "Code": "0.00", "MessageId": 1});
            content[field] = if field == "Options" { json!([{"Number": 12}]) } else { json!("AQ==") };
            assert!(read(&content.to_string()).expect_err(field).starts_with(field));
        }
    }

    #[test]
    fn text_that_holds_no_object() {
        for bad in ["", "aGk=", "null", "[1]", "\"{}\"", "{", "{} {}", &"[".repeat(100_000), &" ".repeat(3 << 20)] {
            let detail = read(bad).expect_err("no object");
            assert!(detail.starts_with("Data "), "{detail}");
            assert!(detail.len() < 100);
        }
    }

    proptest! {
        #[test]
        fn encode_after_decode_is_the_identity(kind in 0..4u8, token in 0..9u8, code: u8, id: u16, rest: Vec<u8>) {
            let datagram = [&[0x40 | kind << 4 | token, code][..], &id.to_be_bytes(), &rest].concat();
            if Message::parse(&datagram).is_ok() {
                prop_assert_eq!(read(&shown(&datagram)), Ok(datagram));
            }
        }

        #[test]
        fn decode_after_encode_is_the_identity(
            kind in 0..4u8,
            code in 1..=255u8,
            id: u16,
            token in prop::collection::vec(any::<u8>(), 0..=8),
            mut options in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            payload: Vec<u8>,
        ) {
            let text = |bytes: &[u8]| base64_simd::STANDARD.encode_to_string(bytes);
            let listed = |options: &[(u16, Vec<u8>)]| -> Value {
                options.iter().map(|(number, value)| json!({"Number": number, "Value": text(value)})).collect()
            };
            let dotted = format!("{}.{:02}", code >> 5, code & 31);
            let mut sent = json!({"Type": kind, "Code": dotted, "MessageId": id, "Token": text(&token),
                                  "Options": listed(&options), "Payload": text(&payload)});
            let mut got = object(&read(&sent.to_string()).unwrap());
            options.sort_by_key(|(number, _)| *number);
            sent["Options"] = listed(&options);
            sent["Code"] = json!(code);
            sent["Version"] = json!(1);
            for known in ["Method", "Path"] {
                got.as_object_mut().unwrap().remove(known);
            }
            if payload.is_empty() {
                got["Payload"] = json!("");
            }
            prop_assert_eq!(got, sent);
        }
    }
}
