//! Text formatters.

use std::borrow::Cow;

pub fn write_utf8(payload: &[u8], out: &mut Vec<u8>) {
    quote(&String::from_utf8_lossy(payload), out);
}

pub fn write_ascii(payload: &[u8], out: &mut Vec<u8>) {
    let text: Cow<str> = match payload.is_ascii() {
        true => String::from_utf8_lossy(payload),
        false => payload.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect(),
    };
    quote(&text, out);
}

pub fn read_ascii(data: &str) -> Result<Vec<u8>, String> {
    match data.char_indices().find(|(_, c)| !c.is_ascii()) {
        None => Ok(data.as_bytes().to_vec()),
        Some((at, c)) => Err(format!("Data is not ASCII: {c:?} at byte {at}")),
    }
}

fn quote(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory cannot fail");
}
