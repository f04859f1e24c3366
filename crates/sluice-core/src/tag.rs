//! Tags: sealed return addresses (contract section 2).
//!
//! Theory. A Tag answers one packet, later, from anywhere, and the gateway stores nothing for it: the return address
//! itself is in the Tag, encrypted and authenticated with AES-256-GCM (NIST SP 800-38D, 96-bit nonce, full 128-bit
//! tag), so that nobody without the key can make one or bend one to another address.
//!
//! ```text
//! byte 0      version (high nibble, 1) and key id (low nibble); authenticated
//! bytes 1-12  nonce: salt (6, random per Listener and start), counter (6)
//! then        sealed: listener u32, node u16, expiry u32 (Unix seconds), local port u16, remote port u16,
//!             local and remote address (4 + 4, or 16 + 16 and a 24-bit zone)
//! last 16     GCM tag
//! ```
//! 51 bytes for IPv4 and 78 for IPv6 are 68 and 104 characters of unpadded base64url, and, being multiples of three,
//! leave no spare bits: each Tag has exactly one spelling.
//!
//! Nonces. GCM breaks if a nonce repeats under a key. The counter makes nonces unique within a start; the salt keeps
//! starts, Listeners and nodes with the same key apart: after 10,000 of them the odds of any two alike are about one in
//! five million. A counter in the state file would not survive restoring a backup; random nonces alone would leave the
//! safe zone within hours at full rate.

use crate::time::Now;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

const VERSION: u8 = 1;
const GCM_TAG: usize = 16;
const HEADER: usize = 1 + NONCE_LEN;
const FIXED: usize = 14;
const PLAIN_V4: usize = FIXED + 8;
const PLAIN_V6: usize = FIXED + 35;
const SEALED_V4: usize = HEADER + PLAIN_V4 + GCM_TAG;
const SEALED_V6: usize = HEADER + PLAIN_V6 + GCM_TAG;
const TEXT_V4: usize = SEALED_V4 / 3 * 4;
const TEXT_V6: usize = SEALED_V6 / 3 * 4;

/// What a Tag seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnAddress {
    /// The Listener that received the packet.
    pub listener: u32,
    /// The node that received it.
    pub node: u16,
    /// Unix seconds after which the Tag answers no more.
    pub expires: u32,
    /// Address and port that the client sent to; same family as `remote`.
    pub local: SocketAddr,
    /// The client.
    pub remote: SocketAddr,
}

/// Why a Tag was not opened. Says nothing about what a forger got right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagError {
    /// Not one of ours, altered, or sealed under a key that this gateway does not hold.
    Invalid,
    /// Genuine, and too old.
    Expired,
}

/// The keys that Tags are sealed and opened with.
pub struct TagKeys {
    keys: [Option<LessSafeKey>; 16],
    sealing: u8,
}

impl TagKeys {
    /// Keys by id (0 to 15), 32 bytes each; the last one seals. None for an empty list or an id out of range.
    pub fn new<'a>(keys: impl IntoIterator<Item = (u8, &'a [u8; 32])>) -> Option<TagKeys> {
        let mut made = TagKeys { keys: [const { None }; 16], sealing: u8::MAX };
        for (id, key) in keys {
            let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 keys have 32 bytes");
            *made.keys.get_mut(usize::from(id))? = Some(LessSafeKey::new(key));
            made.sealing = id;
        }
        (made.sealing != u8::MAX).then_some(made)
    }

    /// The return address in `text`, if the Tag is genuine and still valid.
    pub fn open(&self, now: Now, text: &str) -> Result<ReturnAddress, TagError> {
        let mut bytes = [0u8; SEALED_V6];
        let sealed = match text.len() {
            TEXT_V4 => &mut bytes[..SEALED_V4],
            TEXT_V6 => &mut bytes[..SEALED_V6],
            _ => return Err(TagError::Invalid),
        };
        base64_simd::URL_SAFE_NO_PAD
            .decode(text.as_bytes(), base64_simd::Out::from_slice(sealed))
            .map_err(|_| TagError::Invalid)?;
        let (header, body) = sealed.split_at_mut(HEADER);
        if header[0] >> 4 != VERSION {
            return Err(TagError::Invalid);
        }
        let key = self.keys[usize::from(header[0] & 15)].as_ref().ok_or(TagError::Invalid)?;
        let nonce = Nonce::try_assume_unique_for_key(&header[1..]).expect("12 bytes");
        let plain = key.open_in_place(nonce, Aad::from([header[0]]), body).map_err(|_| TagError::Invalid)?;
        let address = decode(plain).ok_or(TagError::Invalid)?;
        if now.unix_ms / 1_000 >= u64::from(address.expires) {
            return Err(TagError::Expired);
        }
        Ok(address)
    }
}

