//! What the Python side hands over: the few facts of a resource that concern packets. Validation for users happens
//! there, with file, line and column; an error here is a bug of ours or of an embedding program.

use crate::{
    brex::Expression,
    format::Formatter,
    inner::Recent,
    policy::Networks,
    session::wireguard::keys::{PublicKey, Secret},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// One gateway's data plane.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DataplaneSpec {
    /// This node's number, sealed into Tags.
    pub node: u16,
    /// `IngressRegion` of packets.
    pub region: String,
    /// At least one; the last one seals, all of them open.
    pub tag_keys: Vec<TagKeySpec>,
    /// Lifetime of a Tag in seconds.
    pub tag_seconds: u32,
    /// What holds for answers; nothing where it is left out.
    #[serde(default)]
    pub answers: AnswerSpec,
}

/// What holds for answers: handlers' replies, and Tags in messages (contract section 4.4).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct AnswerSpec {
    /// Ports of services that answer anything: no answer goes there.
    pub refuse_ports: Vec<u16>,
    /// Limit answers to a remote that returns each of them.
    pub loop_guard: bool,
    /// Remotes that the loop guard leaves alone.
    pub loop_exempt: Networks,
    /// Most answers to one remote in a second.
    #[serde(default)]
    pub per_second: Option<f64>,
}

/// A Tag key.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TagKeySpec {
    /// 0 to 15; stands in the Tag in the clear.
    pub id: u8,
    /// 64 hex digits.
    pub key: String,
}

impl std::fmt::Debug for TagKeySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TagKeySpec {{ id: {}, key: … }}", self.id)
    }
}

/// One Listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ListenerSpec {
    /// Stable number, sealed into Tags; never reused.
    pub id: u32,
    /// The resource's name.
    pub name: String,
    /// `Local.Domain` of packets.
    pub domain: String,
    /// Where to bind; port 0 lets the kernel choose.
    pub bind: SocketAddr,
    /// With an IPv6 wildcard: serve IPv4 on the same socket.
    #[serde(default)]
    pub dual_stack: bool,
    /// Groups that the socket joins.
    #[serde(default)]
    pub multicast: MulticastSpec,
    /// Clients that may send.
    pub client_networks: Networks,
    /// How long a remote counts as having a session.
    pub session_idle_seconds: f64,
    /// Most remotes remembered; the least recent leaves first.
    pub session_limit: usize,
    /// Bytes of submitted messages and replies that may wait to be sent.
    pub ring_bytes: usize,
    /// Where packets go. A place in this list is what everybody else calls a Destination by, so an update never moves one:
    /// it adds at the end, and a place that is `removed` may be given to another once nothing of the old one is left.
    #[serde(default)]
    pub destinations: Vec<DestinationSpec>,
    /// Where sourced messages come from; places as those of `destinations`.
    #[serde(default)]
    pub sources: Vec<SourceSpec>,
    /// Present: the protocol is `wg`, else `udp`.
    #[serde(default)]
    pub wire_guard: Option<WireGuardSpec>,
    /// Present: the gateway takes part in CoAP's exchanges, for the Destination whose formatter is `coap`.
    #[serde(default)]
    pub coap: Option<CoapSpec>,
}

/// What the gateway does of CoAP by itself (RFC 7252 section 4).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct CoapSpec {
    /// A repeated message gets its answer again, and is not delivered again.
    pub deduplicate: bool,
    /// Seconds after which a message without an answer gets an empty acknowledgement.
    #[serde(default)]
    pub acknowledge_after: Option<f64>,
}

/// Multicast groups that a Listener receives from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct MulticastSpec {
    /// The groups, of both families.
    pub groups: Vec<IpAddr>,
    /// The index of the interface at which they are joined; 0: the kernel chooses.
    pub interface: u32,
}

/// The part of a spec that only a `wg` Listener has (contract section 5).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct WireGuardSpec {
    /// The Listener's private key.
    pub private_key: Secret,
    /// The peers that may speak to the Listener.
    #[serde(default)]
    pub peers: Vec<PeerSpec>,
    /// Whether unknown peers may speak to it too.
    #[serde(default)]
    pub allow_unknown_peers: bool,
    /// The pre-shared key that unknown peers need, if any.
    #[serde(default)]
    pub unknown_peer_pre_shared_key: Option<Secret>,
    /// Deliver inner UDP payloads with `Inner`, and wrap what is sent.
    #[serde(default)]
    pub decapsulated_delivery: bool,
    /// What was known of peers before this start.
    #[serde(default)]
    pub known: Vec<PeerMemory>,
    /// Handshakes with this key may have used stamps up to here, in Unix nanoseconds.
    #[serde(default)]
    pub stamp_floor: u64,
    /// It is written down that they may use them up to here.
    #[serde(default)]
    pub stamp_reserved: u64,
}

