//! Where a JSON text is wrong.

/// Line and column of an error in `text`, both from 1 and in characters. (The library counts bytes, and 0 at the start.)
pub fn place(text: &str, error: &serde_json::Error) -> (usize, usize) {
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let continues = |byte: &&u8| **byte & 0xc0 == 0x80;
    let more = line.as_bytes().iter().take(error.column()).filter(continues).count();
    (error.line().max(1), (error.column() - more).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn columns_are_characters() {
        for (text, expected) in [
            ("", (1, 1)),
            ("{\"a\":1, x}", (1, 9)),
            ("{\"\u{e9}\":1, x}", (1, 9)),
            ("{\n \"\u{20ac}\": \"\u{1f600}\" x}", (2, 11)),
            ("{\"a\":1", (1, 6)),
        ] {
            let error = serde_json::from_str::<Value>(text).unwrap_err();
            assert_eq!(place(text, &error), expected, "{text}");
        }
    }
}
