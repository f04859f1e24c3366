//! Tags: sealed return addresses (contract section 2).
//!
//! Theory. A Tag answers one packet, later and from anywhere. The gateway stores nothing for it: the Tag holds the
//! return address itself, encrypted and authenticated with AES-256-GCM (NIST SP 800-38D, 96-bit nonce, full 128-bit
//! tag). So nobody without the key can make a Tag or bend one to another address.
//!
//! ```text
//! byte 0      version (high nibble, 1) and key id (low nibble); authenticated
//! bytes 1-12  nonce: salt (6, random per Listener and start), counter (6)
//! then        sealed: listener u32, node u16, expiry u32 (Unix seconds), local port u16, remote port u16,
//!             local and remote address (4 + 4, or 16 + 16 and a 24-bit zone)
//! last 16     GCM tag
//! ```
//! A Tag has 51 bytes for IPv4 and 78 for IPv6, which are 68 and 104 characters of unpadded base64url. Both numbers of
//! bytes are multiples of three and leave no spare bits, so each Tag has exactly one spelling.
//!
//! The Tag of a WireGuard peer has version 2, and in place of the addresses:
//! ```text
//! then        sealed: listener u32, node u16, expiry u32, peer id (12),
//!             nothing, or inner ports u16 + u16 (client, gateway) and addresses (4 + 4 or 16 + 16)
//! ```
//! Such a Tag has 68, 84 or 116 characters.
//!
//! Nonces. GCM breaks if a nonce repeats under a key. The counter makes nonces unique within a start; the salt keeps
//! starts, Listeners and nodes with the same key apart: after 10,000 of them the odds of any two alike are about one in
//! five million. A counter in the state file would not survive restoring a backup; random nonces alone would leave the
//! safe zone within hours at full rate.

use crate::{inner::Inner, session::wireguard::keys::PeerId, time::Now};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

const ADDRESS: u8 = 1;
const PEER: u8 = 2;
const GCM_TAG: usize = 16;
const HEADER: usize = 1 + NONCE_LEN;
const FIXED: usize = 14;
const PLAIN_V4: usize = FIXED + 8;
const PLAIN_V6: usize = FIXED + 35;
/// Bytes that every peer's Tag seals: listener, node, expiry and peer.
const PEER_FIXED: usize = 10 + PeerId::LEN;
const PLAIN_INNER_V4: usize = PEER_FIXED + 12;
const PLAIN_INNER_V6: usize = PEER_FIXED + 36;
/// Most bytes that a Tag seals.
const PLAIN: usize = PLAIN_INNER_V6;
const SEALED: usize = HEADER + PLAIN + GCM_TAG;
const TEXT: usize = SEALED / 3 * 4;

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
    /// Address and port of the client.
    pub remote: SocketAddr,
}

/// What a WireGuard peer's Tag seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The Listener that received the packet.
    pub listener: u32,
    /// The node that received it.
    pub node: u16,
    /// Unix seconds after which the Tag answers no more.
    pub expires: u32,
    /// The peer that sent the packet.
    pub peer: PeerId,
    /// The packet's inner addresses, if it had any.
    pub inner: Option<Inner>,
}

