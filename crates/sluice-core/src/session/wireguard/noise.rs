//! The handshake's cryptography: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (whitepaper, section 5.4), by `snow` over
//! primitives of our choice.
//!
//! Theory. `snow` brings the pattern, and its order of mixing and checking; we bring primitives that wipe their keys,
//! refuse a shared secret of zeros, and know the static public key instead of computing it for each handshake. What
//! `snow` keeps itself (chaining keys, the pre-shared key) is overwritten when a handshake ends, see [`wipe`].

use super::keys::{Identity, KEY, PublicKey, Secret, TAG};
use blake2::{Blake2s256, Digest};
use ring::rand::{SecureRandom, SystemRandom};
use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use std::{
    hint::black_box,
    sync::{Arc, LazyLock},
};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey as Point, StaticSecret};

/// Length of a TAI64N timestamp.
pub const TIMESTAMP: usize = 12;
/// Noise's part of an initiation: ephemeral key, static key, timestamp.
pub const FIRST_LEN: usize = KEY + KEY + TAG + TIMESTAMP + TAG;
/// Noise's part of a response: ephemeral key, nothing.
pub const SECOND_LEN: usize = KEY + TAG;

const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const PSK_PLACE: u8 = 2;
static PARAMS: LazyLock<NoiseParams> =
    LazyLock::new(|| "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().expect("a valid name"));

/// The two keys of a session.
pub struct SessionKeys {
    /// For what we send.
    pub send: Secret,
    /// For what we receive.
    pub receive: Secret,
}

/// Our own first message has been made; the second one has not come yet.
pub struct Initiated(Box<HandshakeState>);

impl Initiated {
    /// Writes the first message.
    pub fn start(
        us: &Identity,
        peer: &PublicKey,
        psk: &Secret,
        timestamp: &[u8; TIMESTAMP],
        out: &mut [u8; FIRST_LEN],
    ) -> Option<Initiated> {
        let builder = builder(us).remote_public_key(&peer.0).ok()?.psk(PSK_PLACE, &psk.0).ok()?;
        let mut state = Box::new(builder.build_initiator().ok()?);
        // Fails for a public key that no private one has: a shared secret of zeros.
        state.write_message(timestamp, out).ok()?;
        Some(Initiated(state))
    }

    /// Reads the second message. One that is not genuine changes nothing: the right one may still come.
    pub fn finish(&mut self, message: &[u8; SECOND_LEN]) -> Option<SessionKeys> {
        self.0.read_message(message, &mut []).ok()?;
        let (send, receive) = self.0.dangerously_get_raw_split();
        Some(SessionKeys { send: Secret(send), receive: Secret(receive) })
    }
}

impl Drop for Initiated {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// A first message that is genuine: whoever sent it holds the private key of `peer`, if it is no replay.
pub struct Received {
    state: Box<HandshakeState>,
    /// Who.
    pub peer: PublicKey,
    /// When, by the peer's clock; greater than any before, or it is a replay.
    pub timestamp: [u8; TIMESTAMP],
}

impl Received {
    /// Reads the first message.
    pub fn read(us: &Identity, message: &[u8; FIRST_LEN]) -> Option<Received> {
        let mut state = Box::new(builder(us).build_responder().ok()?);
        let mut timestamp = [0; TIMESTAMP];
        state.read_message(message, &mut timestamp).ok()?;
        let peer = PublicKey(state.get_remote_static()?.try_into().ok()?);
        Some(Received { state, peer, timestamp })
    }

    /// Writes the second message. Only who knows `psk` can read it.
    pub fn answer(mut self, psk: &Secret, out: &mut [u8; SECOND_LEN]) -> Option<SessionKeys> {
        self.state.set_psk(PSK_PLACE.into(), &psk.0).ok()?;
        self.state.write_message(&[], out).ok()?;
        let (receive, send) = self.state.dangerously_get_raw_split();
        Some(SessionKeys { send: Secret(send), receive: Secret(receive) })
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        wipe(&mut self.state);
    }
}

/// Overwrites what `snow` does not wipe: the state's chaining key is the root of the session's keys.
fn wipe(state: &mut HandshakeState) {
    static NOBODY: LazyLock<Identity> = LazyLock::new(|| Identity::new(&Secret([1; KEY])));
    if let Ok(blank) = builder(&NOBODY).build_responder() {
        *state = blank;
    }
    black_box(state); // or the overwriting could be optimised away
}

fn builder(us: &Identity) -> Builder<'_> {
    let primitives = Primitives { known: Arc::new(Known { private: Secret(*us.private()), public: us.public.0 }) };
    let builder = Builder::with_resolver(PARAMS.clone(), Box::new(primitives));
    let builder = builder.local_private_key(us.private()).and_then(|builder| builder.prologue(PROLOGUE));
    builder.expect("each is set once")
}

struct Primitives {
    known: Arc<Known>,
}

/// A key pair whose public key need not be computed.
struct Known {
    private: Secret,
    public: [u8; KEY],
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Entropy(SystemRandom::new())))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(X25519 { known: self.known.clone(), private: Secret([0; KEY]), public: [0; KEY] }))
    }

    fn resolve_hash(&self, _: &HashChoice) -> Option<Box<dyn Hash>> {
        Some(Box::new(Blake2s(Blake2s256::new())))
    }

    fn resolve_cipher(&self, _: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(Box::new(ChaChaPoly(Secret([0; KEY]))))
    }
}

