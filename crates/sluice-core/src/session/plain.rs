//! Plain UDP: a remote has a session for a while after its last packet (`SessionIdleSeconds`, contract section 1.1).
//! It needs no permission of the egress policy (section 4.4), and packets for it leave from the address it spoke to.

use crate::Now;
use hashlink::LinkedHashMap;
use std::net::{IpAddr, SocketAddr};

struct Session {
    heard: u64,
    local: IpAddr,
}

/// Remotes heard lately: bounded in number, the least recent leaves first.
pub struct PlainSessions {
    idle: u64,
    limit: usize,
    /// Least recently heard in front.
    table: LinkedHashMap<SocketAddr, Session, ahash::RandomState>,
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
        self.table.insert(remote, Session { heard: now.mono, local });
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
        self.table.get(&remote).filter(|session| !self.gone(now, session)).map(|session| session.local)
    }

    /// Number of remotes remembered.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn gone(&self, now: Now, session: &Session) -> bool {
        now.mono.saturating_sub(session.heard) > self.idle
    }
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
        (0..1_000).for_each(|_| sessions.heard(at(10), remote(1), LOCAL));
        assert_eq!(sessions.len(), 1);
    }
}
