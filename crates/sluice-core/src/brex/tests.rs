use super::*;
use crate::format::Formatter;
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    Formatter::Hex.read(&text.replace(' ', "")).unwrap()
}

/// What the expression says of a packet in hex, as text; "null" for null.
fn says(text: &str, packet: &str) -> String {
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let packet = hex(packet);
    let value = expression.evaluate(&packet, &mut Budget::default());
    value.render(Formatter::Hex).map_or("null".to_string(), |text| text.into_owned())
}

#[track_caller]
fn all(cases: &[(&str, &str, &str)]) {
    for (text, packet, expected) in cases {
        assert_eq!(says(text, packet), *expected, "{text} of {packet}");
    }
}

#[test]
fn expressions_that_are_in_use() {
    let route = "[0] == 0xFE ? [3:5] : ([0] == 0xFD ? [5:7] : 0xFFFF)";
    let route_of_a_readme = "[0] = 0xFE ? [3:5] : ([0] = 0xFD ? [5:7] : 0xFFFF)";
    let filter = "[0] == 0xFD && [7] == 0x18 && [8] == 0x00 && [9] == 0x00 ?? 0x00";
    let v2 = "FD 1E 0000 04 01C2 18 00 00 11223344 55667788";
    all(&[
        (route, "FE0900A2C200", "A2C2"),
        (route_of_a_readme, "FE0900A2C200", "A2C2"),
        (route, v2, "01C2"),
        (route, "00", "FFFF"),
        (route, "", "FFFF"),
        ("[0:1]", "0A0B", "0A"),
        ("[0:4]", "01020304FF", "01020304"),
        (filter, v2, "true"),
        (filter, "FD 1E 0000 04 01C2 18 00", "00"),
        (filter, "FE", "false"),
        ("[5:7]", v2, "01C2"),
        ("i32le[18:22]", &format!("{}FEFFFFFF", "00".repeat(18)), "-2"),
        ("u16le[34:36]", &format!("{}3412", "00".repeat(34)), "4660"),
        ("u8[39]", &format!("{}FF", "00".repeat(39)), "255"),
        ("utf8[0:2]", "4869FF", "Hi"),
        ("i16le[2:4]", "0000FFFF", "-1"),
        ("utf8[8:10]", &format!("{}4F4B", "00".repeat(8)), "OK"),
    ]);
    let (rest, packet) = (Expression::parse("[1:]").unwrap(), hex("00 010203"));
    assert_eq!(rest.evaluate(&packet, &mut Budget::default()).render(Formatter::Base64).unwrap(), "AQID");
    let (filter, mut budget) = (Expression::parse(filter).unwrap(), Budget::default());
    assert!(filter.passes(&hex(v2), &mut budget));
    assert!(!filter.passes(&hex("FD 1E 0000 04 01C2 18 00"), &mut budget), "a short packet");
}

#[test]
fn ranges() {
    all(&[
        ("[1]", "0A0B0C", "0B"),
        ("[1,2]", "0A0B0C", "0B0C"),
        ("[1:2]", "0A0B0C", "0B"),
        ("[1:]", "0A0B0C", "0B0C"),
        ("[:2]", "0A0B0C", "0A0B"),
        ("[:]", "0A0B0C", "0A0B0C"),
        ("[]", "0A0B0C", ""),
        ("[:]", "", ""),
        ("[3:]", "0A0B0C", ""),
        ("[4:]", "0A0B0C", "null"),
        ("[3]", "0A0B0C", "null"),
        ("[2:4]", "0A0B0C", "null"),
        ("[2:1]", "0A0B0C", "null"),
        ("[2,2]", "0A0B0C", "null"),
        ("[0-1]", "0A0B0C", "null"),
        ("[-1:]", "0A0B0C", "null"),
        ("[99999999999999999999]", "0A0B0C", "null"),
        ("[1, 18446744073709551615]", "0A0B0C", "null"),
        ("[u8[0] + 1]", "01020304", "03"),
        ("[[0]:[1]]", "01030304", "0303"),
        ("[u8[0] * 2 : ]", "01AABB", "BB"),
        ("[u8[0], u8[1]]", "0202AABB", "AABB"),
        ("[[9] ?? 1]", "0A0B", "0B"),
        ("[([0] == 1 ? 1 : 2)]", "01BB", "BB"),
        ("[[0] == 1 ? 0 : 1 : 2]", "01BB", "01BB"),
    ]);
}

