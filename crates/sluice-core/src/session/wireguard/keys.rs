//! Keys, and the primitives that the protocol names (WireGuard whitepaper, section 5.4), all of them from libraries.
//! Nothing here shows a secret: secrets have no text form but the one they are read from, and are wiped when dropped.

use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Update, consts::U16},
};
use chacha20poly1305::{AeadInPlace, XChaCha20Poly1305};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt;
use subtle::ConstantTimeEq;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of every key.
pub const KEY: usize = 32;
/// Length of an AEAD tag, and of a MAC.
pub const TAG: usize = 16;
/// Length of the nonce that a cookie reply carries.
pub const XNONCE: usize = 24;

/// The lowest byte of 2^255 - 19; the others are ones but for the last bit.
const PRIME_LOW: u8 = 0xed;
/// The points of low order: 0, 1, -1, and two of order 8 (https://cr.yp.to/ecdh.html, "validate").
const LOW_ORDER: [[u8; KEY]; 5] = [
    [0; KEY],
    *b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    *b"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    *b"\xe0\xeb\x7a\x7c\x3b\x41\xb8\xae\x16\x56\xe3\xfa\xf1\x9f\xc4\x6a\xda\x09\x8d\xeb\x9c\x32\xb1\xfd\x86\x62\x05\x16\x5f\x49\xb8\0",
    *b"\x5f\x9c\x95\xbc\xa3\x50\x8c\x24\xb1\xd0\xb1\x55\x9c\x83\xef\x5b\x04\x44\x5c\xc4\x58\x1c\x8e\x86\xd8\x22\x4e\xdd\xd0\x9f\x11\x57",
];

/// A peer's public key: its name in messages (`PeerKey`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY]);

impl PublicKey {
    /// Reads standard Base64 with padding, 44 characters in their one canonical spelling.
    pub fn from_base64(text: &str) -> Option<PublicKey> {
        read_base64(text).map(|bytes| PublicKey(*bytes))
    }

    /// Standard Base64 with padding.
    pub fn to_base64(self) -> String {
        base64_simd::STANDARD.encode_to_string(self.0)
    }

    /// Appends the key to `out` as standard Base64 with padding, without an allocation of its own.
    pub fn write_base64(&self, out: &mut Vec<u8>) {
        base64_simd::STANDARD.encode_append(self.0, out);
    }

    /// The spelling that `wg pubkey` prints of this key: X25519 leaves out the last bit, and reads what is left modulo
    /// 2^255 - 19 (RFC 7748, section 5). So some keys have two spellings, or four.
    pub fn canonical(mut self) -> PublicKey {
        let bytes = &mut self.0;
        bytes[31] &= 0x7f;
        if bytes[0] >= PRIME_LOW && bytes[1..31] == [0xff; 30] && bytes[31] == 0x7f {
            let low = bytes[0] - PRIME_LOW;
            *bytes = [0; KEY];
            bytes[0] = low;
        }
        self
    }

    /// True for the keys of low order, all zeros among them: no private key has one, and a secret shared with one is known to
    /// everybody (RFC 7748, section 6.1).
    pub fn is_weak(self) -> bool {
        LOW_ORDER.contains(&self.canonical().0)
    }

    /// The peer's name where a whole key is too long.
    pub fn id(&self) -> PeerId {
        let digest = hash(&[b"sluicegate peer", &self.0]);
        PeerId(digest[..PeerId::LEN].try_into().expect("a digest is longer"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        Secret::deserialize(deserializer).map(|bytes| PublicKey(bytes.0))
    }
}

/// 96 bits of a public key's hash: short enough for a Tag with IPv6 addresses, and the same after a restart without
/// anything stored. To answer in another peer's place takes a second key with the same hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PeerId(pub [u8; PeerId::LEN]);

impl PeerId {
    /// Bytes.
    pub const LEN: usize = 12;
}

/// 32 secret bytes: a private key, a pre-shared key or a session key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub [u8; KEY]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// The error names what is wrong, never the text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        struct Base64;
        impl serde::de::Visitor<'_> for Base64 {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the Base64 of 32 bytes")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                read_base64(text)
                    .map(|bytes| Secret(*bytes))
                    .ok_or_else(|| E::custom("a key is the Base64 of 32 bytes"))
            }
        }
        deserializer.deserialize_str(Base64)
    }
}

fn read_base64(text: &str) -> Option<Zeroizing<[u8; KEY]>> {
    let mut bytes = Zeroizing::new([0; KEY]);
    // 32 bytes are 43 characters and one pad; the decoder refuses spare bits that are not zero.
    let fits = text.len() == 44 && text.ends_with('=') && !text.ends_with("==");
    let out = base64_simd::Out::from_slice(&mut bytes[..]);
    (fits && base64_simd::STANDARD.decode(text.as_bytes(), out).is_ok()).then_some(bytes)
}

impl Secret {
    /// Encrypts `buffer` in place. The nonce is four zero bytes and the counter (whitepaper 5.4.6): no counter may be
    /// used twice with a key.
    pub fn seal(&self, counter: u64, aad: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
        let tag = self.aead().seal_in_place_separate_tag(nonce(counter), Aad::from(aad), buffer);
        tag.expect("a datagram is far below the cipher's limit").as_ref().try_into().expect("a tag has 16 bytes")
    }

    /// Decrypts `buffer` (ciphertext and tag) in place; yields the plaintext if it is genuine.
    pub fn open<'a>(&self, counter: u64, aad: &[u8], buffer: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.aead().open_in_place(nonce(counter), Aad::from(aad), buffer).ok()
    }

    /// Made for each packet: that costs 30 ns, a twentieth of sealing 1,200 bytes. `ring` never wipes its keys and needs
    /// 544 bytes for one; so what rests in memory is ours, small and wiped.
    fn aead(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("the key has 32 bytes"))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// BLAKE2s-256 of all `parts`.
