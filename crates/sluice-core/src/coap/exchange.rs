//! Housekeeping of CoAP on request (RFC 7252 section 4): who asked what lately, and which answers are still to be acknowledged.
//!
//! Theory. A confirmable message is one exchange, named by its sender and Message ID, for EXCHANGE_LIFETIME. While it lasts,
//! a repetition gets what the first one got, and is not delivered. If nothing was given after `acknowledge_after`, an empty
//! acknowledgement is, and the acknowledgement that the handler makes later leaves as a confirmable message with a
//! Message ID of ours. That one is repeated until it is acknowledged.
//!
//! A repetition has the same bytes. Another message under a Message ID that is still in use comes from a client that has
//! restarted, or from another one behind an address translator: it begins anew, and gets nothing of the answer before.
//!
//! Memory is bounded by number and by bytes. The exchange that began first leaves first.

use crate::{
    Now,
    coap::{Code, Draft, Kind, Message},
    inner::Inner,
    outgoing::To,
    pacing::Recipient,
    reason::Rejected,
    spec::CoapSpec,
    time::{self, SECOND},
};
use ahash::RandomState;
use hashlink::LinkedHashMap;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    net::SocketAddr,
    ops::Range,
};

/// Nanoseconds for which a Message ID is not used again (section 4.8.2).
pub const LIFETIME: u64 = 247 * SECOND;
/// ACK_TIMEOUT; ACK_RANDOM_FACTOR makes it up to half as much longer.
const ACK_TIMEOUT: u64 = 2 * SECOND;
const MAX_RETRANSMIT: u32 = 4;
/// Times that a message gets its answer again. Clients repeat 4 times; whoever forges their address would have more.
const ANSWERED_AGAIN: u8 = 16;
/// Exchanges that one Listener remembers.
const EXCHANGES: usize = 65_536;
/// Bytes of the answers that it remembers with them.
const BYTES: usize = 16 << 20;
/// Answers that may wait for their acknowledgement, and their bytes; further ones are sent once.
const REPEATS: usize = 4_096;
const REPEATED_BYTES: usize = 16 << 20;

/// Who sends: behind a peer there may be several, told apart by inner addresses.
pub type Who = (Recipient, Option<SocketAddr>);
type Key = (Who, u16);
/// A place among the timers: the moment, and a number that tells apart those of one.
type Position = (u64, u64);

/// How to send back to whom a message came from.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where to; `local` of an address is the one that it sent to.
    pub to: To,
    /// The addresses inside a tunnel, where they were taken off.
    pub inner: Option<Inner>,
}

impl Way {
    /// Whom it leads to.
    pub fn who(&self) -> Who {
        (self.to.recipient(), self.inner.map(|inner| inner.source))
    }
}

/// What the gateway sent by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names say it
pub struct CoapCounters {
    /// Empty ones, because the handler was slow.
    pub acknowledgements: u64,
    /// Repetitions of a message that got its answer again.
    pub answered_again: u64,
    /// Answers that were sent again because nobody had acknowledged them.
    pub retransmissions: u64,
    /// Answers that nobody acknowledged at all.
    pub unacknowledged: u64,
    /// Of the first three, those that did not leave: no answer may go there, or too much waits.
    pub not_sent: u64,
}

/// What an answer changes once it leaves.
#[derive(Debug)]
pub enum Answer {
    /// It is given to repetitions from now on.
    Given(Key, Vec<u8>),
    /// It is a message of its own, to be repeated until it is acknowledged.
    Separate(Key, Vec<u8>, Way),
}

struct Exchange {
    began: u64,
    /// Hashes of the message and of its token.
    message: u64,
    token: u64,
    way: Way,
    /// When it is acknowledged without an answer.
    timer: Option<Position>,
    /// What a repetition gets.
    given: Option<Vec<u8>>,
    /// How often one may still get it.
    left: u8,
    /// `given` is an empty acknowledgement of the gateway's.
    acknowledged: bool,
}

struct Repeat {
    way: Way,
    datagram: Vec<u8>,
    timer: Position,
    /// How long the next wait is.
    wait: u64,
    sent_again: u32,
}

#[derive(Clone, Copy)]
enum Timer {
    Acknowledge(Key),
    Repeat(Key),
}