#[test]
fn typed_reads() {
    all(&[
        ("u16[0]", "1234", "4660"),
        ("u16be[0:2]", "1234", "4660"),
        ("u16le[0, 2]", "3412", "4660"),
        ("i8[0]", "80", "-128"),
        ("i64[0]", "8000000000000000", "-9223372036854775808"),
        ("u64le[0]", "FFFFFFFFFFFFFFFF", "18446744073709551615"),
        ("f32[0]", "3FC00000", "1.5"),
        ("f64le[0]", "000000000000F83F", "1.5"),
        ("f32[0]", "7FC00000", "null"),
        ("u32[0:3]", "01020304", "null"),
        ("u16[0:]", "010203", "258"),
        ("u16[1]", "0102", "null"),
        ("utf8[0:3]", "41FF42", "A\u{fffd}B"),
        ("utf8[1]", "4142", "B"),
        ("hex[0:2]", "0aff", "0AFF"),
        ("utf8[]", "00", ""),
        ("u8[]", "00", "null"),
    ]);
}

#[test]
fn arithmetic() {
    all(&[
        ("1 + 2 * 3", "", "7"),
        ("(1 + 2) * 3", "", "9"),
        ("7 / 2", "", "3"),
        ("7 / 2.0", "", "3.5"),
        ("i32le[0] / 1e7", "00E1F505", "10"),
        ("-7 % 3", "", "-1"),
        ("1 / 0", "", "null"),
        ("1.0 / 0", "", "null"),
        ("[0] & 0x0F", "45", "5"),
        ("([0] & 0x0F) << 2", "45", "20"),
        ("[0] >> 4 == 4", "45", "true"),
        ("1 << 200", "", "null"),
        ("1 << 126", "", "85070591730234615865843651857942052864"),
        ("1 << 127", "", "null"),
        ("0 << 200", "", "0"),
        ("1 << -1", "", "null"),
        ("1 >> 200", "", "0"),
        ("-1 >> 200", "", "-1"),
        ("1 >> -1", "", "null"),
        ("- [0]", "05", "-5"),
        ("2 - -3", "", "5"),
        ("[0:2] + 1", "00FF", "256"),
        ("[0:16] + 1", "00000000000000000000000000000001", "null"),
        ("utf8[0] + 1", "31", "null"),
        ("[9] + 1", "31", "null"),
        ("170141183460469231731687303715884105727 + 1", "", "null"),
    ]);
}

#[test]
fn whole_numbers_and_others_are_compared_to_the_last_bit() {
    all(&[
        ("u64[0] == 9007199254740992.0", "0020000000000001", "false"),
        ("u64[0] > 9007199254740992.0", "0020000000000001", "true"),
        ("9007199254740992.0 < u64[0]", "0020000000000001", "true"),
        ("u64[0] == 9007199254740992.0", "0020000000000000", "true"),
        ("-1 > -1.5", "", "true"),
        ("-2 < -1.5", "", "true"),
        ("1 < 1.5", "", "true"),
        ("0 == -0.0", "", "true"),
        ("170141183460469231731687303715884105727 < 1e300", "", "true"),
        ("170141183460469231731687303715884105727 > -1e300", "", "true"),
    ]);
}

