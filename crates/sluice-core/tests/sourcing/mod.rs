//! A Listener with one PacketSource, `replies`, and no network: time is the test's.

use serde_json::{Value, json};
use sluice_core::{
    Completion, Due, Kinds, Listener, ListenerSpec, Now, Origin, OwnEndpoints, Reason, Shared, Submission,
    scheduled::Waiting,
};
use std::{net::SocketAddr, sync::Arc};

pub const SECOND: u64 = 1_000_000_000;
const HOME: &str = "[::]:2048";

pub struct Node {
    pub listener: Listener,
    shared: Arc<Shared>,
    pub own: OwnEndpoints,
    pub now: Now,
    pub wire: Vec<(SocketAddr, Vec<u8>)>,
    pub completions: Vec<Completion>,
}

impl Node {
    pub fn new(change: impl FnOnce(&mut Value)) -> Node {
        let shared = json!({
            "Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}], "TagSeconds": 3600,
        });
        let mut spec = json!({
            "Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": HOME, "DualStack": true,
            "ClientNetworks": ["0.0.0.0/0", "::/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000,
            "RingBytes": 1 << 20,
            "Destinations": [{"Name": "echo", "Formatter": "base64", "Count": 10, "TimeoutSeconds": 0.1,
                              "SizeBytes": 1 << 20, "QueueBytes": 1 << 20, "Bound": true}],
            "Sources": [{"Name": "replies", "EgressNetworks": ["0.0.0.0/0", "::/0"], "HoldSeconds": 60,
                         "DedupSeconds": 600, "DedupLimit": 100_000}],
        });
        change(&mut spec);
        let spec: ListenerSpec = serde_json::from_value(spec).unwrap();
        let shared = Arc::new(Shared::new(&serde_json::from_value(shared).unwrap()).unwrap());
        let mut listener = Listener::new(spec, shared.clone(), HOME.parse().unwrap(), [1; 6]);
        listener.watch(Kinds(u16::MAX));
        let mut own = OwnEndpoints::default();
        own.listen(HOME.parse().unwrap(), true);
        let now = Now { mono: 0, unix_ms: 1_780_000_000_000 };
        Node { listener, shared, own, now, wire: Vec::new(), completions: Vec::new() }
    }

    #[allow(dead_code)]
    pub fn waiting(&self) -> &Waiting {
        &self.shared.waiting
    }

    pub fn publish(&mut self, body: Value) -> Completion {
        self.submit(body, None);
        self.completions.pop().unwrap()
    }

    pub fn submit(&mut self, body: Value, refusal: Option<(Reason, String)>) {
        let body = body.to_string().into_bytes().into();
        let submission =
            Submission { id: "m".into(), origin: Origin::Source(0), published_ms: None, body, refusal, due: None };
        self.listener.submit(self.now, &self.own, submission);
        self.pass(0);
    }

    /// An entry that was put off comes again.
    #[allow(dead_code)] // not every test has one
    pub fn comes_due(&mut self, body: Value, due: Due, refusal: Option<(Reason, String)>) -> Completion {
        let (origin, body, due) = (Origin::Source(0), body.to_string().into_bytes().into(), Some(Box::new(due)));
        let submission = Submission { id: "m".into(), origin, published_ms: Some(0), body, refusal, due };
        self.listener.submit(self.now, &self.own, submission);
        self.pass(0);
        self.completions.pop().unwrap()
    }

    pub fn pass(&mut self, nanos: u64) {
        self.now.mono += nanos;
        self.now.unix_ms += nanos / 1_000_000;
        self.listener.handle_timeout(self.now);
        while let Some(packet) = self.listener.next_outgoing(self.now) {
            self.wire.push((packet.remote, packet.payload.to_vec()));
            self.listener.sent(self.now);
        }
        while let Some(completion) = self.listener.poll_completion() {
            let ended = completion.sent + completion.duplicates + completion.failures.len() as u32;
            let ended = ended + completion.scheduled.len() as u32;
            assert_eq!(completion.entries, ended, "every remote ends exactly once");
            self.completions.push(completion);
        }
    }
}

pub fn remote(number: u32) -> Value {
    json!({"IP": format!("198.51.{}.{}", 100 + number / 250, 1 + number % 250), "Port": 5683})
}
