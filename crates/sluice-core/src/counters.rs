//! What a Listener counts. Every datagram in is `packets` of each Destination or one `rejected` (or WireGuard's own); every packet of a
//! Destination is in a batch or one `dropped`; every entry out is sent, duplicate or failed under one reason
//! (contract section 4.3). `docs/architecture.md`, "Counters", shows the JSON.

use crate::{
    coap::exchange::CoapCounters,
    reason::{Dropped, Reason, Rejected},
    session::wireguard::WireGuardCounters,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Counters of one Listener; all monotonic, but for what is queued.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names say it
pub struct Counters {
    pub received_packets: u64,
    pub received_bytes: u64,
    pub rejected: BTreeMap<Rejected, u64>,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    /// Packets that would have cost more than [`crate::brex::Budget`] gives: what was left to ask is null.
    pub expression_limits: u64,
    /// How often answers to a remote began to be limited.
    pub loops_suspected: u64,
    /// Handshakes, cookies and keepalives that were not sent.
    pub protocol_failed: BTreeMap<Reason, u64>,
    pub destinations: Vec<DestinationCounters>,
    pub sources: Vec<SourceCounters>,
    /// Of a `wg` Listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire_guard: Option<WireGuardCounters>,
    /// Where the gateway takes part in CoAP's exchanges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coap: Option<CoapCounters>,
}

/// Counters of one Destination.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct DestinationCounters {
    pub name: String,
    /// Packets for this Destination, dropped ones included.
    pub packets: u64,
    /// Their payloads.
    pub bytes: u64,
    /// Packets that the Destination's filter left out; they are in no other number here.
    pub filtered: u64,
    pub batches: u64,
    pub dropped: BTreeMap<Dropped, u64>,
    /// In ready batches that wait for the Destination; filled in by whoever keeps them.
    pub queued_packets: usize,
    pub queued_bytes: usize,
    /// Entries in the handler's answers that asked for a packet.
    pub replies: u64,
    pub replies_sent: u64,
    pub replies_sent_bytes: u64,
    pub replies_failed: BTreeMap<Reason, u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

impl DestinationCounters {
    /// Zeros.
    pub fn new(name: &str) -> DestinationCounters {
        DestinationCounters { name: name.to_owned(), ..Default::default() }
    }
}

/// Counters of one PacketSource: `entries == sent + duplicates + failed`, once everything has ended. What is scheduled is
/// among the entries once, and ends when it is due; so does what was scheduled before this start.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct SourceCounters {
    pub name: String,
    pub messages: u64,
    pub entries: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub duplicates: u64,
    /// Entries that were put off to their `SendAt`.
    pub scheduled: u64,
    pub failed: BTreeMap<Reason, u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

impl SourceCounters {
    /// Zeros.
    pub fn new(name: &str) -> SourceCounters {
        SourceCounters { name: name.to_owned(), ..Default::default() }
    }
}
