//! De-duplication: a publisher that retries is answered once (contract section 4.3).
//!
//! A window, bounded in age and number, of the Ids that were sent; beside it those that are on their way. What failed is
//! in neither, so that a retry after a failure is a new attempt. Ids are kept as 128-bit hashes under a random seed.

use crate::Now;
use ahash::{HashSet, RandomState};
use hashlink::LinkedHashMap;

/// What an `Id` becomes with one of the entry's `Remotes`: each of them is sent to once. `remote` is its address, or the
/// public key of a peer.
pub fn with_remote(id: &str, remote: &str) -> String {
    format!("{id}\0{remote}")
}

/// The Ids of one PacketSource.
pub struct Window {
    age: u64,
    limit: usize,
    seeds: [RandomState; 2],
    /// Sent, by when; the oldest in front.
    sent: LinkedHashMap<Key, u64, RandomState>,
    on_their_way: HashSet<Key>,
}

/// An Id's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64, u64);

impl Window {
    /// Remembers at most `limit` Ids for `age` nanoseconds.
    pub fn new(age: u64, limit: usize) -> Window {
        Window {
            age,
            limit: limit.max(1),
            seeds: [RandomState::new(), RandomState::new()],
            sent: LinkedHashMap::with_hasher(RandomState::new()),
            on_their_way: HashSet::default(),
        }
    }

    /// The key of `id`, if it is new; it is on its way from now on. None: a duplicate.
    pub fn begin(&mut self, now: Now, id: &str) -> Option<Key> {
        self.forget(now);
        let key = self.key(id);
        (!self.sent.contains_key(&key) && self.on_their_way.insert(key)).then_some(key)
    }

    /// Reports what became of the entry with this key. Only a sent one makes later ones duplicates.
    pub fn end(&mut self, now: Now, key: Key, sent: bool) {
        self.on_their_way.remove(&key);
        if sent {
            self.sent.insert(key, now.mono);
            self.forget(now);
        }
    }

    /// `id` was sent `ago` nanoseconds ago, before this start. Call in the order in which they were sent.
    pub fn remember(&mut self, now: Now, id: &str, ago: u64) {
        if ago < self.age {
            let key = self.key(id);
            // A clock that starts at zero has no room for what was before: such Ids stay a little longer.
            self.sent.insert(key, now.mono.saturating_sub(ago));
            self.forget(now);
        }
    }

    /// `id` is on its way, whoever has it: it is to be sent later.
    pub fn expect(&mut self, id: &str) {
        let key = self.key(id);
        self.on_their_way.insert(key);
    }

    /// `id` is not on its way any more, and was not sent.
    pub fn release(&mut self, id: &str) {
        let key = self.key(id);
        self.on_their_way.remove(&key);
    }

    fn key(&self, id: &str) -> Key {
        Key(self.seeds[0].hash_one(id), self.seeds[1].hash_one(id))
    }

    fn forget(&mut self, now: Now) {
        while let Some((_, &at)) = self.sent.front() {
            if self.sent.len() <= self.limit && now.mono.saturating_sub(at) < self.age {
                break;
            }
            self.sent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SECOND;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, unix_ms: 0 }
    }

    #[test]
    fn once_while_on_its_way_and_once_sent_but_again_after_a_failure() {
        let mut window = Window::new(10 * SECOND, 100);
        let key = window.begin(at(0), "a").unwrap();
        assert!(window.begin(at(0), "a").is_none());
        window.end(at(0), key, false);
        let key = window.begin(at(1), "a").unwrap();
        window.end(at(1), key, true);
        assert!(window.begin(at(10), "a").is_none());
        assert!(window.begin(at(11), "a").is_some(), "the window has an end");
    }

    #[test]
    fn bounded_in_number() {
        let mut window = Window::new(10 * SECOND, 2);
        for id in ["a", "b", "c"] {
            let key = window.begin(at(0), id).unwrap();
            window.end(at(0), key, true);
        }
        assert!(window.begin(at(0), "a").is_some());
        assert!(window.begin(at(0), "c").is_none());
    }

    #[test]
    fn remembers_what_was_before() {
        let mut window = Window::new(10 * SECOND, 100);
        window.remember(at(100), "old", 11 * SECOND);
        window.remember(at(100), "young", 5 * SECOND);
        assert!(window.begin(at(100), "old").is_some());
        assert!(window.begin(at(104), "young").is_none());
        assert!(window.begin(at(105), "young").is_some());
    }
}
