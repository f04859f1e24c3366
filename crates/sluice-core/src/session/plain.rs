//! Plain UDP: a remote has a session for a while after its last packet (`SessionIdleSeconds`, contract section 1.1).
//! Such a remote needs no permission of the egress policy unless its address is special (section 4.4), and packets for it
//! leave from the address that it spoke to.

use crate::{
    Now,
    address::{address_of, at_one_interface, malformed_remote},
    judge::{self, PAYLOAD_LIMIT_V4, PAYLOAD_LIMIT_V6, Surroundings},
    message::{RemoteField, Scalar, Way},
    reason::{Reason, Refused},
};
use hashlink::LinkedHashMap;
use std::net::{IpAddr, SocketAddr};

/// When a remote was heard last, and where.
struct Heard {
    at: u64,
    local: IpAddr,
}

/// Remotes heard lately: bounded in number, the least recent leaves first.
pub struct PlainSessions {
    idle: u64,
    limit: usize,
    /// Least recently heard in front.
    table: LinkedHashMap<SocketAddr, Heard, ahash::RandomState>,
}

impl PlainSessions {
    /// `idle` in nanoseconds; at most `limit` remotes.
    pub fn new(idle: u64, limit: usize) -> PlainSessions {
        PlainSessions { idle, limit: limit.max(1), table: LinkedHashMap::with_hasher(ahash::RandomState::new()) }
    }

    /// New limits; a table that is now too large shrinks as remotes are heard.
    pub fn update(&mut self, idle: u64, limit: usize) {
        (self.idle, self.limit) = (idle, limit.max(1));
    }

    /// `remote` sent something to `local`.
    pub fn heard(&mut self, now: Now, remote: SocketAddr, local: IpAddr) {
        // A run of datagrams has one remote and one moment.
        if let Some((last, heard)) = self.table.back()
            && (*last, heard.local, heard.at) == (remote, local, now.mono)
        {
            return;
        }
        self.table.insert(remote, Heard { at: now.mono, local });
        // At most two leave for one that comes, so that the table shrinks without a sweep.
        for _ in 0..2 {
            match self.table.front() {
                Some((_, oldest)) if self.table.len() > self.limit || self.gone(now, oldest) => {
                    self.table.pop_front();
                }
                _ => break,
            }
        }
    }

    /// The local address that `remote` last spoke to, if it has a session.
    pub fn local_of(&self, now: Now, remote: SocketAddr) -> Option<IpAddr> {
        self.table.get(&remote).filter(|heard| !self.gone(now, heard)).map(|heard| heard.local)
    }

    /// Expiry and egress policy of a sourced entry. Yields the address that its remote last spoke to, if it has a session.
    pub fn permit(
        &self,
        around: &Surroundings,
        source: usize,
        tagged: bool,
        remote: SocketAddr,
        expires_ms: u64,
    ) -> Result<Option<IpAddr>, Refused> {
        judge::in_time(around, expires_ms)?;
        let source = &around.spec.sources[source];
        let session = self.local_of(around.now, remote);
        if tagged {
            judge::permit_answer(around, remote)?;
        } else if let Some(detail) = source.egress_networks.refuse(&around.own.routes, remote.ip(), session.is_some()) {
            return Err((Reason::RemoteDenied, detail));
        } else {
            judge::permit_remote(around, remote)?;
            at_one_interface(remote)?;
        }
        if session.is_none() && source.require_session {
            return Err((Reason::NoSession, format!("{remote} has not spoken to the Listener lately")));
        }
        Ok(session)
    }

    /// Number of remotes remembered.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn gone(&self, now: Now, heard: &Heard) -> bool {
        now.mono.saturating_sub(heard.at) > self.idle
    }
}

/// Where an entry goes, and the address that it leaves from if its Tag says so.
#[inline]
pub fn find(around: &Surroundings, way: Way) -> Result<(Option<IpAddr>, SocketAddr), Refused> {
    match way.tag {
        Some(tag) => by_tag(around, tag),
        None => Ok((None, remote_of(around, way.remote)?)),
    }
}

fn by_tag(around: &Surroundings, tag: &str) -> Result<(Option<IpAddr>, SocketAddr), Refused> {
    let refused = |detail: &str| (Reason::InvalidTag, detail.to_owned());
    let address = around.shared.tag_keys.open(around.now, tag).map_err(judge::invalid_tag)?;
    judge::made_here(around, address.listener, address.node)?;
    if address.local.port() != around.bound.port() {
        return Err(refused("the Listener's port has changed since the Tag was made"));
    }
    Ok((Some(address.local.ip()), address.remote))
}

fn remote_of(around: &Surroundings, field: &RemoteField) -> Result<SocketAddr, Refused> {
    let RemoteField::Object { address, spelling, port, peer_key } = field else {
        return Err(malformed_remote("Remote (or Tag) is missing or not an object"));
    };
    match peer_key {
        Scalar::Absent | Scalar::Null => address_of(around.own, around.bound, address, spelling, port),
        Scalar::Text(key) if key.is_empty() => address_of(around.own, around.bound, address, spelling, port),
        // Sending in the clear what was meant for a peer would be worse than not sending it.
        Scalar::Text(_) => {
            Err((Reason::UnknownPeer, "Remote.PeerKey is set, but the Listener's protocol is udp".to_owned()))
        }
        _ => Err(malformed_remote("Remote.PeerKey is not a string")),
    }
}

/// A datagram to `remote` has room for `payload`.
#[inline]
pub fn fits(remote: SocketAddr, payload: &[u8]) -> Result<(), Refused> {
    let limit = if remote.is_ipv4() { PAYLOAD_LIMIT_V4 } else { PAYLOAD_LIMIT_V6 };
    if payload.len() > limit {
        let detail = format!("{} bytes; a datagram to {} carries at most {limit}", payload.len(), remote.ip());
        return Err((Reason::PayloadTooLarge, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SECOND;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, unix_ms: 0 }
    }

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], port))
    }

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_session_lasts_from_the_last_packet() {
        let mut sessions = PlainSessions::new(300 * SECOND, 10);
        sessions.heard(at(0), remote(1), LOCAL);
        sessions.heard(at(200), remote(1), LOCAL);
        assert_eq!(sessions.local_of(at(500), remote(1)), Some(LOCAL));
        assert_eq!(sessions.local_of(at(501), remote(1)), None);
        assert_eq!(sessions.local_of(at(0), remote(2)), None);
    }

    #[test]
    fn the_least_recent_leaves_first() {
        let mut sessions = PlainSessions::new(300 * SECOND, 2);
        sessions.heard(at(0), remote(1), LOCAL);
        sessions.heard(at(1), remote(2), LOCAL);
        sessions.heard(at(2), remote(1), LOCAL);
        sessions.heard(at(3), remote(3), LOCAL);
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions.local_of(at(3), remote(2)), None);
        assert!(sessions.local_of(at(3), remote(1)).is_some());
    }

    #[test]
    fn the_table_shrinks() {
        let mut sessions = PlainSessions::new(SECOND, 1_000);
        (0..1_000).for_each(|port| sessions.heard(at(0), remote(port), LOCAL));
        (10..1_010).for_each(|time| sessions.heard(at(time), remote(1), LOCAL));
        assert_eq!(sessions.len(), 1);
    }
}
