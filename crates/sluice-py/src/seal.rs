//! Sealing of secrets that are kept on disk: AES-256-GCM under a key of the caller's.

use crate::random::random;
use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

fn cipher(bytes: &[u8]) -> PyResult<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| PyValueError::new_err("a key has 32 bytes"))?;
    Ok(LessSafeKey::new(key))
}

/// `plain`, sealed together with `about`, which must be given again to unseal: nonce (random: NIST SP 800-38D, section
/// 8.2.2, allows 2^32 under one key), ciphertext, GCM tag.
#[pyfunction]
#[pyo3(signature = (key, plain, about))]
pub fn seal<'py>(py: Python<'py>, key: &[u8], plain: &[u8], about: &str) -> PyResult<Bound<'py, PyBytes>> {
    let nonce: [u8; NONCE_LEN] = random();
    let mut body = plain.to_vec();
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(about.as_bytes()), &mut body)
        .map_err(|_| PyValueError::new_err("it is too long to seal"))?;
    Ok(PyBytes::new(py, &[nonce.as_slice(), &body].concat()))
}

/// What `seal` sealed under the same key and `about`.
#[pyfunction]
#[pyo3(signature = (key, sealed, about))]
pub fn unseal<'py>(py: Python<'py>, key: &[u8], sealed: &[u8], about: &str) -> PyResult<Bound<'py, PyBytes>> {
    let wrong = || PyValueError::new_err("it was sealed under another key, or altered");
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
    let mut body = body.to_vec();
    let plain = cipher(key)?.open_in_place(nonce, Aad::from(about.as_bytes()), &mut body).map_err(|_| wrong())?;
    Ok(PyBytes::new(py, plain))
}
