//! CoAP: a datagram is refused for one reason, or comes back to the byte from its JSON, and has the same parts for a codec
//! that we did not write.
//!
//! What that one (coap-lite) lets pass and RFC 7252 does not: any version, a code 0.00 with content, a payload marker
//! with nothing behind it, options whose numbers pass 65535 (it fails or wraps). What it cannot tell: repeated options
//! of several numbers keep their order within a number in both.

use coap_lite::{MessageClass, MessageType, Packet};
use serde_json::Value;
use sluice_core::{
    coap::{Kind, Message},
    format::Formatter,
    reason::Dropped,
};

/// A datagram, and at the same time text that may be the JSON of one.
pub fn check(data: &[u8]) {
    check_datagram(data);
    let text = String::from_utf8_lossy(data);
    match Formatter::Coap.read(&text) {
        Ok(datagram) => {
            assert!(Message::parse(&datagram).is_ok(), "what is sent is well-formed");
            check_datagram(&datagram);
        }
        Err(detail) => assert!(!detail.is_empty() && detail.len() < 200, "{detail}"),
    }
}

fn check_datagram(datagram: &[u8]) {
    let theirs = Packet::from_bytes(datagram);
    let view = match Formatter::Coap.view(datagram) {
        Ok(view) => view,
        Err(why) => {
            let lenient =
                [Dropped::CoapVersion, Dropped::CoapEmptyCode, Dropped::CoapNoPayload, Dropped::CoapOptionNumber];
            assert!(theirs.is_err() || lenient.contains(&why), "{why:?}");
            return;
        }
    };
    let mut json = Vec::new();
    view.write(&mut json);
    let text: String = serde_json::from_slice(&json).expect("Data is a string");
    let object: Value = serde_json::from_str(&text).expect("that holds JSON");
    assert!(object.is_object());
    assert_eq!(Formatter::Coap.read(&text).as_deref(), Ok(datagram));
    let ours = Message::parse(datagram).expect("as before");
    compare(&ours, &theirs.expect("what is well-formed is so for both"));
}

fn compare(ours: &Message<'_>, theirs: &Packet) {
    let kind = match theirs.header.get_type() {
        MessageType::Confirmable => Kind::Confirmable,
        MessageType::NonConfirmable => Kind::NonConfirmable,
        MessageType::Acknowledgement => Kind::Acknowledgement,
        MessageType::Reset => Kind::Reset,
    };
    assert_eq!((ours.kind, ours.id, ours.token), (kind, theirs.header.message_id, theirs.get_token()));
    if !matches!(theirs.header.code, MessageClass::Reserved(_)) {
        assert_eq!(ours.code.0, u8::from(theirs.header.code));
    }
    let options = theirs.options().flat_map(|(number, values)| values.iter().map(|value| (*number, value.as_slice())));
    assert_eq!(ours.options().collect::<Vec<_>>(), options.collect::<Vec<_>>());
    assert_eq!(ours.payload, theirs.payload);
}
