//! One Listener with everything around it fixed, so that an input alone decides what happens.

use serde_json::{Value, json};
use sluice_core::{
    About, Completion, DataplaneSpec, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Reason, RunLimit,
    Shared, Submission,
    tag::{ReturnAddress, TagSealer},
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

pub const SECOND: u64 = 1_000_000_000;
pub const START: Now = Now { mono: 1_000 * SECOND, unix_ms: 1_780_000_000_000 };
pub const GATEWAY: &str = "192.0.2.10";
pub const FORMATTERS: [&str; 4] = ["base64", "hex", "utf8", "ascii"];
const LISTENER: u32 = 7;
const NODE: u16 = 1;
const PORT: u16 = 2048;
const RUN: RunLimit = RunLimit { segments: 8, segment: 1_452, bytes: 4_000 };

pub static SHARED: LazyLock<Arc<Shared>> = LazyLock::new(|| {
    let spec: DataplaneSpec = serde_json::from_value(json!({
        "Node": NODE, "Region": "us-east-1", "TagSeconds": 3600,
        "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}, {"Id": 5, "Key": "cd".repeat(32)}],
    }))
    .expect("a valid spec");
    Arc::new(Shared::new(&spec).expect("valid keys"))
});

/// A Tag under the Listeners' own key; the seeds contain its text.
pub struct Genuine {
    pub name: &'static str,
    pub text: String,
    pub address: ReturnAddress,
    /// The Listener answers it.
    pub answers: bool,
}

/// Always the same texts: salt and counter are fixed. Beside them nothing may open.
pub static GENUINE: LazyLock<Vec<Genuine>> = LazyLock::new(|| {
    let valid = (START.unix_ms / 1_000) as u32 + 3_600;
    let listed = [
        ("ipv4", LISTENER, NODE, valid, "192.0.2.10:2048", "198.51.100.7:40001", true),
        ("ipv6", LISTENER, NODE, valid, "[2001:db8::10]:2048", "[2001:db8::7]:40001", true),
        ("zone", LISTENER, NODE, valid, "[fe80::10]:2048", "[fe80::7%3]:40001", true),
        ("private", LISTENER, NODE, valid, "192.0.2.10:2048", "10.0.0.7:5000", true),
        ("expired", LISTENER, NODE, valid - 3_600, "192.0.2.10:2048", "198.51.100.7:40001", false),
        ("other-listener", LISTENER + 1, NODE, valid, "192.0.2.10:2048", "198.51.100.7:40001", false),
        ("other-node", LISTENER, NODE + 1, valid, "192.0.2.10:2048", "198.51.100.7:40001", false),
        ("other-port", LISTENER, NODE, valid, "192.0.2.10:2049", "198.51.100.7:40001", false),
        ("port-zero", LISTENER, NODE, valid, "192.0.2.10:2048", "198.51.100.7:0", false),
        ("own-listener", LISTENER, NODE, valid, "192.0.2.10:2048", "192.0.2.10:2048", false),
    ];
    let mut sealer = TagSealer::new([1; 6]);
    let mut made = Vec::new();
    for (name, listener, node, expires, local, remote, answers) in listed {
        let (local, remote) = (local.parse().expect("an address"), remote.parse().expect("an address"));
        let address = ReturnAddress { listener, node, expires, local, remote };
        let text = sealer.seal(&SHARED.tag_keys, &address);
        let text = String::from_utf8(text.as_bytes().to_vec()).expect("ASCII");
        made.push(Genuine { name, text, address, answers });
    }
    made
});

pub fn spec(change: impl FnOnce(&mut Value)) -> ListenerSpec {
    let destination = |formatter: &&str| {
        json!({"Name": formatter, "Formatter": formatter, "Count": 10, "TimeoutSeconds": 0.1, "SizeBytes": 1 << 20,
               "QueueBytes": 1 << 20, "Bound": true})
    };
    let mut spec = json!({
        "Id": LISTENER, "Name": "decoder", "Domain": "ingress-1", "Bind": format!("[::]:{PORT}"), "DualStack": true,
        "ClientNetworks": ["0.0.0.0/0", "::/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000, "RingBytes": 1 << 20,
        "Destinations": FORMATTERS.iter().map(destination).collect::<Vec<_>>(),
        "Sources": [{"Name": "replies", "EgressNetworks": ["0.0.0.0/0", "::/0"], "HoldSeconds": 60,
                     "DedupSeconds": 600, "DedupLimit": 100_000}],
    });
    change(&mut spec);
    serde_json::from_value(spec).expect("a valid spec")
}

/// A datagram that the kernel was given.
pub struct Sent {
    pub local: Option<IpAddr>,
    pub remote: SocketAddr,
    pub payload: Vec<u8>,
}

pub struct World {
    pub listener: Listener,
    pub now: Now,
    /// Every third datagram is refused by the kernel.
    pub unreliable: bool,
    own: OwnEndpoints,
    offered: u64,
}

impl World {
    pub fn new(spec: ListenerSpec) -> World {
        let bound = spec.bind;
        let mut listener = Listener::new(spec, SHARED.clone(), bound, [9; 6]);
        listener.watch(Kinds::PACKET_SOURCED.union(Kinds::REPLY_SENT));
        let mut own = OwnEndpoints::default();
        own.listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT), true);
        own.routes.add(GATEWAY.parse::<IpAddr>().expect("an address").into(), sluice_core::own::Local::Address);
        World { listener, now: START, unreliable: false, own, offered: 0 }
    }

    /// True if a datagram to `remote` would come back to the gateway.
    pub fn owns(&self, remote: SocketAddr) -> bool {
        self.own.contains(remote.ip(), remote.port())
    }

    /// Submits a document, plays kernel and clock until it has ended, and checks every sum on the way.
    pub fn settle(
        &mut self,
        origin: Origin,
        refusal: Option<(Reason, String)>,
        body: &[u8],
    ) -> (Completion, Vec<Sent>) {
        let before = self.listener.counters().clone();
        let published_ms = Some(self.now.unix_ms - 500);
        let submission =
            Submission { id: "m".to_owned(), origin, published_ms, body: body.to_vec().into(), refusal, due: None };
        self.listener.take_sent_ids();
        self.listener.submit(self.now, &self.own, submission);
        let mut sent = Vec::new();
        let completion = loop {
            self.send(&mut sent);
            if let Some(completion) = self.listener.poll_completion() {
                break completion;
            }
            let at = self.listener.poll_timeout().expect("a document that has not ended waits for a time");
            assert!(at > self.now.mono, "a time that has passed was not let go");
            self.now.unix_ms += (at - self.now.mono) / 1_000_000;
            self.now.mono = at;
            self.listener.handle_timeout(self.now);
        };
        assert!(self.listener.poll_completion().is_none(), "one document ends once");
        assert_eq!((self.listener.queued(), self.listener.held()), (0, 0));
        self.check_sums(&before, &completion, &sent, body);
        self.check_order(&completion);
        (completion, sent)
    }

    fn send(&mut self, sent: &mut Vec<Sent>) {
        while let Some(packet) = self.listener.next_outgoing(self.now) {
            let (local, remote, largest) = (packet.local, packet.remote, packet.payload.len());
            let run = self.listener.outgoing_run(self.now, RUN);
            let packets: Vec<_> = self.listener.waiting().take(run).collect();
            assert_eq!(packets.len(), run, "a run is made of what waits");
            if run > 1 {
                let bytes: usize = packets.iter().map(|packet| packet.payload.len()).sum();
                assert!(run <= RUN.segments && largest <= RUN.segment && bytes <= RUN.bytes);
                assert!(packets.iter().all(|packet| packet.remote == remote && packet.local == local));
                let (last, others) = packets.split_last().expect("more than one");
                assert!(others.iter().all(|packet| packet.payload.len() == largest));
                assert!((1..=largest).contains(&last.payload.len()));
            }
            let payloads: Vec<_> = packets.iter().map(|packet| packet.payload.to_vec()).collect();
            self.offered += 1;
            if self.unreliable && self.offered.is_multiple_of(3) {
                self.listener.not_sent(self.now, Reason::SendFailed, "no".to_owned());
                continue;
            }
            for payload in payloads {
                self.listener.sent(self.now);
                sent.push(Sent { local, remote, payload });
            }
        }
    }

    /// Contract 4.3: each entry ends as sent, failed or duplicate, here and in the counters.
    fn check_sums(&self, before: &sluice_core::Counters, completion: &Completion, sent: &[Sent], body: &[u8]) {
        let failed = completion.failures.len() as u32;
        let later = completion.scheduled.len() as u32;
        assert_eq!(completion.entries, completion.sent + completion.duplicates + failed + later);
        assert_eq!(completion.sent as usize, sent.len());
        assert_eq!(completion.bytes, body.len());
        let place = |failure: &sluice_core::Failure| (failure.index, failure.remote_index);
        let indexes: std::collections::HashSet<_> = completion.failures.iter().map(place).collect();
        assert_eq!(indexes.len(), completion.failures.len(), "an entry fails once");
        let after = self.listener.counters();
        let bytes: usize = sent.iter().map(|sent| sent.payload.len()).sum();
        assert_eq!(after.sent_packets - before.sent_packets, sent.len() as u64);
        assert_eq!(after.sent_bytes - before.sent_bytes, bytes as u64);
        let sum = |failed: &std::collections::BTreeMap<Reason, u64>| failed.values().sum::<u64>();
        let counted = match completion.origin {
            Origin::Source(index) => {
                let (after, before) = (&after.sources[index], &before.sources[index]);
                assert_eq!(after.messages - before.messages, 1);
                assert_eq!(after.sent_bytes - before.sent_bytes, bytes as u64);
                assert_eq!(after.duplicates - before.duplicates, u64::from(completion.duplicates));
                let failed = sum(&after.failed) - sum(&before.failed);
                (after.entries - before.entries, after.sent - before.sent, failed)
            }
            Origin::Destination(index) => {
                let (after, before) = (&after.destinations[index], &before.destinations[index]);
                let failed = sum(&after.replies_failed) - sum(&before.replies_failed);
                (after.replies - before.replies, after.replies_sent - before.replies_sent, failed)
            }
        };
        assert_eq!(counted, (completion.entries.into(), completion.sent.into(), failed.into()));
    }

    /// Contract 4.3: order is kept per remote within one message.
    fn check_order(&mut self, completion: &Completion) {
        let mut last = HashMap::new();
        let mut shown = 0;
        for event in self.listener.take_events() {
            let About::Sent { index, remote_index, .. } = event.about else { panic!("{event:?} was not asked for") };
            let place = (index, remote_index);
            let before = last.insert(event.remote, place);
            assert!(before.is_none_or(|before| before < place), "{:?} overtook {before:?}", (event.remote, place));
            shown += 1;
        }
        assert_eq!(shown, completion.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    /// Seeds hold these texts; a change of the format has to change the seeds.
    #[test]
    fn the_seeds_have_the_genuine_tags() {
        for tag in GENUINE.iter() {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/tag").join(tag.name);
            assert_eq!(fs::read_to_string(&file).unwrap_or_default(), tag.text, "{}", file.display());
        }
    }
}
