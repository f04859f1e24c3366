//! Text formatters.

pub fn write_utf8(payload: &[u8], out: &mut Vec<u8>) {
    match str::from_utf8(payload) {
        Ok(text) => quote(text, out),
        Err(_) => quote(&String::from_utf8_lossy(payload), out),
    }
}

pub fn write_ascii(payload: &[u8], out: &mut Vec<u8>) {
    match str::from_utf8(payload) {
        Ok(text) if text.is_ascii() => quote(text, out),
        _ => {
            let shown = |&byte: &u8| if byte.is_ascii() { char::from(byte) } else { '?' };
            quote(&payload.iter().map(shown).collect::<String>(), out);
        }
    }
}

pub fn read_ascii(data: &str) -> Result<Vec<u8>, String> {
    match data.char_indices().find(|(_, c)| !c.is_ascii()) {
        None => Ok(data.as_bytes().to_vec()),
        Some((at, c)) => Err(format!("Data is not ASCII: {c:?} at byte {at}")),
    }
}

/// Appends `text` as a JSON string (RFC 8259 section 7). What lies between two escapes is copied at once.
fn quote(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = next_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Where the first quotation mark, reverse solidus or control character is.
#[inline]
fn next_escape(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let found = escapes(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(place * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')?;
    Some(words.len() * 8 + at)
}

/// Eight bytes at once: the lowest bit that is set belongs to the first byte that must be escaped, none: there is none.
/// A borrow can set bits above that one, never below.
#[inline]
fn escapes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | equal(b'"') | equal(b'\\')) & (ONES * 0x80)
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        8 => b'b',
        12 => b'f',
        _ => {
            let [high, low] = [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_are_written_as_by_the_library(text in "[a-z \"\\\\\\x00-\\x1f\u{7f}\u{e9}\u{1f600}]{0,200}") {
            let mut out = Vec::new();
            quote(&text, &mut out);
            prop_assert_eq!(out, serde_json::to_vec(&text).unwrap());
        }
    }

    #[test]
    fn every_byte_at_every_place_of_a_word() {
        for byte in 0..0x80 {
            for at in 0..20 {
                let text = format!("{}{}{}", "x".repeat(at), char::from(byte), "y".repeat(20));
                let mut out = Vec::new();
                quote(&text, &mut out);
                assert_eq!(out, serde_json::to_vec(&text).unwrap());
            }
        }
    }
}