#[test]
fn comparisons_and_logic() {
    all(&[
        ("[0:2] == 0xA2C2", "A2C2", "true"),
        ("[0:2] == 0xa2c2", "A2C2", "true"),
        ("[0] == 0x00FE", "FE", "true"),
        ("[0] == 254", "FE", "true"),
        ("[0] != 0xFE", "FE", "false"),
        ("[0:2] < 0x0100", "00FF", "true"),
        ("[0:2] >= 255", "00FF", "true"),
        ("[0:20] > 5", "01000000000000000000000000000000000000FF", "null"),
        ("[0:20] > 0x05", "01000000000000000000000000000000000000FF", "true"),
        ("[] == 0x00", "", "false"),
        ("[] == []", "", "true"),
        ("1 == 1.0", "", "true"),
        ("u8[0] == [0]", "07", "true"),
        ("utf8[0:3] == \"GET\"", "474554", "true"),
        ("utf8[0:3] == 'PUT'", "474554", "false"),
        ("[0:3] == \"GET\"", "474554", "true"),
        ("hex[0:2] == \"a2C2\"", "A2C2", "true"),
        ("\"a2C2\" = hex[0:2]", "A2C2", "true"),
        ("utf8[0] == 1", "31", "null"),
        ("[5] == 0x00", "00", "null"),
        ("[5] != 0x00", "00", "null"),
        ("![0]", "00", "true"),
        ("!!\"x\"", "", "true"),
        ("![5]", "00", "null"),
        ("true && [0]", "01", "true"),
        ("[5] && false", "00", "false"),
        ("false && [5]", "00", "false"),
        ("[5] && true", "00", "null"),
        ("[5] || true", "00", "true"),
        ("[5] || false", "00", "null"),
        ("true || [5]", "00", "true"),
        ("false || [0]", "00", "false"),
        ("[5] ?? [6] ?? 7", "00", "7"),
        ("0 ?? 7", "", "0"),
        ("null ?? 7", "", "7"),
        ("[5] ? 1 : 2", "00", "2"),
        ("[0] == 1 ? 1 : [0] == 2 ? 2 : [0] == 3 ? 3 : 4", "03", "3"),
        ("1 + 1 == 2 && 2 < 3 || false", "", "true"),
        ("0xFFFF", "", "FFFF"),
        ("0xF", "", "0F"),
    ]);
}

#[test]
fn pipes() {
    all(&[
        ("[2:] | [0]", "0A0B0C", "0C"),
        ("[1:] | [1:] | [0]", "0A0B0C", "0C"),
        ("[1:] | u8[0] + u8[1]", "0A0B0C", "23"),
        ("([1:] | [0]) == [1]", "0A0B0C", "true"),
        ("[9:] | 1", "0A", "null"),
        ("([9:] | 1) ?? 2", "0A", "2"),
        ("u8[0] | [0]", "0A", "null"),
        ("utf8[1:] | [0]", "0A0B", "0B"),
        ("0x0102 | [1]", "", "02"),
        ("[1, [0]] | utf8[:]", "024869FF", "Hi"),
        ("[[1:] | [0]]", "000900", "null"),
        ("[([1:] | [0])]", "000100", "01"),
        ("[0] == 1 ? [1:] | [0] : 0", "0109", "09"),
    ]);
}

#[test]
fn errors_point_at_the_column() {
    for (text, column, cause) in [
        ("", 1, "empty"),
        ("  ", 1, "empty"),
        ("[0] == ", 8, "ends here"),
        ("[0", 3, "ends here"),
        ("[0] == 0xFG", 8, "no hex literal"),
        ("[0] == 0x", 8, "no hex literal"),
        ("u17[0]", 1, "no type"),
        ("f16[0]", 1, "no type"),
        ("u16le", 6, "reads nothing"),
        ("[0] ? 1", 8, "ends here"),
        ("[0] 1", 5, "not expected"),
        ("(1", 3, "ends here"),
        ("1)", 2, "not expected"),
        ("é", 1, "no meaning"),
        ("\"é\" == $", 8, "no meaning"),
        ("\"abc", 1, "does not end"),
        ("12ab", 1, "no number"),
        ("1e999", 1, "no number"),
        ("[1,2,3]", 5, "not expected"),
        ("[,]", 2, "not expected"),
        ("GET", 1, "no type"),
        ("a[0]", 1, "no type"),
        ("é[0]", 1, "no meaning"),
    ] {
        let error = Expression::parse(text).unwrap_err();
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.cause.contains(cause), "{text}: {error}");
        assert!(!error.fix.is_empty());
    }
    for deep in
        ["(".repeat(2_000), "[".repeat(4_000), "!".repeat(4_000), format!("1{}", "|1".repeat(2_000)), "[0:".repeat(900)]
    {
        let _ = Expression::parse(&deep);
    }
    assert!(Expression::parse(&"(".repeat(40)).unwrap_err().cause.contains("inside each other"));
    assert!(Expression::parse(&format!("1{}", " ".repeat(TEXT_LIMIT))).unwrap_err().cause.contains("characters"));
    let long = format!("1{}", "+1".repeat(2_000));
    assert_eq!(says(&long, ""), "2001");
}

