//! What a Listener has counted.

use sluice_core::Counters;
use std::collections::BTreeMap;

/// One Listener's counters at a moment, with what only the I/O layer knows.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub counters: Counters,
    pub kernel_drops: u64,
    pub icmp_errors: BTreeMap<&'static str, u64>,
}
