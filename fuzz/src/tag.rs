//! Tags: nothing opens but what was sealed, to the letter; what was sealed opens to the same address.

use crate::world::{GENUINE, SHARED, START};
use arbitrary::{Arbitrary, Unstructured};
use sluice_core::{
    Now,
    tag::{ReturnAddress, TagError, TagKeys, TagSealer},
};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// Any text as a Tag; and, from the same bytes, any address to seal.
pub fn check(data: &[u8]) {
    opens_only_what_was_sealed(&String::from_utf8_lossy(data));
    if let Ok(sealing) = Sealing::arbitrary(&mut Unstructured::new(data)) {
        round_trip(&sealing);
    }
}

fn opens_only_what_was_sealed(text: &str) {
    let genuine = GENUINE.iter().find(|tag| tag.text == text);
    let expected = match genuine {
        None => Err(TagError::Invalid),
        Some(tag) if tag.name == "expired" => Err(TagError::Expired),
        Some(tag) => Ok(tag.address),
    };
    assert_eq!(SHARED.tag_keys.open(START, text), expected, "{text:?}");
}

#[derive(Arbitrary, Debug)]
struct Sealing {
    listener: u32,
    node: u16,
    expires: u32,
    local: [u8; 16],
    remote: [u8; 16],
    ports: (u16, u16),
    v6: bool,
    zone: u32,
    salt: [u8; 6],
    key: [u8; 32],
    key_id: u8,
    alter: (u8, u8),
}

fn round_trip(sealing: &Sealing) {
    let ip = |octets: [u8; 16]| match sealing.v6 {
        true => IpAddr::V6(octets.into()),
        false => IpAddr::V4([octets[0], octets[1], octets[2], octets[3]].into()),
    };
    let remote = match ip(sealing.remote) {
        IpAddr::V6(v6) => SocketAddrV6::new(v6, sealing.ports.1, 0, sealing.zone & 0x00ff_ffff).into(),
        v4 => SocketAddr::new(v4, sealing.ports.1),
    };
    let local = SocketAddr::new(ip(sealing.local), sealing.ports.0);
    let address =
        ReturnAddress { listener: sealing.listener, node: sealing.node, expires: sealing.expires, local, remote };
    let Some(keys) = TagKeys::new([(sealing.key_id, &sealing.key)]) else {
        assert!(sealing.key_id > 15);
        return;
    };
    let mut sealer = TagSealer::new(sealing.salt);
    let seal = |sealer: &mut TagSealer| {
        String::from_utf8(sealer.seal(&keys, &address).as_bytes().to_vec()).expect("a Tag is ASCII")
    };
    let (text, next) = (seal(&mut sealer), seal(&mut sealer));
    assert_ne!(text, next, "two Tags with one nonce");
    assert_eq!(text.len(), if sealing.v6 { 104 } else { 68 });
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{text}");
    let valid = u64::from(sealing.expires) * 1_000;
    assert_eq!(keys.open(Now { unix_ms: valid, ..START }, &text), Err(TagError::Expired));
    if valid > 0 {
        assert_eq!(keys.open(Now { unix_ms: valid - 1, ..START }, &text), Ok(address));
    }
    let mut altered = text.clone().into_bytes();
    let at = usize::from(sealing.alter.0) % altered.len();
    altered[at] = sealing.alter.1;
    if let Ok(altered) = String::from_utf8(altered)
        && altered != text
    {
        assert_eq!(keys.open(Now { unix_ms: 0, ..START }, &altered), Err(TagError::Invalid), "{altered}");
    }
}