/// A peer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PeerSpec {
    /// The peer's public key, which is its name in messages.
    pub public_key: PublicKey,
    /// Inner sources that the peer may use; none, or both whole families: it may send anything.
    #[serde(default, rename = "AllowedIPs")]
    pub allowed_ips: Vec<IpNet>,
    /// The pre-shared key, if any.
    #[serde(default)]
    pub shared_secret: Option<Secret>,
    /// How often to send something unasked, so that the way stays open; 0: never.
    #[serde(default)]
    pub persistent_keepalive_seconds: u16,
}

/// What is kept of a peer over a restart, so that the gateway can speak to it first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PeerMemory {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The address at which the peer receives. None: there is nothing to remember.
    #[serde(default)]
    pub remote: Option<SocketAddr>,
    /// The gateway's address that the peer speaks to.
    #[serde(default)]
    pub local: Option<IpAddr>,
    /// The inner addresses that the peer used last.
    #[serde(default)]
    pub recent: Recent,
}

impl PeerMemory {
    /// The peer is to be forgotten.
    pub fn nothing(public_key: PublicKey) -> PeerMemory {
        PeerMemory { public_key, remote: None, local: None, recent: Recent::None }
    }
}

/// One Destination of a Listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DestinationSpec {
    /// The resource's name.
    pub name: String,
    /// How `Data` is written and replies are read.
    pub formatter: Formatter,
    /// Packets for which this is not true are not for the Destination.
    #[serde(default)]
    pub filter: Option<Expression>,
    /// What the Destination asks of each packet.
    #[serde(default)]
    pub values: Vec<ValueSpec>,
    /// Most packets in a batch.
    pub count: usize,
    /// Longest wait of a batch's first packet.
    pub timeout_seconds: f64,
    /// Most bytes in a batch's body; a single larger packet goes alone.
    pub size_bytes: usize,
    /// Bytes of ready batches that may wait for the Destination.
    pub queue_bytes: usize,
    /// False: packets are dropped and counted until an ARN is bound.
    pub bound: bool,
    /// True: it gets no more packets; what it has is still delivered and answered.
    #[serde(default)]
    pub removed: bool,
}

/// An expression among a Destination's arguments, such as `PartitionKeyExpression`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ValueSpec {
    /// The argument.
    pub name: String,
    /// What is asked.
    pub expression: Expression,
    /// How bytes are shown.
    pub formatter: Formatter,
}

impl DestinationSpec {
    /// True if it stays what it is when `after` comes to its place; false when it gives the place to another one.
    pub fn stays(&self, after: &DestinationSpec) -> bool {
        self.name == after.name && (after.removed || !self.removed)
    }
}

/// One PacketSource of a Listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SourceSpec {
    /// The resource's name.
    pub name: String,
    /// Where this source may send (contract section 4.4).
    pub egress_networks: Networks,
    /// Age after which an entry without its own TTL is not sent.
    #[serde(default)]
    pub default_ttl_seconds: Option<f64>,
    /// The longest that an entry waits for pacing.
    pub hold_seconds: f64,
    /// Pacing, if any.
    #[serde(default)]
    pub rate_limit: Option<RateLimitSpec>,
    /// Send only to remotes that have a session.
    #[serde(default)]
    pub require_session: bool,
    /// How long an `Id` is remembered after it was sent.
    pub dedup_seconds: f64,
    /// Most Ids remembered.
    pub dedup_limit: usize,
    /// True: it sends no more; what was taken is still sent.
    #[serde(default)]
    pub removed: bool,
}

impl SourceSpec {
    /// As [`DestinationSpec::stays`].
    pub fn stays(&self, after: &SourceSpec) -> bool {
        self.name == after.name && (after.removed || !self.removed)
    }
}

/// `RateLimit` of a PacketSource.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct RateLimitSpec {
    /// Packets a second, all remotes together.
    #[serde(default)]
    pub packets_per_second: Option<f64>,
    /// Packets that may leave at once after a pause; 1 where absent.
    #[serde(default)]
    pub burst: Option<u64>,
    /// Packets a second to each remote.
    #[serde(default)]
    pub per_remote_packets_per_second: Option<f64>,
}
