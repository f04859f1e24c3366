//! Time as the core sees it: handed in, never read.

/// One moment, on both clocks that a gateway needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since an arbitrary origin; never goes back. Deadlines and ages use it.
    pub mono: u64,
    /// Milliseconds since the Unix epoch. Time stamps and expiry use it.
    pub unix_ms: u64,
}

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Seconds as nanoseconds; negative and not-a-number count as zero, far futures saturate.
pub fn nanos(seconds: f64) -> u64 {
    (seconds.max(0.0) * SECOND as f64) as u64
}

/// Length of [`write_iso8601`]'s output.
pub const ISO8601_LEN: usize = 24;

/// `2026-06-09T10:00:00.123Z`: ISO 8601 in UTC with milliseconds, as RequestPacket's `ReceivedAt` (contract section 2).
pub fn write_iso8601(unix_ms: u64) -> [u8; ISO8601_LEN] {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days as i64);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    put(&mut out[0..4], year as u64);
    put(&mut out[5..7], month);
    put(&mut out[8..10], day);
    put(&mut out[11..13], ms / 3_600_000);
    put(&mut out[14..16], ms / 60_000 % 60);
    put(&mut out[17..19], ms / 1_000 % 60);
    put(&mut out[20..23], ms % 1_000);
    out
}

fn put(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Milliseconds since the Unix epoch of an RFC 3339 date-time (`2026-06-09T10:00:00Z`, any offset, any fraction).
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = &text[range];
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, wanted)| bytes[at] != wanted) || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if bytes[at] == b'.' {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for (i, digit) in bytes[at + 1..at + 1 + digits.min(3)].iter().enumerate() {
            millis += i64::from(digit - b'0') * [100, 10, 1][i];
        }
        at += 1 + digits;
    }
    let offset_minutes = match bytes.get(at)? {
        b'Z' | b'z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 && bytes[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    u64::try_from((seconds - offset_minutes * 60) * 1_000 + millis).ok()
}

// Days and dates of the proleptic Gregorian calendar, in 400-year eras that start on 1 March, so that a leap day ends
// its year.
const ERA_DAYS: i64 = 146_097;
const EPOCH_FROM_ERA_ZERO: i64 = 719_468;

fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let days = days + EPOCH_FROM_ERA_ZERO;
    let era = days.div_euclid(ERA_DAYS);
    let day_of_era = days.rem_euclid(ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u64, day as u64)
}

fn days_in(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next, 1) - days_from_civil(year, month, 1)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    era * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH_FROM_ERA_ZERO
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn iso(unix_ms: u64) -> String {
        String::from_utf8(write_iso8601(unix_ms).to_vec()).unwrap()
    }

    #[test]
    fn known_moments() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(1_780_999_200_123), "2026-06-09T10:00:00.123Z");
        assert_eq!(parse_rfc3339("2026-06-09T12:00:00.1239+02:00"), Some(1_780_999_200_123));
        assert_eq!(parse_rfc3339("2026-06-09T10:00:00Z"), Some(1_780_999_200_000));
    }

    #[test]
    fn what_is_not_a_time() {
        for text in [
            "",
            "now",
            "2026-06-09",
            "2026-13-09T10:00:00Z",
            "2026-02-30T10:00:00Z",
            "2026-06-09T10:00:00",
            "2026-06-09T10:00:00.Z",
            "2026-06-09T10:00:00+2:00",
            "2026-06-09T10:00:00Zx",
            "２026-06-09T10:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(unix_ms in 0u64..4_102_444_800_000) {
            prop_assert_eq!(parse_rfc3339(&iso(unix_ms)), Some(unix_ms));
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = parse_rfc3339(&text);
        }
    }
}