/// Seals the Tags of one Listener: owns a salt and a counter, so that no two Tags share a nonce.
pub struct TagSealer {
    salt: [u8; 6],
    counter: u64,
}

/// A sealed Tag's text, on the stack.
pub struct TagText {
    bytes: [u8; TEXT_V6],
    len: usize,
}

impl TagText {
    /// Base64url without padding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl TagSealer {
    /// `salt`: fresh random bytes for each Listener at each start.
    pub fn new(salt: [u8; 6]) -> TagSealer {
        TagSealer { salt, counter: 0 }
    }

    /// Seals `address` under the newest key. `local` and `remote` must be of one family.
    pub fn seal(&mut self, keys: &TagKeys, address: &ReturnAddress) -> TagText {
        let mut bytes = [0u8; SEALED_V6];
        let plain_len = encode(address, &mut bytes[HEADER..]);
        bytes[0] = VERSION << 4 | keys.sealing;
        let mut nonce = [0u8; NONCE_LEN];
        nonce[..6].copy_from_slice(&self.salt);
        nonce[6..].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        self.counter += 1; // 2^48 packets at a million a second last nine years; a start takes a new salt
        bytes[1..HEADER].copy_from_slice(&nonce);
        let key = keys.keys[usize::from(keys.sealing)].as_ref().expect("the sealing key is held");
        let aad = Aad::from([bytes[0]]);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                aad,
                &mut bytes[HEADER..HEADER + plain_len],
            )
            .expect("a Tag is far below GCM's limit");
        let end = HEADER + plain_len + GCM_TAG;
        bytes[end - GCM_TAG..end].copy_from_slice(tag.as_ref());
        let mut text = TagText { bytes: [0; TEXT_V6], len: end / 3 * 4 };
        let _ = base64_simd::URL_SAFE_NO_PAD.encode(&bytes[..end], base64_simd::Out::from_slice(&mut text.bytes));
        text
    }
}

fn encode(address: &ReturnAddress, out: &mut [u8]) -> usize {
    out[0..4].copy_from_slice(&address.listener.to_be_bytes());
    out[4..6].copy_from_slice(&address.node.to_be_bytes());
    out[6..10].copy_from_slice(&address.expires.to_be_bytes());
    out[10..12].copy_from_slice(&address.local.port().to_be_bytes());
    out[12..14].copy_from_slice(&address.remote.port().to_be_bytes());
    match (address.local.ip(), address.remote) {
        (IpAddr::V4(local), SocketAddr::V4(remote)) => {
            out[14..18].copy_from_slice(&local.octets());
            out[18..22].copy_from_slice(&remote.ip().octets());
            PLAIN_V4
        }
        (local, remote) => {
            let (v6, zone) = match remote {
                SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            };
            let local = match local {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            };
            out[14..30].copy_from_slice(&local.octets());
            out[30..46].copy_from_slice(&v6.octets());
            out[46..49].copy_from_slice(&zone.to_be_bytes()[1..]);
            PLAIN_V6
        }
    }
}