/// The exchanges of one Listener.
pub struct Exchanges {
    deduplicate: bool,
    acknowledge_after: Option<u64>,
    exchanges: LinkedHashMap<Key, Exchange, RandomState>,
    /// Those whose message may still wait for its reader, by its number among the packets of the Destination.
    unread: VecDeque<(u64, Key)>,
    /// Bytes in `given` of all of them.
    bytes: usize,
    repeats: HashMap<Key, Repeat, RandomState>,
    /// Bytes in `datagram` of all of them.
    repeated_bytes: usize,
    timers: BTreeMap<Position, Timer>,
    serial: u64,
    /// The next Message ID of ours.
    next_id: u16,
    /// The last lot, for the random factor.
    lot: u32,
    ready: VecDeque<(Way, Vec<u8>)>,
    counters: CoapCounters,
}

impl Exchanges {
    /// `lot`: random, so that Message IDs begin somewhere else after each start.
    pub fn new(spec: &CoapSpec, lot: u32) -> Exchanges {
        let mut made = Exchanges {
            deduplicate: false,
            acknowledge_after: None,
            exchanges: LinkedHashMap::with_hasher(RandomState::new()),
            unread: VecDeque::new(),
            bytes: 0,
            repeats: HashMap::with_hasher(RandomState::new()),
            repeated_bytes: 0,
            timers: BTreeMap::new(),
            serial: 0,
            next_id: (lot >> 16) as u16,
            lot,
            ready: VecDeque::new(),
            counters: CoapCounters::default(),
        };
        made.update(spec);
        made
    }

    /// Changed settings hold for messages from now on.
    pub fn update(&mut self, spec: &CoapSpec) {
        self.deduplicate = spec.deduplicate;
        self.acknowledge_after = spec.acknowledge_after.map(time::nanos);
    }

    /// A packet came from `who`. None: it is to be delivered.
    pub fn heard(&mut self, now: Now, who: Who, payload: &[u8]) -> Option<Rejected> {
        let message = Message::parse(payload).ok()?;
        let key = (who, message.id);
        match message.kind {
            Kind::Acknowledgement | Kind::Reset => self.end_repeat(&key).then_some(Rejected::CoapAcknowledged),
            Kind::Confirmable => {
                self.expire(now);
                let hash = self.hash(message);
                let exchange = self.exchanges.get_mut(&key)?;
                if exchange.message != hash {
                    let exchange = self.exchanges.remove(&key).expect("it is there");
                    self.forget(exchange);
                    return None;
                }
                // A handler that is asked again answers again, but does not acknowledge.
                let again = exchange.left > 0 && (self.deduplicate || exchange.acknowledged);
                if let Some(given) = exchange.given.as_ref().filter(|_| again) {
                    exchange.left -= 1;
                    self.ready.push_back((exchange.way, given.clone()));
                    self.counters.answered_again += 1;
                }
                self.deduplicate.then_some(Rejected::CoapRepeated)
            }
            Kind::NonConfirmable => None,
        }
    }

    /// A message came by `way`, and is packet `number` of its Destination.
    pub fn begin(&mut self, now: Now, way: Way, message: &Message<'_>, number: u64) {
        let key = (way.who(), message.id);
        if message.kind != Kind::Confirmable || message.code == Code::EMPTY || self.exchanges.contains_key(&key) {
            return;
        }
        let timer = self.acknowledge_after.map(|after| self.start(now, after, Timer::Acknowledge(key)));
        let (message, token) = (self.hash(message), self.hash(message.token));
        let exchange = Exchange {
            began: now.mono,
            message,
            token,
            way,
            timer,
            given: None,
            left: ANSWERED_AGAIN,
            acknowledged: false,
        };
        self.exchanges.insert(key, exchange);
        self.unread.push_back((number, key));
        self.expire(now);
    }

    /// The Destination's packets before `lost` were read, and those in it never will be: a repetition is delivered.
    pub fn lose(&mut self, lost: Range<u64>) {
        while let Some(&(number, key)) = self.unread.front()
            && number < lost.end
        {
            self.unread.pop_front();
            let unanswered = self.exchanges.get(&key).is_some_and(|exchange| exchange.given.is_none());
            if unanswered && lost.contains(&number) {
                let exchange = self.exchanges.remove(&key).expect("it is there");
                self.forget(exchange);
            }
        }
    }

    /// The Destination gives way to another: its packets are counted anew.
    pub fn renumber(&mut self) {
        self.unread.clear();
    }

