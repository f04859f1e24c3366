//! Denial of service (whitepaper, section 5.3 and 5.4.7): a handshake costs us a third of a millisecond, a datagram with
//! a forged source address costs its sender nothing. So mac1 comes first (who does not know our public key is met with
//! silence); and when handshakes come faster than they should, a sender has to show by a cookie that it receives at its
//! address, and each address has a rate.

use super::{
    keys::{Identity, TAG, XNONCE, mac, same, xopen, xseal},
    message::{self, COOKIE, Macs},
};
use crate::{Now, time::SECOND};
use hashlink::LinkedHashMap;
use ring::rand::{SecureRandom, SystemRandom};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A cookie is good for so long; so is the secret that it is made with.
pub const COOKIE_LIFE: u64 = 120 * SECOND;
/// Handshake messages a second that need no cookie: at a third of a millisecond each, a twelfth of a core.
const WITHOUT_COOKIE: u32 = 256;
/// Handshake messages a second in all: a third of a core.
const WITH_COOKIE: u32 = 1_024;
/// Cookie replies a second.
const REPLIES: u32 = 4_096;
/// How long a flood counts as going on after the last second that had too much.
const CALM_AFTER: u64 = SECOND;
/// Handshake messages of one address under load, a second and at once.
const PER_ADDRESS: u64 = 20;
const ADDRESS_BURST: u64 = 5;
/// Addresses whose rate is remembered.
const ADDRESSES: usize = 16_384;

/// What to do with a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Admit,
    /// Answer with this cookie reply.
    Reply([u8; COOKIE]),
    /// mac1 is wrong: whoever sent it does not know our public key. Silence.
    Stranger,
    /// Too much. Silence.
    Excess,
}

/// Counts what comes in one second.
#[derive(Default)]
struct Second {
    began: u64,
    count: u32,
}