fn decode(plain: &[u8]) -> Option<ReturnAddress> {
    let u16_at = |at: usize| u16::from_be_bytes([plain[at], plain[at + 1]]);
    let u32_at = |at: usize| u32::from_be_bytes([plain[at], plain[at + 1], plain[at + 2], plain[at + 3]]);
    let (local_port, remote_port);
    let (local, remote) = match plain.len() {
        PLAIN_V4 => {
            (local_port, remote_port) = (u16_at(10), u16_at(12));
            let v4 = |at: usize, port| SocketAddr::new(IpAddr::V4(u32_at(at).into()), port);
            (v4(14, local_port), v4(18, remote_port))
        }
        PLAIN_V6 => {
            (local_port, remote_port) = (u16_at(10), u16_at(12));
            let v6 = |at: usize| <[u8; 16]>::try_from(&plain[at..at + 16]).expect("16 bytes").into();
            let zone = u32::from_be_bytes([0, plain[46], plain[47], plain[48]]);
            (
                SocketAddr::V6(SocketAddrV6::new(v6(14), local_port, 0, 0)),
                SocketAddr::V6(SocketAddrV6::new(v6(30), remote_port, 0, zone)),
            )
        }
        _ => return None,
    };
    Some(ReturnAddress { listener: u32_at(0), node: u16_at(4), expires: u32_at(6), local, remote })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const NOW: Now = Now { mono: 0, unix_ms: 1_780_000_000_000 };

    fn address(local: &str, remote: &str) -> ReturnAddress {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        ReturnAddress { listener: 7, node: 3, expires: 1_780_003_600, local, remote }
    }

    fn keys() -> TagKeys {
        TagKeys::new([(0, &[1; 32]), (5, &[2; 32])]).unwrap()
    }

    fn text(address: &ReturnAddress) -> String {
        String::from_utf8(TagSealer::new([9; 6]).seal(&keys(), address).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn sizes_of_the_contract() {
        assert_eq!(text(&address("192.0.2.1:2048", "198.51.100.7:4000")).len(), 68);
        assert_eq!(text(&address("[2001:db8::1]:2048", "[2001:db8::2]:4000")).len(), 104);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        for address in [address("192.0.2.1:2048", "198.51.100.7:4000"), address("[::1]:2048", "[fe80::2%3]:4000")] {
            let good = text(&address);
            assert_eq!(keys().open(NOW, &good), Ok(address));
            for at in 0..good.len() * 8 {
                let mut bytes = good.clone().into_bytes();
                bytes[at / 8] ^= 1 << (at % 8);
                if let Ok(altered) = String::from_utf8(bytes) {
                    assert_eq!(keys().open(NOW, &altered), Err(TagError::Invalid), "bit {at}");
                }
            }
        }
    }

    #[test]
    fn other_spellings_keys_and_ages_are_refused() {
        let good = text(&address("192.0.2.1:2048", "198.51.100.7:4000"));
        for bad in [format!("{good}="), format!("{good}A"), good[..67].to_owned(), String::new(), format!(" {good}")] {
            assert_eq!(keys().open(NOW, &bad), Err(TagError::Invalid), "{bad}");
        }
        let foreign = TagKeys::new([(5, &[3; 32])]).unwrap();
        assert_eq!(foreign.open(NOW, &good), Err(TagError::Invalid));
        let later = Now { unix_ms: 1_780_003_600_000, ..NOW };
        assert_eq!(keys().open(later, &good), Err(TagError::Expired));
    }

    #[test]
    fn a_rotated_key_still_opens() {
        let old = TagKeys::new([(5, &[2; 32])]).unwrap();
        let address = address("192.0.2.1:2048", "198.51.100.7:4000");
        let tag = TagSealer::new([1; 6]).seal(&old, &address);
        let rotated = TagKeys::new([(5, &[2; 32]), (6, &[4; 32])]).unwrap();
        assert_eq!(rotated.open(NOW, std::str::from_utf8(tag.as_bytes()).unwrap()), Ok(address));
    }

    #[test]
    fn tags_are_unique() {
        let (keys, mut sealer) = (keys(), TagSealer::new([1; 6]));
        let address = address("192.0.2.1:2048", "198.51.100.7:4000");
        let tags: HashSet<_> = (0..10_000).map(|_| sealer.seal(&keys, &address).as_bytes().to_vec()).collect();
        assert_eq!(tags.len(), 10_000);
    }

    proptest! {
        #[test]
        fn round_trip(listener: u32, node: u16, v6: bool, a: [u8; 16], b: [u8; 16], ports: (u16, u16), zone in 0u32..1 << 24) {
            let ip = |octets: [u8; 16]| match v6 {
                true => IpAddr::V6(octets.into()),
                false => IpAddr::V4([octets[0], octets[1], octets[2], octets[3]].into()),
            };
            let mut remote = SocketAddr::new(ip(b), ports.1);
            if let SocketAddr::V6(v6) = &mut remote {
                v6.set_scope_id(zone);
            }
            let address = ReturnAddress { listener, node, expires: u32::MAX, local: SocketAddr::new(ip(a), ports.0), remote };
            prop_assert_eq!(keys().open(NOW, &text(&address)), Ok(address));
        }

        #[test]
        fn anything_else_is_refused(text in "[A-Za-z0-9_-]{68}|[A-Za-z0-9_-]{104}|.{0,120}") {
            prop_assert_eq!(keys().open(NOW, &text), Err(TagError::Invalid));
        }
    }
}
