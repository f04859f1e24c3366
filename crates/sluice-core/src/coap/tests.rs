//! Each way in which a message can be malformed, by name; every other message comes back to the byte.

use super::*;
use proptest::prelude::*;

/// A confirmable GET with Message ID 0x1234 and these bytes behind it.
fn get(token_length: u8, rest: &[u8]) -> Vec<u8> {
    [&[0x40 | token_length, 1, 0x12, 0x34], rest].concat()
}

fn refused(datagram: &[u8]) -> Dropped {
    Message::parse(datagram).expect_err("malformed")
}

#[test]
fn shorter_than_a_header() {
    for length in 0..4 {
        assert_eq!(refused(&[0x40, 1, 0, 0][..length]), Dropped::CoapTruncated);
    }
}

#[test]
fn unknown_version() {
    for version in [0u8, 2, 3] {
        assert_eq!(refused(&[version << 6, 1, 0, 1]), Dropped::CoapVersion);
    }
}

#[test]
fn payload_marker_with_nothing_behind_it() {
    assert_eq!(refused(&get(0, &[0xff])), Dropped::CoapNoPayload);
    assert_eq!(refused(&get(1, &[7, 0xb1, b'a', 0xff])), Dropped::CoapNoPayload);
}

#[test]
fn code_0_00_with_more_than_4_bytes() {
    for kind in 0..4u8 {
        let first = 0x40 | kind << 4;
        assert!(Message::parse(&[first, 0, 0, 1]).is_ok());
        assert_eq!(refused(&[first, 0, 0, 1, 0xff, 1]), Dropped::CoapEmptyCode);
        assert_eq!(refused(&[first | 1, 0, 0, 1, 9]), Dropped::CoapEmptyCode);
        assert_eq!(refused(&[first | 1, 0, 0, 1]), Dropped::CoapEmptyCode);
    }
}

#[test]
fn truncated_extended_delta() {
    assert_eq!(refused(&get(0, &[0xd0])), Dropped::CoapTruncated);
    assert_eq!(refused(&get(0, &[0xe0])), Dropped::CoapTruncated);
    assert_eq!(refused(&get(0, &[0xe0, 1])), Dropped::CoapTruncated);
}

#[test]
fn truncated_extended_length() {
    assert_eq!(refused(&get(0, &[0x0d])), Dropped::CoapTruncated);
    assert_eq!(refused(&get(0, &[0x0e, 1])), Dropped::CoapTruncated);
    assert_eq!(refused(&get(0, &[0xdd, 1])), Dropped::CoapTruncated);
}

#[test]
fn value_beyond_the_end() {
    assert_eq!(refused(&get(0, &[0xb2, b'a'])), Dropped::CoapTruncated);
    assert_eq!(refused(&get(0, &[0x0d, 0, 1])), Dropped::CoapTruncated);
}

#[test]
fn token_beyond_the_end() {
    assert_eq!(refused(&get(3, &[1, 2])), Dropped::CoapTruncated);
}

#[test]
fn delta_15() {
    for length in 0..15 {
        assert_eq!(refused(&get(0, &[0xf0 | length, 0, 0])), Dropped::CoapOptionDelta);
    }
}

#[test]
fn length_15() {
    for delta in 0..15 {
        assert_eq!(refused(&get(0, &[delta << 4 | 15, 0, 0, 0, 0])), Dropped::CoapOptionLength);
    }
}

#[test]
fn token_length_9_to_15() {
    for length in 9..16 {
        assert_eq!(refused(&get(length, &[0; 400])), Dropped::CoapTokenLength);
    }
    assert_eq!(Message::parse(&get(8, &[7; 8])).unwrap().token, [7; 8]);
}

