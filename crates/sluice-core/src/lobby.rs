//! Where packets wait for their peer's session (`HoldSeconds`, contract section 1.3): bounded for each peer and in all, each
//! with its own deadline, in order.

use crate::{Now, outgoing::Outgoing, session::wireguard::keys::PeerId};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Packets that may wait for one peer.
pub const PER_PEER: usize = 256;
/// Packets that may wait for all peers of a Listener.
pub const IN_ALL: usize = 131_072;

/// A position in the queue: the deadline, and a number that tells apart what has the same one.
type Position = (u64, u64);

/// Packets that wait.
#[derive(Default)]
pub struct Lobby {
    packets: BTreeMap<Position, (PeerId, Outgoing)>,
    /// In the order in which they came.
    peers: HashMap<PeerId, VecDeque<Position>, ahash::RandomState>,
    count: u64,
}

impl Lobby {
    /// True if one more may wait for `peer`.
    pub fn has_room(&self, peer: &PeerId) -> bool {
        self.packets.len() < IN_ALL && self.peers.get(peer).is_none_or(|queue| queue.len() < PER_PEER)
    }

    /// Lets a packet wait until `deadline`, on the clock of [`Now::mono`].
    pub fn enter(&mut self, peer: PeerId, deadline: u64, packet: Outgoing) {
        let position = (deadline, self.count);
        self.count += 1;
        self.peers.entry(peer).or_default().push_back(position);
        self.packets.insert(position, (peer, packet));
    }

    /// Takes out all that wait for `peer`, in order.
    pub fn take(&mut self, peer: &PeerId) -> Vec<Outgoing> {
        let positions = self.peers.remove(peer).unwrap_or_default();
        positions.iter().filter_map(|position| self.packets.remove(position)).map(|(_, packet)| packet).collect()
    }

    /// Takes out one whose time is over.
    pub fn expire(&mut self, now: Now) -> Option<Outgoing> {
        let first = self.packets.first_entry().filter(|first| first.key().0 <= now.mono)?;
        let (position, (peer, packet)) = first.remove_entry();
        if let Some(queue) = self.peers.get_mut(&peer) {
            queue.retain(|&other| other != position);
            if queue.is_empty() {
                self.peers.remove(&peer);
            }
        }
        Some(packet)
    }

    /// Takes out everything.
    pub fn clear(&mut self) -> Vec<Outgoing> {
        self.peers.clear();
        std::mem::take(&mut self.packets).into_values().map(|(_, packet)| packet).collect()
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.packets.first_key_value().map(|(&(deadline, _), _)| deadline)
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }
}