impl Second {
    /// The number of this one in its second, from 1 on.
    fn count(&mut self, now: Now) -> u32 {
        if now.mono.saturating_sub(self.began) >= SECOND {
            *self = Second { began: now.mono, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// Guards one Listener's handshakes.
pub struct Guard {
    random: SystemRandom,
    secret: [u8; 32],
    secret_until: u64,
    offered: Second,
    admitted: Second,
    replies: Second,
    load_until: u64,
    /// When each address may send the next one at a steady pace, as in `pacing.rs`; least recent in front.
    addresses: LinkedHashMap<IpAddr, u64, ahash::RandomState>,
}

impl Guard {
    /// Calm at first.
    pub fn new() -> Guard {
        Guard {
            random: SystemRandom::new(),
            secret: [0; 32],
            secret_until: 0,
            offered: Second::default(),
            admitted: Second::default(),
            replies: Second::default(),
            load_until: 0,
            addresses: LinkedHashMap::with_hasher(ahash::RandomState::new()),
        }
    }

    /// Judges an initiation or a response. One that is `awaited` needs no more than mac1, and is no load.
    pub fn judge(&mut self, now: Now, us: &Identity, from: SocketAddr, message: &[u8], awaited: bool) -> Admission {
        let Macs { body, with_mac1, mac1, mac2 } = message::macs(message);
        if !same(mac1, &mac(&us.mac1_key, &[body])) {
            return Admission::Stranger;
        }
        if awaited {
            return Admission::Admit;
        }
        if self.offered.count(now) > WITHOUT_COOKIE {
            self.load_until = now.mono.saturating_add(CALM_AFTER);
        }
        if now.mono >= self.load_until {
            return Admission::Admit;
        }
        // Zeros say that the sender has no cookie: in a flood nearly all do, and two more hashes each are spared.
        let shown =
            *mac2 != [0; TAG] && self.cookie(now, from).is_some_and(|cookie| same(mac2, &mac(&cookie, &[with_mac1])));
        if !shown {
            return self.reply(now, us, from, message::u32_at(message, 4), mac1);
        }
        match self.within_rate(now, from.ip()) && self.admitted.count(now) <= WITH_COOKIE {
            true => Admission::Admit,
            false => Admission::Excess,
        }
    }

    /// What the sender at `from` has to know.
    fn cookie(&mut self, now: Now, from: SocketAddr) -> Option<[u8; TAG]> {
        if now.mono >= self.secret_until {
            self.random.fill(&mut self.secret).ok()?;
            self.secret_until = now.mono.saturating_add(COOKIE_LIFE);
        }
        let address = match from.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Some(mac(&self.secret, &[&address.octets(), &from.port().to_be_bytes()]))
    }

    fn reply(&mut self, now: Now, us: &Identity, from: SocketAddr, receiver: u32, mac1: &[u8; TAG]) -> Admission {
        let mut nonce = [0; XNONCE];
        if self.replies.count(now) > REPLIES || self.random.fill(&mut nonce).is_err() {
            return Admission::Excess;
        }
        let Some(mut cookie) = self.cookie(now, from) else { return Admission::Excess };
        let tag = xseal(&us.cookie_key, &nonce, mac1, &mut cookie);
        Admission::Reply(message::cookie(receiver, &nonce, &cookie, &tag))
    }

    fn within_rate(&mut self, now: Now, from: IpAddr) -> bool {
        const INTERVAL: u64 = SECOND / PER_ADDRESS;
        let from = network(from);
        let due = self.addresses.get(&from).map_or(now.mono, |&due| due.max(now.mono));
        if due - now.mono > (ADDRESS_BURST - 1) * INTERVAL {
            return false;
        }
        self.addresses.insert(from, due + INTERVAL);
        if self.addresses.len() > ADDRESSES {
            self.addresses.pop_front();
        }
        true
    }
}

/// Whoever has an IPv6 address has a whole /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// The cookie in a reply to the message that had `mac1`, if the owner of `cookie_key` sealed it.
pub fn open(cookie_key: &[u8; 32], mac1: &[u8; TAG], reply: &[u8; COOKIE]) -> Option<[u8; TAG]> {
    let (nonce, rest) = reply[8..].split_first_chunk().expect("a cookie reply is longer");
    let (sealed, tag) = rest.split_first_chunk::<TAG>().expect("a cookie reply is longer");
    let mut cookie = *sealed;
    let tag = tag.try_into().expect("the rest is the tag");
    xopen(cookie_key, nonce, mac1, &mut cookie, tag).then_some(cookie)
}

/// Writes both MACs of a handshake message, and yields mac1.
pub fn sign(message: &mut [u8], mac1_key: &[u8; 32], cookie: Option<&[u8; TAG]>) -> [u8; TAG] {
    let (with_mac1, mac2) = message.split_last_chunk_mut::<TAG>().expect("a handshake message is longer");
    let (body, place) = with_mac1.split_last_chunk_mut::<TAG>().expect("a handshake message is longer");
    let mac1 = mac(mac1_key, &[body]);
    *place = mac1;
    if let Some(cookie) = cookie {
        *mac2 = mac(cookie, &[with_mac1]);
    }
    mac1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::wireguard::{keys::Secret, message::INITIATION};
    use std::sync::LazyLock;

    fn at(ms: u64) -> Now {
        Now { mono: ms * SECOND / 1_000, unix_ms: 0 }
    }

    fn from(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, last], port))
    }

    fn us() -> &'static Identity {
        static US: LazyLock<Identity> = LazyLock::new(|| Identity::new(&Secret([2; 32])));
        &US
    }

    fn message(cookie: Option<&[u8; TAG]>) -> ([u8; INITIATION], [u8; TAG]) {
        let mut message = message::initiation(77, &[5; 108]);
        let mac1 = sign(&mut message, &us().mac1_key, cookie);
        (message, mac1)
    }

    /// A guard under load, and the moment.
    fn loaded() -> (Guard, Now) {
        let mut guard = Guard::new();
        for i in 0..WITHOUT_COOKIE {
            assert_eq!(guard.judge(at(1_000), us(), from(1, i as u16), &message(None).0, false), Admission::Admit);
        }
        (guard, at(1_000))
    }

    fn cookie_for(guard: &mut Guard, now: Now, from: SocketAddr) -> [u8; TAG] {
        let (message, mac1) = message(None);
        let Admission::Reply(reply) = guard.judge(now, us(), from, &message, false) else { panic!("no cookie") };
        assert_eq!(message::u32_at(&reply, 4), 77);
        assert_eq!(open(&us().cookie_key, &[0; TAG], &reply), None, "a cookie belongs to one message");
        assert_eq!(open(&[0; 32], &mac1, &reply), None);
        open(&us().cookie_key, &mac1, &reply).unwrap()
    }