    /// Somebody answers `who` with `datagram`: what leaves instead, and what that changes ([`answered`](Self::answered)).
    pub fn answer(&mut self, who: Who, datagram: Vec<u8>) -> (Vec<u8>, Option<Answer>) {
        let Ok(message) = Message::parse(&datagram) else { return (datagram, None) };
        let key = (who, message.id);
        let exchange = self.exchanges.get(&key).filter(|exchange| {
            matches!(message.kind, Kind::Acknowledgement | Kind::Reset)
                && (message.code == Code::EMPTY || exchange.token == self.hash(message.token))
        });
        match exchange {
            Some(exchange) if exchange.acknowledged && message.code != Code::EMPTY => {
                let (id, way) = (self.next_id, exchange.way);
                self.next_id = id.wrapping_add(1);
                let separate = renamed(&message, id);
                (separate.clone(), Some(Answer::Separate((who, id), separate, way)))
            }
            Some(exchange) if exchange.given.is_none() => (datagram.clone(), Some(Answer::Given(key, datagram))),
            _ => (datagram, None),
        }
    }

    /// The answer leaves.
    pub fn answered(&mut self, now: Now, answer: Answer) {
        match answer {
            Answer::Given(key, datagram) => self.give(now, key, datagram),
            Answer::Separate(key, datagram, way) => {
                self.end_repeat(&key);
                if self.repeats.len() == REPEATS || self.repeated_bytes > REPEATED_BYTES {
                    self.counters.unacknowledged += 1;
                    return;
                }
                let wait = self.first_wait();
                let timer = self.start(now, wait, Timer::Repeat(key));
                self.repeated_bytes += datagram.len();
                self.repeats.insert(key, Repeat { way, datagram, timer, wait: wait * 2, sent_again: 0 });
            }
        }
    }

    /// Acknowledges and repeats what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now.mono
        {
            match entry.remove() {
                Timer::Acknowledge(key) => self.acknowledge(now, key),
                Timer::Repeat(key) => self.repeat(now, key),
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The next message that the gateway sends by itself.
    pub fn poll_transmit(&mut self) -> Option<(Way, Vec<u8>)> {
        self.ready.pop_front()
    }

    /// What [`poll_transmit`](Self::poll_transmit) gave does not leave.
    pub fn not_sent(&mut self) {
        self.counters.not_sent += 1;
    }

    /// What was sent.
    pub fn counters(&self) -> &CoapCounters {
        &self.counters
    }

    fn acknowledge(&mut self, now: Now, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(&key) else { return };
        exchange.acknowledged = true;
        let empty = Draft {
            kind: Kind::Acknowledgement,
            code: Code::EMPTY,
            id: key.1,
            token: Vec::new(),
            options: Vec::new(),
            payload: Vec::new(),
        };
        let datagram = empty.encode();
        self.ready.push_back((exchange.way, datagram.clone()));
        self.counters.acknowledgements += 1;
        self.give(now, key, datagram);
    }

    fn repeat(&mut self, now: Now, key: Key) {
        let Some(repeat) = self.repeats.get_mut(&key) else { return };
        if repeat.sent_again == MAX_RETRANSMIT {
            self.end_repeat(&key);
            self.counters.unacknowledged += 1;
            return;
        }
        self.ready.push_back((repeat.way, repeat.datagram.clone()));
        self.counters.retransmissions += 1;
        let wait = repeat.wait;
        (repeat.sent_again, repeat.wait) = (repeat.sent_again + 1, wait * 2);
        let timer = self.start(now, wait, Timer::Repeat(key));
        self.repeats.entry(key).and_modify(|repeat| repeat.timer = timer);
    }

    /// True if there was one.
    fn end_repeat(&mut self, key: &Key) -> bool {
        let Some(repeat) = self.repeats.remove(key) else { return false };
        self.timers.remove(&repeat.timer);
        self.repeated_bytes -= repeat.datagram.len();
        true
    }

    /// Repetitions get `datagram` from now on.
    fn give(&mut self, now: Now, key: Key, datagram: Vec<u8>) {
        let Some(exchange) = self.exchanges.get_mut(&key) else { return };
        self.bytes += datagram.len();
        self.bytes -= exchange.given.replace(datagram).map_or(0, |before| before.len());
        if let Some(timer) = exchange.timer.take() {
            self.timers.remove(&timer);
        }
        self.expire(now);
    }

    /// Forgets what is too old, or too much.
    fn expire(&mut self, now: Now) {
        while let Some((_, oldest)) = self.exchanges.front()
            && (now.mono.saturating_sub(oldest.began) >= LIFETIME
                || self.exchanges.len() > EXCHANGES
                || self.bytes > BYTES)
        {
            let (_, oldest) = self.exchanges.pop_front().expect("it is in front");
            self.forget(oldest);
        }
    }

    fn forget(&mut self, exchange: Exchange) {
        self.bytes -= exchange.given.map_or(0, |given| given.len());
        if let Some(timer) = exchange.timer {
            self.timers.remove(&timer);
        }
    }

    fn hash(&self, what: impl Hash) -> u64 {
        self.exchanges.hasher().hash_one(what)
    }

    fn start(&mut self, now: Now, after: u64, timer: Timer) -> Position {
        self.serial += 1;
        let position = (now.mono.saturating_add(after), self.serial);
        self.timers.insert(position, timer);
        position
    }

    /// Between ACK_TIMEOUT and half as much more.
    fn first_wait(&mut self) -> u64 {
        // Numerical Recipes' generator: timers need no better chance.
        self.lot = self.lot.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ACK_TIMEOUT + ACK_TIMEOUT / 2 * u64::from(self.lot >> 16) / 65_536
    }
}

/// The same as a confirmable message of its own.
fn renamed(message: &Message<'_>, id: u16) -> Vec<u8> {
    Draft {
        kind: Kind::Confirmable,
        code: message.code,
        id,
        token: message.token.to_vec(),
        options: message.options().map(|(number, value)| (number, value.to_vec())).collect(),
        payload: message.payload.to_vec(),
    }
    .encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn exchanges() -> Exchanges {
        Exchanges::new(&CoapSpec { deduplicate: true, acknowledge_after: Some(1.0) }, 7)
    }

    fn way(port: u16) -> Way {
        let remote = SocketAddr::from(([198, 51, 100, 7], port));
        Way { to: To::Remote { local: Some(LOCAL), remote }, inner: None }
    }

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, unix_ms: 0 }
    }