#[test]
fn option_number_overflow() {
    // 65535 = 269 + 65266
    let largest = [0xe0, 0xfe, 0xf2];
    let parsed = get(0, &largest);
    assert_eq!(Message::parse(&parsed).unwrap().options().collect::<Vec<_>>(), [(65_535, &b""[..])]);
    assert_eq!(refused(&get(0, &[0xe0, 0xfe, 0xf3])), Dropped::CoapOptionNumber);
    assert_eq!(refused(&get(0, &[&largest[..], &[0x10]].concat())), Dropped::CoapOptionNumber);
    assert!(Message::parse(&get(0, &[&largest[..], &[0x00]].concat())).is_ok());
}

#[test]
fn every_part_of_a_message() {
    // POST /time/zone?q, with a payload that has a payload marker in it
    let datagram = get(2, b"\xaa\xbb\xb4time\x04zone\x41q\xff\xffhi");
    let message = Message::parse(&datagram).unwrap();
    assert_eq!((message.kind, message.code, message.id), (Kind::Confirmable, Code(1), 0x1234));
    assert_eq!((message.token, message.payload), (&b"\xaa\xbb"[..], &b"\xffhi"[..]));
    let options: Vec<_> = message.options().collect();
    assert_eq!(options, [(11, &b"time"[..]), (11, b"zone"), (15, b"q")]);
}

#[test]
fn an_empty_message_is_4_bytes() {
    let draft = Draft {
        kind: Kind::Acknowledgement,
        code: Code::EMPTY,
        id: 0xabcd,
        token: vec![],
        options: vec![],
        payload: vec![],
    };
    assert_eq!(draft.encode(), [0x60, 0, 0xab, 0xcd]);
}

#[test]
fn options_are_sorted_and_repeated_ones_keep_their_order() {
    let options = [(60, "s"), (11, "b"), (4, ""), (11, "a"), (11, "b")];
    let draft = Draft {
        kind: Kind::NonConfirmable,
        code: Code::new(2, 5).unwrap(),
        id: 1,
        token: vec![],
        options: options.iter().map(|(number, value)| (*number, value.as_bytes().to_vec())).collect(),
        payload: vec![],
    };
    assert_eq!(draft.encode(), b"\x50\x45\x00\x01\x40\x71b\x01a\x01b\xd1\x24s");
}

fn drafts() -> impl Strategy<Value = Draft> {
    let sizes = prop_oneof![0..16usize, 250..300usize, Just(65_804usize)];
    let option = (any::<u16>(), sizes, any::<u8>()).prop_map(|(number, size, byte)| (number, vec![byte; size]));
    let near = prop_oneof![Just(0u16), 0..30u16, 255..300u16, any::<u16>()];
    let options = prop::collection::vec((near, option).prop_map(|(near, (_, value))| (near, value)), 0..6);
    (0..4u8, any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..=8), options, any::<Vec<u8>>()).prop_map(
        |(kind, code, id, token, options, payload)| {
            let full = code != 0;
            Draft {
                kind: Kind::from_number(kind).unwrap(),
                code: Code(code),
                id,
                token: if full { token } else { vec![] },
                options: if full { options } else { vec![] },
                payload: if full { payload } else { vec![] },
            }
        },
    )
}

fn draft(message: &Message<'_>) -> Draft {
    Draft {
        kind: message.kind,
        code: message.code,
        id: message.id,
        token: message.token.to_vec(),
        options: message.options().map(|(number, value)| (number, value.to_vec())).collect(),
        payload: message.payload.to_vec(),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_again(mut sent in drafts()) {
        let datagram = sent.clone().encode();
        sent.options.sort_by_key(|(number, _)| *number);
        prop_assert_eq!(draft(&Message::parse(&datagram).unwrap()), sent);
    }

    #[test]
    fn what_is_read_is_encoded_to_the_byte(rest: Vec<u8>, first in 0x40..0x80u8, code in 0..3u8) {
        let datagram = [&[first, code, 1, 2][..], &rest].concat();
        if let Ok(message) = Message::parse(&datagram) {
            prop_assert_eq!(draft(&message).encode(), datagram);
        }
    }
}