    #[test]
    fn a_wrong_mac1_is_met_with_silence_always() {
        let (mut guard, now) = loaded();
        let (mut message, _) = message(None);
        message[20] ^= 1;
        assert_eq!(guard.judge(now, us(), from(1, 1), &message, false), Admission::Stranger);
        assert_eq!(Guard::new().judge(now, us(), from(1, 1), &message, false), Admission::Stranger);
    }

    #[test]
    fn strangers_make_no_load() {
        let mut guard = Guard::new();
        let wrong = message::initiation(77, &[5; 108]);
        for _ in 0..10 * WITHOUT_COOKIE {
            guard.judge(at(0), us(), from(1, 1), &wrong, false);
        }
        assert_eq!(guard.judge(at(0), us(), from(1, 1), &message(None).0, false), Admission::Admit);
    }

    #[test]
    fn under_load_a_cookie_opens_the_door_to_its_address_and_port_only() {
        let (mut guard, now) = loaded();
        let cookie = cookie_for(&mut guard, now, from(1, 1));
        let (with_mac2, _) = message(Some(&cookie));
        assert_eq!(guard.judge(now, us(), from(1, 1), &with_mac2, false), Admission::Admit);
        assert!(matches!(guard.judge(now, us(), from(2, 1), &with_mac2, false), Admission::Reply(_)));
        assert!(matches!(guard.judge(now, us(), from(1, 2), &with_mac2, false), Admission::Reply(_)));
    }

    #[test]
    fn a_cookie_ages() {
        let (mut guard, now) = loaded();
        let (with_mac2, _) = message(Some(&cookie_for(&mut guard, now, from(1, 1))));
        let later = Now { mono: now.mono + COOKIE_LIFE, ..now };
        for i in 0..WITHOUT_COOKIE {
            guard.judge(later, us(), from(1, i as u16), &message(None).0, false);
        }
        assert!(matches!(guard.judge(later, us(), from(1, 1), &with_mac2, false), Admission::Reply(_)));
    }

    #[test]
    fn it_calms_down() {
        let (mut guard, now) = loaded();
        cookie_for(&mut guard, now, from(1, 1));
        assert_eq!(guard.judge(at(2_500), us(), from(1, 1), &message(None).0, false), Admission::Admit);
    }

    #[test]
    fn an_address_has_its_rate_under_load() {
        let (mut guard, now) = loaded();
        let cookie = cookie_for(&mut guard, now, from(1, 1));
        let (with_mac2, _) = message(Some(&cookie));
        let mut admitted = |now| guard.judge(now, us(), from(1, 1), &with_mac2, false) == Admission::Admit;
        assert_eq!((0..100).filter(|_| admitted(now)).count() as u64, ADDRESS_BURST);
        assert_eq!((0..100).filter(|_| admitted(at(1_100))).count() as u64, 2); // 20 a second
    }

    #[test]
    fn all_addresses_together_have_a_rate() {
        let (mut guard, now) = loaded();
        let mut admitted = 0;
        for i in 0..2 * WITH_COOKIE {
            let from = SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 9));
            let (with_mac2, _) = message(Some(&cookie_for(&mut guard, now, from)));
            admitted += u32::from(guard.judge(now, us(), from, &with_mac2, false) == Admission::Admit);
        }
        assert_eq!(admitted, WITH_COOKIE);
        let replies = WITHOUT_COOKIE..WITHOUT_COOKIE + 3 * REPLIES;
        let more = replies
            .filter(|_| matches!(guard.judge(now, us(), from(9, 9), &message(None).0, false), Admission::Reply(_)));
        assert_eq!(more.count() as u32, REPLIES - 2 * WITH_COOKIE);
    }

    #[test]
    fn one_rate_for_a_whole_ipv6_network() {
        let a: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let b: IpAddr = "2001:db8:1:2:ffff::9".parse().unwrap();
        let c: IpAddr = "2001:db8:1:3::1".parse().unwrap();
        assert_eq!(network(a), network(b));
        assert_ne!(network(a), network(c));
    }
}
