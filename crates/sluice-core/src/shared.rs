//! What all Listeners of a gateway share.

use crate::{
    scheduled::Waiting,
    session::wireguard::stamps::StampsByKey,
    spec::{AnswerSpec, DataplaneSpec},
    tag::TagKeys,
};

use std::sync::Arc;

/// Names and keys that go into every packet and Tag of this gateway.
pub struct Shared {
    /// This node's number.
    pub node: u16,
    /// `IngressRegion`.
    pub region: String,
    /// Keys of Tags.
    pub tag_keys: TagKeys,
    /// Lifetime of a Tag in seconds.
    pub tag_seconds: u32,
    /// What holds for answers.
    pub answers: AnswerSpec,
    /// The stamps of WireGuard handshakes.
    pub stamps: StampsByKey,
    /// Entries that wait for their `SendAt`.
    pub waiting: Arc<Waiting>,
}

impl Shared {
    /// Reads the keys; an error names what does not fit (never the key).
    pub fn new(spec: &DataplaneSpec) -> Result<Shared, String> {
        let mut keys = Vec::new();
        for key in &spec.tag_keys {
            let bytes = hex_simd::decode_to_vec(&key.key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            keys.push((key.id, bytes.ok_or_else(|| format!("Tag key {} is not 64 hexadecimal digits", key.id))?));
        }
        let tag_keys = TagKeys::new(keys.iter().map(|(id, key)| (*id, key)));
        Ok(Shared {
            node: spec.node,
            region: spec.region.clone(),
            tag_keys: tag_keys.ok_or("TagKeys needs at least one key, with an id from 0 to 15")?,
            tag_seconds: spec.tag_seconds,
            answers: spec.answers.clone(),
            stamps: StampsByKey::default(),
            waiting: Arc::default(),
        })
    }
}
