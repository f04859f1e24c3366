//! The four messages on the wire (whitepaper, section 5.4). Numbers are little-endian.
//!
//! ```text
//! initiation   1 0 0 0 | sender 4 | noise 108 | mac1 16 | mac2 16              148 bytes
//! response     2 0 0 0 | sender 4 | receiver 4 | noise 48 | mac1 16 | mac2 16   92 bytes
//! cookie       3 0 0 0 | receiver 4 | nonce 24 | sealed cookie 16 + 16          64 bytes
//! data         4 0 0 0 | receiver 4 | counter 8 | sealed plaintext n + 16       32 bytes or more
//! ```

use super::{
    keys::{TAG, XNONCE},
    noise::{FIRST_LEN, SECOND_LEN},
};

/// Bytes of an initiation.
pub const INITIATION: usize = 8 + FIRST_LEN + 2 * TAG;
/// Bytes of a response.
pub const RESPONSE: usize = 12 + SECOND_LEN + 2 * TAG;
/// Bytes of a cookie reply.
pub const COOKIE: usize = 8 + XNONCE + 2 * TAG;
/// Bytes before the plaintext of a data message.
pub const HEADER: usize = 16;
/// Bytes that a data message adds to its plaintext.
pub const OVERHEAD: usize = HEADER + TAG;

/// A message by its kind; lengths and reserved bytes are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Somebody begins a handshake.
    Initiation(&'a [u8; INITIATION]),
    /// The answer to ours.
    Response(&'a [u8; RESPONSE]),
    /// We are to prove our address first.
    Cookie(&'a [u8; COOKIE]),
    /// A packet of a session.
    Data {
        /// Which of our sessions.
        receiver: u32,
        /// The packet's number in that session.
        counter: u64,
        /// Ciphertext and tag.
        sealed: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// None for anything else.
    pub fn parse(datagram: &'a [u8]) -> Option<Message<'a>> {
        Some(match datagram.get(..4)? {
            [1, 0, 0, 0] => Message::Initiation(datagram.try_into().ok()?),
            [2, 0, 0, 0] => Message::Response(datagram.try_into().ok()?),
            [3, 0, 0, 0] => Message::Cookie(datagram.try_into().ok()?),
            [4, 0, 0, 0] if datagram.len() >= OVERHEAD => Message::Data {
                receiver: u32_at(datagram, 4),
                counter: u64::from_le_bytes(datagram[8..HEADER].try_into().expect("8 bytes")),
                sealed: &datagram[HEADER..],
            },
            _ => return None,
        })
    }
}

/// A number at a place that is known to exist.
pub fn u32_at(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(message[at..at + 4].try_into().expect("4 bytes"))
}

/// An initiation, but for its MACs.
pub fn initiation(sender: u32, noise: &[u8; FIRST_LEN]) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    message[0] = 1;
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..8 + FIRST_LEN].copy_from_slice(noise);
    message
}

/// A response, but for its MACs.
pub fn response(sender: u32, receiver: u32, noise: &[u8; SECOND_LEN]) -> [u8; RESPONSE] {
    let mut message = [0; RESPONSE];
    message[0] = 2;
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..12].copy_from_slice(&receiver.to_le_bytes());
    message[12..12 + SECOND_LEN].copy_from_slice(noise);
    message
}

/// A cookie reply.
pub fn cookie(receiver: u32, nonce: &[u8; XNONCE], sealed: &[u8; TAG], tag: &[u8; TAG]) -> [u8; COOKIE] {
    let mut message = [0; COOKIE];
    message[0] = 3;
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message[8..8 + XNONCE].copy_from_slice(nonce);
    message[COOKIE - 2 * TAG..COOKIE - TAG].copy_from_slice(sealed);
    message[COOKIE - TAG..].copy_from_slice(tag);
    message
}

/// The head of a data message.
pub fn data(receiver: u32, counter: u64) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[0] = 4;
    head[4..8].copy_from_slice(&receiver.to_le_bytes());
    head[8..].copy_from_slice(&counter.to_le_bytes());
    head
}

/// Noise's part of an initiation.
pub fn first(message: &[u8; INITIATION]) -> &[u8; FIRST_LEN] {
    message[8..8 + FIRST_LEN].try_into().expect("it lies within")
}

/// Noise's part of a response.
pub fn second(message: &[u8; RESPONSE]) -> &[u8; SECOND_LEN] {
    message[12..12 + SECOND_LEN].try_into().expect("it lies within")
}

/// A handshake message without its MACs, with mac1 alone, and both MACs.
pub struct Macs<'a> {
    /// What mac1 covers.
    pub body: &'a [u8],
    /// What mac2 covers.
    pub with_mac1: &'a [u8],
    /// Proves that the sender knows our public key.
    pub mac1: &'a [u8; TAG],
    /// Proves that the sender receives at its address; zeros where it has no cookie.
    pub mac2: &'a [u8; TAG],
}

/// The end of an initiation or a response.
pub fn macs(message: &[u8]) -> Macs<'_> {
    let (with_mac1, mac2) = message.split_last_chunk().expect("a handshake message is longer");
    let (body, mac1) = with_mac1.split_last_chunk().expect("a handshake message is longer");
    Macs { body, with_mac1, mac1, mac2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_of_the_protocol() {
        assert_eq!((INITIATION, RESPONSE, COOKIE, OVERHEAD), (148, 92, 64, 32));
    }

    #[test]
    fn what_is_written_is_read() {
        let written = initiation(5, &[9; FIRST_LEN]);
        let Some(Message::Initiation(message)) = Message::parse(&written) else { panic!() };
        assert_eq!((u32_at(message, 4), first(message)), (5, &[9; FIRST_LEN]));
        let written = response(5, 6, &[9; SECOND_LEN]);
        let Some(Message::Response(message)) = Message::parse(&written) else { panic!() };
        assert_eq!((u32_at(message, 4), u32_at(message, 8), second(message)), (5, 6, &[9; SECOND_LEN]));
        let written = cookie(7, &[1; XNONCE], &[2; TAG], &[3; TAG]);
        assert_eq!(Message::parse(&written), Some(Message::Cookie(&written)));
        let mut written = data(7, 1 << 40).to_vec();
        written.extend([8; TAG]);
        let expected = Message::Data { receiver: 7, counter: 1 << 40, sealed: &[8; TAG] };
        assert_eq!(Message::parse(&written), Some(expected));
    }

    #[test]
    fn other_lengths_and_reserved_bits_are_no_message() {
        for (kind, length) in [(1u8, INITIATION), (2, RESPONSE), (3, COOKIE), (4, OVERHEAD)] {
            let mut message = vec![0; length];
            message[0] = kind;
            assert!(Message::parse(&message).is_some());
            assert!(Message::parse(&message[..length - 1]).is_none());
            let longer = [&message[..], &[0]].concat();
            assert_eq!(Message::parse(&longer).is_some(), kind == 4);
            for reserved in 1..4 {
                let mut message = message.clone();
                message[reserved] = 1;
                assert!(Message::parse(&message).is_none());
            }
        }
    }

    proptest! {
        #[test]
        fn anything_parses_or_not(datagram in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            let mut datagram = datagram;
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            let _ = Message::parse(&datagram);
        }
    }
}