pub fn hash(parts: &[&[u8]]) -> [u8; KEY] {
    let mut hasher = Blake2s256::new();
    parts.iter().for_each(|part| Digest::update(&mut hasher, part));
    hasher.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output, of all `parts`.
pub fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; TAG] {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("at most 32 bytes");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize_fixed().into()
}

/// Equality that takes the same time wherever the two differ.
pub fn same(a: &[u8; TAG], b: &[u8; TAG]) -> bool {
    a.ct_eq(b).into()
}

/// XChaCha20-Poly1305 for cookies, in place.
pub fn xseal(key: &[u8; KEY], nonce: &[u8; XNONCE], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
    let sealed = XChaCha20Poly1305::new(key.into()).encrypt_in_place_detached(nonce.into(), aad, buffer);
    sealed.expect("a cookie is far below the cipher's limit").into()
}

/// Opens what [`xseal`] sealed.
pub fn xopen(key: &[u8; KEY], nonce: &[u8; XNONCE], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG]) -> bool {
    XChaCha20Poly1305::new(key.into()).decrypt_in_place_detached(nonce.into(), aad, buffer, tag.into()).is_ok()
}

/// The Listener's own key pair, with what is derived from it once.
pub struct Identity {
    private: StaticSecret,
    /// The public key, which peers know.
    pub public: PublicKey,
    /// Key of mac1 in what is sent to us.
    pub mac1_key: [u8; KEY],
    /// Key of the cookies that we send.
    pub cookie_key: [u8; KEY],
}

impl Identity {
    /// From the private key.
    pub fn new(private: &Secret) -> Identity {
        let private = StaticSecret::from(private.0);
        let public = PublicKey(x25519_dalek::PublicKey::from(&private).to_bytes());
        Identity { private, mac1_key: mac1_key(&public), cookie_key: cookie_key(&public), public }
    }

    /// For the Noise library, which wants bytes.
    pub(super) fn private(&self) -> &[u8; KEY] {
        self.private.as_bytes()
    }
}

/// Key of mac1 in what is sent to the owner of `public` (whitepaper 5.4.4).
pub fn mac1_key(public: &PublicKey) -> [u8; KEY] {
    hash(&[b"mac1----", &public.0])
}

/// Key of cookies that the owner of `public` sends (whitepaper 5.4.7).
pub fn cookie_key(public: &PublicKey) -> [u8; KEY] {
    hash(&[b"cookie--", &public.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each_key() {
        let key = PublicKey([0xfb; 32]);
        let text = key.to_base64();
        assert_eq!(PublicKey::from_base64(&text), Some(key));
        let spare_bits = format!("{}v=", &text[..42]);
        for bad in
            [&text[..43], &format!("{text}="), &spare_bits, "", &text.replace('+', "-"), &format!(" {}", &text[1..])]
        {
            assert_eq!(PublicKey::from_base64(bad), None, "{bad}");
        }
    }

    /// Every spelling of the integers below 2^255, modulo the prime: by arithmetic of big numbers in base 256.
    fn spellings(key: [u8; KEY]) -> Vec<PublicKey> {
        let mut all = vec![key];
        if key[0] < 0x13 && key[1..] == [0; 31] {
            let mut plus = [0xff; KEY];
            (plus[0], plus[31]) = (key[0] + PRIME_LOW, 0x7f);
            all.push(plus);
        }
        let high = all.clone().into_iter().map(|mut key| {
            key[31] |= 0x80;
            key
        });
        all.extend(high.collect::<Vec<_>>());
        all.into_iter().map(PublicKey).collect()
    }

    #[test]
    fn spellings_of_one_key_have_one_canonical_form() {
        let small = |low: u8| std::array::from_fn(|at| if at == 0 { low } else { 0 });
        for key in [small(0), small(1), small(9), small(0x12), small(0x13), [0x2b; KEY], LOW_ORDER[2], LOW_ORDER[4]] {
            let all = spellings(key);
            assert!(all.iter().all(|one| one.canonical() == PublicKey(key)), "{all:?}");
            // X25519 agrees that they are one.
            let ours = StaticSecret::from([7; KEY]);
            let shared = |one: &PublicKey| *ours.diffie_hellman(&x25519_dalek::PublicKey::from(one.0)).as_bytes();
            assert!(all.iter().all(|one| shared(one) == shared(&PublicKey(key))));
        }
    }

    #[test]
    fn weak_keys_are_those_that_share_no_secret() {
        let ours = StaticSecret::from([7; KEY]);
        let shares = |key: &PublicKey| ours.diffie_hellman(&x25519_dalek::PublicKey::from(key.0)).was_contributory();
        for key in LOW_ORDER.into_iter().flat_map(spellings) {
            assert!(key.is_weak() && !shares(&key), "{key}");
        }
        for low in 2..=255 {
            let mut key = [0; KEY];
            key[0] = low;
            assert!(!PublicKey(key).is_weak() && shares(&PublicKey(key)));
            assert!(!PublicKey([low; KEY]).is_weak() || low == 0);
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let error = serde_json::from_str::<Secret>("\"q6urq6urq6urq6urq6s=\"").unwrap_err().to_string();
        assert!(error.contains("Base64 of 32 bytes") && !error.contains("q6u"), "{error}");
        let error = serde_json::from_str::<Secret>("171").unwrap_err().to_string();
        assert!(error.contains("Base64 of 32 bytes"), "{error}");
    }

    /// What `wg pubkey` says.
    #[test]
    fn the_public_key_belongs_to_the_private_one() {
        let private: Secret = serde_json::from_str("\"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\"").unwrap();
        assert_eq!(Identity::new(&private).public.to_base64(), "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=");
    }
}