/// Why a Tag was not opened. Says nothing about what a forger got right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagError {
    /// The Tag is not one of ours, or altered, or sealed under a key that this gateway does not hold.
    Invalid,
    /// The Tag is genuine, and too old.
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
        let mut bytes = [0u8; SEALED];
        let address = decode(self.reveal(ADDRESS, text, &mut bytes)?).ok_or(TagError::Invalid)?;
        in_time(now, address.expires).map(|()| address)
    }

    /// The peer's address in `text`, if it is a WireGuard peer's Tag that is genuine and still valid.
    pub fn open_peer(&self, now: Now, text: &str) -> Result<PeerAddress, TagError> {
        let mut bytes = [0u8; SEALED];
        let address = decode_peer(self.reveal(PEER, text, &mut bytes)?).ok_or(TagError::Invalid)?;
        in_time(now, address.expires).map(|()| address)
    }

    /// The bytes that a Tag of this version seals, if it is genuine and still valid.
    fn reveal<'a>(&self, version: u8, text: &str, bytes: &'a mut [u8; SEALED]) -> Result<&'a [u8], TagError> {
        let length = text.len() / 4 * 3;
        if !text.len().is_multiple_of(4) || !(HEADER + GCM_TAG..=SEALED).contains(&length) {
            return Err(TagError::Invalid);
        }
        let sealed = &mut bytes[..length];
        base64_simd::URL_SAFE_NO_PAD
            .decode(text.as_bytes(), base64_simd::Out::from_slice(sealed))
            .map_err(|_| TagError::Invalid)?;
        let (header, body) = sealed.split_at_mut(HEADER);
        if header[0] >> 4 != version {
            return Err(TagError::Invalid);
        }
        let key = self.keys[usize::from(header[0] & 15)].as_ref().ok_or(TagError::Invalid)?;
        let nonce = Nonce::try_assume_unique_for_key(&header[1..]).expect("12 bytes");
        let plain = key.open_in_place(nonce, Aad::from([header[0]]), body).map_err(|_| TagError::Invalid)?;
        Ok(plain)
    }
}

fn in_time(now: Now, expires: u32) -> Result<(), TagError> {
    if now.unix_ms / 1_000 >= u64::from(expires) { Err(TagError::Expired) } else { Ok(()) }
}

/// Seals the Tags of one Listener: owns a salt and a counter, so that no two Tags share a nonce.
pub struct TagSealer {
    salt: [u8; 6],
    counter: u64,
}

/// A sealed Tag's text, on the stack.
pub struct TagText {
    bytes: [u8; TEXT],
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
        let mut bytes = [0u8; SEALED];
        let length = encode(address, &mut bytes[HEADER..]);
        self.conceal(keys, ADDRESS, bytes, length)
    }

    /// Seals the address of a WireGuard peer.
    pub fn seal_peer(&mut self, keys: &TagKeys, address: &PeerAddress) -> TagText {
        let mut bytes = [0u8; SEALED];
        let length = encode_peer(address, &mut bytes[HEADER..]);
        self.conceal(keys, PEER, bytes, length)
    }

    /// Seals the `plain` bytes after the header.
    fn conceal(&mut self, keys: &TagKeys, version: u8, mut bytes: [u8; SEALED], plain: usize) -> TagText {
        bytes[0] = version << 4 | keys.sealing;
        let mut nonce = [0u8; NONCE_LEN];
        nonce[..6].copy_from_slice(&self.salt);
        nonce[6..].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        self.counter += 1; // 2^48 packets at a million a second last nine years; a start takes a new salt
        bytes[1..HEADER].copy_from_slice(&nonce);
        let key = keys.keys[usize::from(keys.sealing)].as_ref().expect("the sealing key is held");
        let aad = Aad::from([bytes[0]]);
        let end = HEADER + plain + GCM_TAG;
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes[HEADER..HEADER + plain])
            .expect("a Tag is far below GCM's limit");
        bytes[end - GCM_TAG..end].copy_from_slice(tag.as_ref());
        let mut text = TagText { bytes: [0; TEXT], len: end / 3 * 4 };
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
            let (to, zone) = match remote {
                SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            };
            out[14..30].copy_from_slice(&v6(local).octets());
            out[30..46].copy_from_slice(&to.octets());
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

