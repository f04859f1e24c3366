//! What holds for answers alone, which are handlers' replies and Tags in messages (contract section 4.4): none to the ports
//! of services that answer anything, none faster than the operator allows, and none for ever to a remote that returns
//! each ([`crate::loop_guard`]).

use crate::{
    Now,
    loop_guard::Returns,
    outgoing::To,
    pacing::Recipient,
    reason::{Reason, Refused},
    spec::AnswerSpec,
    time::SECOND,
};
use ahash::RandomState;
use hashlink::{LinkedHashMap, linked_hash_map::RawEntryMut};
use std::net::SocketAddr;

/// Remotes of one Listener that are remembered, at most. The one that was answered least recently leaves first.
const REMOTES: usize = 65_536;
/// Nanoseconds for which a remote is remembered that gets no answer.
const IDLE: u64 = 2 * SECOND;
/// The same for a remote to which answers are limited.
const LIMITED_IDLE: u64 = 3_600 * SECOND;

/// The answers of one Listener.
pub struct Answers {
    remotes: LinkedHashMap<Recipient, Answered, RandomState>,
    /// Hashes payloads, under a key that nobody else knows.
    hasher: RandomState,
}

/// A remote that was answered lately.
#[derive(Default)]
struct Answered {
    at: u64,
    returns: Returns,
    /// When it may be answered again at the steady pace of `per_second`.
    due: u64,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers { remotes: LinkedHashMap::with_hasher(RandomState::new()), hasher: RandomState::new() }
    }
}

impl Answers {
    /// Judges an answer that the policy permits, and remembers it. `remote` is the address behind `to`, if it is known.
    #[inline]
    pub fn permit(
        &mut self,
        now: Now,
        rules: &AnswerSpec,
        to: &To,
        remote: Option<SocketAddr>,
        payload: &[u8],
    ) -> Result<(), Refused> {
        if let To::Remote { remote, .. } = to
            && rules.refuse_ports.contains(&remote.port())
        {
            let detail = format!("services at port {} answer anything (refuse_answers_to_ports)", remote.port());
            return Err((Reason::AnswerRefused, detail));
        }
        let guarded = rules.loop_guard && !remote.is_some_and(|remote| rules.loop_exempt.contains(remote.ip()));
        if !guarded && rules.per_second.is_none() {
            return Ok(());
        }
        let hasher = &self.hasher;
        let answered = find(&mut self.remotes, now, to.recipient());
        answered.at = now.mono;
        if let Some(rate) = rules.per_second {
            answered.pace(now, rate)?;
        }
        if guarded && !answered.returns.answer(now.mono, || hasher.hash_one(payload)) {
            let detail = "it has returned 1,000 answers in a row (loop_guard): one is sent in 10 s until it sends \
                          something different";
            return Err((Reason::LoopSuspected, detail.to_owned()));
        }
        Ok(())
    }

    /// True if nobody was answered lately who is watched: [`heard`](Self::heard) has nothing to do.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.remotes.is_empty()
    }

    /// A packet came from `remote`. True if answers to it are limited from now on.
    pub fn heard(&mut self, now: Now, remote: Recipient, payload: &[u8]) -> bool {
        let hasher = &self.hasher;
        let answered = self.remotes.get_mut(&remote);
        answered.is_some_and(|answered| answered.returns.heard(now.mono, || hasher.hash_one(payload)))
    }

    /// Something came from `remote` that nobody read.
    pub fn missed(&mut self, remote: Recipient) {
        if let Some(answered) = self.remotes.get_mut(&remote) {
            answered.returns.missed();
        }
    }
}

impl Answered {
    fn is_gone(&self, now: Now) -> bool {
        let idle = if self.returns.is_limited() { LIMITED_IDLE } else { IDLE };
        now.mono.saturating_sub(self.at) > idle && self.due <= now.mono
    }

    /// At most `rate` answers a second, and as many at once after a pause.
    fn pace(&mut self, now: Now, rate: f64) -> Result<(), Refused> {
        let interval = (SECOND as f64 / rate) as u64;
        if self.due > now.mono.saturating_add(SECOND.saturating_sub(interval)) {
            let detail = format!("it gets at most {rate} answers a second (answers_per_remote_per_second)");
            return Err((Reason::RateLimited, detail));
        }
        self.due = self.due.max(now.mono).saturating_add(interval);
        Ok(())
    }
}

/// The remote's place, which becomes the most recent one.
fn find(remotes: &mut LinkedHashMap<Recipient, Answered, RandomState>, now: Now, remote: Recipient) -> &mut Answered {
    // At most two leave for one that comes. One that is to stay gives way to others behind it.
    for _ in 0..2 {
        let Some((&oldest, answered)) = remotes.front() else { break };
        if answered.is_gone(now) || remotes.len() > REMOTES {
            remotes.pop_front();
        } else if answered.returns.is_limited() {
            remotes.to_back(&oldest);
        } else {
            break;
        }
    }
    match remotes.raw_entry_mut().from_key(&remote) {
        RawEntryMut::Occupied(mut place) => {
            place.to_back();
            place.into_mut()
        }
        RawEntryMut::Vacant(place) => place.insert(remote, Answered::default()).1,
    }
}