struct Entropy(SystemRandom);

impl Random for Entropy {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(out).map_err(|_| snow::Error::Rng)
    }
}

struct X25519 {
    known: Arc<Known>,
    private: Secret,
    public: [u8; KEY],
}

impl X25519 {
    fn take(&mut self) {
        self.public = match self.private.0.ct_eq(&self.known.private.0).into() {
            true => self.known.public,
            false => Point::from(&StaticSecret::from(self.private.0)).to_bytes(),
        };
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY
    }

    fn priv_len(&self) -> usize {
        KEY
    }

    fn set(&mut self, private: &[u8]) {
        self.private.0.copy_from_slice(private);
        self.take();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        random.try_fill_bytes(&mut self.private.0)?;
        self.take();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private.0
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public: [u8; KEY] = public[..KEY].try_into().map_err(|_| snow::Error::Dh)?;
        let shared = StaticSecret::from(self.private.0).diffie_hellman(&Point::from(public));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out[..KEY].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        KEY
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..KEY].copy_from_slice(&self.0.finalize_reset());
    }
}

struct ChaChaPoly(Secret);

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY]) {
        self.0 = Secret(*key);
    }

    fn encrypt(&self, nonce: u64, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, rest) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        rest[..TAG].copy_from_slice(&self.0.seal(nonce, aad, sealed));
        plaintext.len() + TAG
    }

    fn decrypt(&self, nonce: u64, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, snow::Error> {
        let mut buffer = sealed.to_vec();
        let plaintext = self.0.open(nonce, aad, &mut buffer).ok_or(snow::Error::Decrypt)?;
        out.get_mut(..plaintext.len()).ok_or(snow::Error::Input)?.copy_from_slice(plaintext);
        Ok(plaintext.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Identity, Identity, Secret) {
        (Identity::new(&Secret([1; KEY])), Identity::new(&Secret([2; KEY])), Secret([3; KEY]))
    }

    #[test]
    fn both_sides_agree() {
        let (a, b, psk) = pair();
        let (mut first, mut second) = ([0; FIRST_LEN], [0; SECOND_LEN]);
        let mut initiated = Initiated::start(&a, &b.public, &psk, &[7; TIMESTAMP], &mut first).unwrap();
        let received = Received::read(&b, &first).unwrap();
        assert_eq!((received.peer, received.timestamp), (a.public, [7; TIMESTAMP]));
        let theirs = received.answer(&psk, &mut second).unwrap();
        // A forged answer must not spoil the true one.
        let mut forged = second;
        forged[40] ^= 1;
        assert!(initiated.finish(&forged).is_none());
        let ours = initiated.finish(&second).unwrap();
        assert_eq!((ours.send.0, ours.receive.0), (theirs.receive.0, theirs.send.0));
        assert_ne!(ours.send.0, ours.receive.0);
    }

    #[test]
    fn another_psk_is_another_session() {
        let (a, b, psk) = pair();
        let (mut first, mut second) = ([0; FIRST_LEN], [0; SECOND_LEN]);
        let mut initiated = Initiated::start(&a, &b.public, &psk, &[0; TIMESTAMP], &mut first).unwrap();
        Received::read(&b, &first).unwrap().answer(&Secret([4; KEY]), &mut second).unwrap();
        assert!(initiated.finish(&second).is_none());
    }

    #[test]
    fn every_flipped_bit_of_the_first_message_is_refused() {
        let (a, b, psk) = pair();
        let mut first = [0; FIRST_LEN];
        Initiated::start(&a, &b.public, &psk, &[0; TIMESTAMP], &mut first).unwrap();
        assert!(Received::read(&a, &first).is_none(), "it was for somebody else");
        for bit in 0..FIRST_LEN * 8 {
            let mut altered = first;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(Received::read(&b, &altered).is_none(), "bit {bit}");
        }
    }

    /// Points of small order give a shared secret that everybody knows (RFC 7748, section 6.1).
    #[test]
    fn a_point_of_small_order_is_refused() {
        let (a, b, psk) = pair();
        let mut one = [0; KEY];
        one[0] = 1;
        for point in [[0; KEY], one] {
            let mut first = [0; FIRST_LEN];
            assert!(Initiated::start(&a, &PublicKey(point), &psk, &[0; TIMESTAMP], &mut first).is_none());
            Initiated::start(&a, &b.public, &psk, &[0; TIMESTAMP], &mut first).unwrap();
            first[..KEY].copy_from_slice(&point);
            assert!(Received::read(&b, &first).is_none());
        }
    }
}
