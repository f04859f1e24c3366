//! WireGuard key pairs, in the base64 that its programs use.

use crate::random::random;
use base64_simd::STANDARD;
use pyo3::{exceptions::PyValueError, prelude::*};
use sluice_core::session::wireguard::{PublicKey, Secret, keys::Identity};

/// A new private key: 32 random bytes, with the bits that X25519 ignores as `wg genkey` sets them (RFC 7748, section 5).
#[pyfunction]
pub fn generate_private_key() -> String {
    let mut key: [u8; 32] = random();
    key[0] &= 0b1111_1000;
    key[31] = key[31] & 0b0111_1111 | 0b0100_0000;
    STANDARD.encode_to_string(key)
}

/// The spelling of a public key that `wg pubkey` prints. None for one that no private key has.
#[pyfunction]
#[pyo3(signature = (key))]
pub fn canonical_public_key(key: &str) -> PyResult<Option<String>> {
    let key = PublicKey::from_base64(key).ok_or_else(|| PyValueError::new_err("a key is the base64 of 32 bytes"))?;
    Ok((!key.is_weak()).then(|| key.canonical().to_base64()))
}

/// The public key that belongs to a private one.
#[pyfunction]
#[pyo3(signature = (private_key))]
pub fn public_key(private_key: &str) -> PyResult<String> {
    let bytes = PublicKey::from_base64(private_key);
    let bytes = bytes.ok_or_else(|| PyValueError::new_err("a key is the base64 of 32 bytes"))?;
    Ok(Identity::new(&Secret(bytes.0)).public.to_base64())
}
