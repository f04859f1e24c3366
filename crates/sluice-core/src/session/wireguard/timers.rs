//! What happens because time passes (whitepaper, sections 6.1 to 6.5).

use super::{Kind, WireGuard, handshake::REKEY_TIMEOUT, peers::NEVER};
use crate::{Now, time::SECOND};

/// Who has received and sent nothing for so long sends a keepalive.
pub const KEEPALIVE_TIMEOUT: u64 = 10 * SECOND;
/// Who has sent and received nothing for so long begins a new handshake: the other side should have sent at least a
/// keepalive.
pub const SILENCE: u64 = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT;

/// Peers that are worked for in one call: a handshake takes its time.
const AT_ONCE: usize = 64;

impl WireGuard {
    /// When [`handle_timeout`](Self::handle_timeout) may have something to do, on the clock of [`Now::mono`].
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Does what is due, for a bounded number of peers: what is left stays due.
    pub fn handle_timeout(&mut self, now: Now) {
        for _ in 0..AT_ONCE {
            let Some(&(_, place)) = self.timers.first().filter(|&&(at, _)| at <= now.mono) else { return };
            self.timers.pop_first();
            self.live(place).scheduled = NEVER;
            self.work(now, place);
            self.end_sessions(now, place);
        }
    }

    fn work(&mut self, now: Now, place: u32) {
        let due = |at: &mut u64| *at <= now.mono && std::mem::replace(at, NEVER) != NEVER;
        let live = self.live(place);
        let retry = live.handshake.as_ref().is_some_and(|handshake| handshake.retry_at <= now.mono);
        let silent = due(&mut live.silent_at);
        let another = std::mem::take(&mut live.another_keepalive);
        let keepalive = due(&mut live.keepalive_at);
        let persistent = due(&mut live.persistent_at);
        if retry {
            self.retry(now, place);
        }
        if silent {
            self.initiate(now, place);
        }
        if keepalive && another {
            self.live(place).keepalive_at = now.mono.saturating_add(KEEPALIVE_TIMEOUT);
        }
        let sent = (keepalive || persistent) && self.send_keepalive(now, place);
        if persistent && !sent {
            self.initiate(now, place);
            self.arm_persistent(now, place);
        }
    }

    /// An empty packet; false without a session.
    fn send_keepalive(&mut self, now: Now, place: u32) -> bool {
        let again = self.live(place).keepalive_at;
        let Some(transmit) = self.seal_at(now, place, &[], false) else { return false };
        self.live(place).keepalive_at = again;
        self.counters.keepalives_sent += 1;
        self.transmits.push_back(transmit);
        true
    }

    /// Wipes the keys that are of no more use, and with the last of them everything that is only there for their sake.
    fn end_sessions(&mut self, now: Now, place: u32) {
        let live = self.live(place);
        let all = [&mut live.current, &mut live.previous, &mut live.next];
        let ended = all.map(|session| session.take_if(|session| session.ends() <= now.mono));
        ended.into_iter().for_each(|session| self.release(session));
        let live = self.live(place);
        if live.due() != NEVER {
            return self.reschedule(place);
        }
        let live = self.peers.get_mut(place).live.take();
        live.into_iter().for_each(|live| self.retire(place, &live));
        if self.peers.get(place).kind == Kind::Candidate {
            self.remove(place);
        }
    }

    /// The unasked keepalive counts from the last packet, in or out.
    pub(super) fn arm_persistent(&mut self, now: Now, place: u32) {
        let peer = self.peers.get(place);
        if peer.keepalive > 0 && peer.endpoint().is_some() {
            let at = now.mono.saturating_add(u64::from(peer.keepalive) * SECOND);
            self.live(place).persistent_at = at;
            self.reschedule(place);
        }
    }

    /// Sees to it that the queue has the peer no later than something is due.
    pub(super) fn reschedule(&mut self, place: u32) {
        let Some(live) = self.peers.get_mut(place).live.as_deref_mut() else { return };
        let due = live.due();
        if due < live.scheduled {
            self.timers.remove(&(live.scheduled, place));
            self.timers.insert((due, place));
            live.scheduled = due;
        }
    }
}