    fn get(id: u16) -> Vec<u8> {
        [&[0x40, 1][..], &id.to_be_bytes()].concat()
    }

    fn begin(exchanges: &mut Exchanges, now: Now, port: u16, id: u16) {
        exchanges.begin(now, way(port), &Message::parse(&get(id)).unwrap(), 0);
    }

    fn answer(exchanges: &mut Exchanges, now: Now, port: u16, id: u16, size: usize) {
        let answer = [&[0x60, 0x45][..], &id.to_be_bytes(), &[0xff], &vec![0; size]].concat();
        let (_, change) = exchanges.answer(way(port).who(), answer);
        exchanges.answered(now, change.unwrap());
    }

    #[test]
    fn the_exchange_that_began_first_leaves_first_and_with_its_timer() {
        let mut full = exchanges();
        for id in 0..=u16::MAX {
            begin(&mut full, at(0), 1, id);
        }
        assert_eq!((full.exchanges.len(), full.timers.len()), (EXCHANGES, EXCHANGES));
        begin(&mut full, at(0), 2, 0);
        assert_eq!((full.exchanges.len(), full.timers.len()), (EXCHANGES, EXCHANGES));
        assert_eq!(full.heard(at(0), way(1).who(), &get(0)), None);
        assert_eq!(full.heard(at(0), way(1).who(), &get(1)), Some(Rejected::CoapRepeated));
    }

    #[test]
    fn answers_take_no_more_than_their_bytes() {
        let mut full = exchanges();
        for id in 0..1_000 {
            begin(&mut full, at(0), 1, id);
            answer(&mut full, at(0), 1, id, 60_000);
            assert!(full.bytes <= BYTES);
        }
        assert!(full.exchanges.len() > 200 && full.timers.is_empty());
        begin(&mut full, at(300), 1, 1);
        assert_eq!((full.exchanges.len(), full.bytes), (1, 0));
    }

    #[test]
    fn answers_that_wait_for_their_acknowledgement_are_bounded() {
        let mut full = exchanges();
        for id in 0..5_000 {
            begin(&mut full, at(0), 1, id);
        }
        full.handle_timeout(at(1));
        for id in 0..5_000 {
            answer(&mut full, at(1), 1, id, 4_000);
        }
        assert_eq!(full.repeats.len(), REPEATS);
        assert_eq!(full.counters().unacknowledged, 5_000 - REPEATS as u64);
        while let Some(at) = full.poll_timeout() {
            full.handle_timeout(Now { mono: at, unix_ms: 0 });
        }
        assert_eq!((full.repeated_bytes, full.counters().unacknowledged), (0, 5_000));
        assert_eq!(full.counters().retransmissions, 4 * REPEATS as u64);
    }
}