#[test]
fn a_packet_has_a_budget() {
    let packet = vec![7; BYTE_LIMIT / 2 + 1];
    let same = Expression::parse("[:] == [:]").unwrap();
    let mut budget = Budget::default();
    assert_eq!(same.evaluate(&packet, &mut budget), Value::Bool(true));
    assert!(!budget.exceeded());
    assert_eq!(same.evaluate(&packet, &mut budget), Value::Null, "64 KiB in all");
    assert!(budget.exceeded());
    let add = Expression::parse(&format!("1{}", "+1".repeat(2_000))).unwrap();
    let mut budget = Budget::default();
    assert_eq!(add.evaluate(&[], &mut budget), Value::Int(2_001));
    assert_eq!(add.evaluate(&[], &mut budget), Value::Int(2_001));
    assert_eq!(add.evaluate(&[], &mut budget), Value::Null, "4,001 steps each");
    assert!(budget.exceeded());
    let zeros = vec![0; 60_000];
    let any = Expression::parse("[:] || [:] || true").unwrap();
    assert_eq!(any.evaluate(&zeros, &mut Budget::default()), Value::Null);
}

#[test]
fn a_trace_shows_each_part() {
    let expression = Expression::parse("[0] == 0xFE ? [u8[1] + 1:] : 0xFFFF").unwrap();
    let packet = hex("FE01A2C2");
    let mut steps = Vec::new();
    let value = expression.trace(&packet, &mut Budget::default(), |text, value| {
        steps.push((text, value.render(Formatter::Hex).unwrap().into_owned()));
    });
    assert_eq!(value, Value::Bytes(&[0xA2, 0xC2]));
    let steps: Vec<_> = steps.iter().map(|(text, value)| (*text, value.as_str())).collect();
    assert_eq!(
        steps,
        [
            ("[0]", "FE"),
            ("0xFE", "FE"),
            ("[0] == 0xFE", "true"),
            ("[1]", "01"),
            ("u8[1]", "1"),
            ("1", "1"),
            ("u8[1] + 1", "2"),
            ("[u8[1] + 1:]", "A2C2"),
        ]
    );
}

/// Texts that are mostly expressions.
fn texts() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("[:]".to_string()),
        (0u32..70).prop_map(|n| format!("[{n}]")),
        (0u32..70, 0u32..70).prop_map(|(a, b)| format!("u16le[{a}:{b}]")),
        (0u32..70, 0u32..9).prop_map(|(a, b)| format!("utf8[{a},{b}]")),
        any::<u32>().prop_map(|n| n.to_string()),
        any::<u32>().prop_map(|n| format!("0x{n:X}")),
        any::<f32>().prop_map(|n| format!("{:e}", n.abs())),
        Just("null".to_string()),
    ];
    leaf.prop_recursive(6, 60, 3, |inner| {
        let operators = ["+", "-", "*", "/", "%", "&", "<<", ">>", "==", "!=", "<", ">=", "&&", "||", "??", "|", "="];
        prop_oneof![
            (inner.clone(), prop::sample::select(operators.to_vec()), inner.clone())
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("{a} ? {b} : {c}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("!{a}")),
            inner.clone().prop_map(|a| format!("[{a}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("i32[{a}:{b}]")),
            inner.prop_map(|a| format!("-{a}")),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(text in texts(), packet in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(expression) = Expression::parse(&text) {
            let mut budget = Budget::default();
            let value = expression.evaluate(&packet, &mut budget);
            let traced = expression.trace(&packet, &mut Budget::default(), |_, value| drop(value.render(Formatter::Utf8)));
            prop_assert_eq!(value, traced);
            prop_assert_eq!(value.is_null(), value.render(Formatter::Ascii).is_none());
        }
    }

    #[test]
    fn any_text_is_an_expression_or_an_error(text in "[\\[\\]():,?|&!=<>0-9a-fxul+*/. \"-]{0,60}", other: String) {
        for text in [text, other] {
            if let Err(error) = Expression::parse(&text) {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.column));
            }
        }
    }
}