fn encode_peer(address: &PeerAddress, out: &mut [u8]) -> usize {
    out[0..4].copy_from_slice(&address.listener.to_be_bytes());
    out[4..6].copy_from_slice(&address.node.to_be_bytes());
    out[6..10].copy_from_slice(&address.expires.to_be_bytes());
    out[10..PEER_FIXED].copy_from_slice(&address.peer.0);
    let Some(Inner { source, destination }) = address.inner else { return PEER_FIXED };
    let out = &mut out[PEER_FIXED..];
    out[0..2].copy_from_slice(&source.port().to_be_bytes());
    out[2..4].copy_from_slice(&destination.port().to_be_bytes());
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out[4..8].copy_from_slice(&source.octets());
            out[8..12].copy_from_slice(&destination.octets());
            PLAIN_INNER_V4
        }
        (source, destination) => {
            out[4..20].copy_from_slice(&v6(source).octets());
            out[20..36].copy_from_slice(&v6(destination).octets());
            PLAIN_INNER_V6
        }
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
    }
}

fn decode_peer(plain: &[u8]) -> Option<PeerAddress> {
    let (fixed, inner) = plain.split_at_checked(PEER_FIXED)?;
    let port = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
    let ip = |at: usize| match inner.len() {
        12 => IpAddr::from(<[u8; 4]>::try_from(&inner[at..at + 4]).expect("4 bytes")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&inner[at..at + 16]).expect("16 bytes")),
    };
    let inner = match plain.len() {
        PEER_FIXED => None,
        PLAIN_INNER_V4 => Some((ip(4), ip(8))),
        PLAIN_INNER_V6 => Some((ip(4), ip(20))),
        _ => return None,
    }
    .map(|(source, destination)| Inner {
        source: SocketAddr::new(source, port(0)),
        destination: SocketAddr::new(destination, port(2)),
    });
    Some(PeerAddress {
        listener: u32::from_be_bytes(fixed[0..4].try_into().expect("4 bytes")),
        node: u16::from_be_bytes(fixed[4..6].try_into().expect("2 bytes")),
        expires: u32::from_be_bytes(fixed[6..10].try_into().expect("4 bytes")),
        peer: PeerId(fixed[10..].try_into().expect("12 bytes")),
        inner,
    })
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

    fn peer(inner: Option<(&str, &str)>) -> PeerAddress {
        let inner = inner.map(|(a, b)| Inner { source: a.parse().unwrap(), destination: b.parse().unwrap() });
        PeerAddress { listener: 7, node: 3, expires: 1_780_003_600, peer: PeerId([5; 12]), inner }
    }

    #[test]
    fn peers_with_and_without_inner_addresses() {
        let v4 = Some(("10.1.0.2:5000", "10.1.0.1:5683"));
        let v6 = Some(("[fd00::2]:5000", "[fd00::1]:5683"));
        for (inner, length) in [(None, 68), (v4, 84), (v6, 116)] {
            let address = peer(inner);
            let tag = TagSealer::new([9; 6]).seal_peer(&keys(), &address);
            let good = std::str::from_utf8(tag.as_bytes()).unwrap().to_owned();
            assert_eq!(good.len(), length);
            assert_eq!(keys().open_peer(NOW, &good), Ok(address));
            assert_eq!(keys().open(NOW, &good), Err(TagError::Invalid), "it is of another kind");
            for at in 0..good.len() * 8 {
                let mut bytes = good.clone().into_bytes();
                bytes[at / 8] ^= 1 << (at % 8);
                if let Ok(altered) = String::from_utf8(bytes) {
                    assert_eq!(keys().open_peer(NOW, &altered), Err(TagError::Invalid), "bit {at}");
                }
            }
            let later = Now { unix_ms: 1_780_003_600_000, ..NOW };
            assert_eq!(keys().open_peer(later, &good), Err(TagError::Expired));
        }
        let plain = text(&address("192.0.2.1:2048", "198.51.100.7:4000"));
        assert_eq!(keys().open_peer(NOW, &plain), Err(TagError::Invalid));
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
        fn anything_else_is_refused(text in "[A-Za-z0-9_-]{68}|[A-Za-z0-9_-]{104}|[A-Za-z0-9_-]{116}|.{0,120}") {
            prop_assert_eq!(keys().open(NOW, &text), Err(TagError::Invalid));
            prop_assert_eq!(keys().open_peer(NOW, &text), Err(TagError::Invalid));
        }
    }
}
