//! RFC 3339 times: the same answer as chrono's, for every text.

use chrono::DateTime;
use sluice_core::time::{parse_rfc3339, write_iso8601};

/// Any text as a time.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let ours = parse_rfc3339(&text);
    // Chrono also takes U+2212 as a minus sign (ISO 8601); RFC 3339 is ASCII.
    let theirs = if text.is_ascii() { DateTime::parse_from_rfc3339(&text).ok() } else { None };
    // We have no times before 1970.
    let theirs = theirs.and_then(|time| u64::try_from(time.timestamp_millis()).ok());
    assert_eq!(ours, theirs, "{text:?}");
    if let Some(unix_ms) = ours
        && unix_ms < 253_402_300_800_000
    {
        let written = write_iso8601(unix_ms);
        let written = std::str::from_utf8(&written).expect("ASCII");
        assert_eq!(parse_rfc3339(written), Some(unix_ms), "{written}");
    }
}
