//! Random bytes for keys, nonces and salts.

use ring::rand::{SecureRandom, SystemRandom};

/// Fresh bytes of the operating system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
