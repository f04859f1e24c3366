//! Live events of one Listener for whoever watches: filtered and sampled here, rendered once, bounded, with a count of
//! what was left out. Costs nothing while nobody watches.

use crate::{Signal, Signals, lock::lock};
use serde::{Deserialize, Serialize};
use sluice_core::{
    About, Event, Kinds, ListenerSpec, Origin, PeerClock, Rejected, policy::Networks, session::wireguard::PublicKey,
    time,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard},
};

/// Bytes of rendered events that wait for a reader.
const BUFFER: usize = 1 << 20;

const DROPPED_BY_KERNEL: &str = "the kernel had no room for them in the Listener's receive buffer; where it had coalesced \
                                 datagrams, their number is an estimate";

/// What somebody wants to see.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct FilterSpec {
    /// Names of events; None: all.
    #[serde(default)]
    pub events: Option<Vec<String>>,
    /// Only remotes inside.
    #[serde(default)]
    pub remotes: Option<Networks>,
    /// Only a remote's port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Most events in one second; more are counted.
    pub rate: u32,
}

/// One watcher's share of a Listener's events.
#[derive(Debug)]
pub struct Watch {
    kinds: Kinds,
    filter: FilterSpec,
    inner: Mutex<Inner>,
    ready: Signal,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<u8>,
    second: u64,
    in_second: u32,
    /// Events since the last summary that were not rendered.
    skipped: u64,
    closed: bool,
}

/// What stands in every event: where it happened.
pub(crate) struct Labels<'a> {
    pub node: u16,
    pub region: &'a str,
    pub spec: &'a ListenerSpec,
}

impl Watch {
    /// An error names an unknown event.
    pub fn new(filter: FilterSpec, signals: &Signals) -> io::Result<Watch> {
        let known = |name: &String| Kinds::NAMES.iter().any(|(_, one)| one == name);
        if let Some(unknown) = filter.events.iter().flatten().find(|name| !known(name)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no event {unknown}")));
        }
        let mut kinds = Kinds::default();
        for (kind, name) in Kinds::NAMES {
            if filter.events.as_ref().is_none_or(|wanted| wanted.iter().any(|one| one == name)) {
                kinds = kinds.union(kind);
            }
        }
        Ok(Watch { kinds, filter, inner: Mutex::default(), ready: signals.signal() })
    }

    /// The kinds that it wants.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// Whole lines of JSON since the last call.
    pub fn read(&self) -> Vec<u8> {
        let mut inner = self.lock();
        if !inner.closed {
            self.ready.clear();
        }
        std::mem::take(&mut inner.lines)
    }

    /// True when the Listener is gone and everything has been read.
    pub fn is_finished(&self) -> bool {
        let inner = self.lock();
        inner.closed && inner.lines.is_empty()
    }

    /// Set when [`read`](Self::read) has something, and for good once closed.
    pub fn ready(&self) -> &Signal {
        &self.ready
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.set();
    }

    /// Shows it `events`.
    pub(crate) fn offer(&self, labels: &Labels, events: &[Event]) {
        let _wake; // dropped after the lock
        let mut inner = self.lock();
        let before = inner.lines.len();
        for event in events.iter().filter(|event| self.wants(event)) {
            let second = event.at_ms / 1_000;
            if second != inner.second {
                inner.summarize(labels);
                (inner.second, inner.in_second) = (second, 0);
            }
            if inner.in_second >= self.filter.rate || inner.lines.len() >= BUFFER {
                inner.skipped += 1;
                continue;
            }
            inner.in_second += 1;
            render(labels, event, &mut inner.lines);
        }
        _wake = (inner.lines.len() > before).then(|| self.ready.set());
    }

    /// Tells what was left out, once its second is over; returns true while something waits to be told.
    pub(crate) fn settle(&self, labels: &Labels, now_ms: u64) -> bool {
        let mut _wake = None; // dropped after the lock
        let mut inner = self.lock();
        if inner.skipped > 0 && now_ms / 1_000 > inner.second {
            inner.summarize(labels);
            _wake = Some(self.ready.set());
        }
        inner.skipped > 0
    }

    fn wants(&self, event: &Event) -> bool {
        self.kinds.meets(event.kind)
            && self.filter.remotes.as_ref().is_none_or(|nets| event.remote.is_some_and(|r| nets.contains(r.ip())))
            && self.filter.port.is_none_or(|port| event.remote.is_some_and(|r| r.port() == port))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    fn summarize(&mut self, labels: &Labels) {
        if self.skipped > 0 && self.lines.len() < BUFFER {
            let skipped = std::mem::take(&mut self.skipped);
            let at = time::write_iso8601((self.second + 1) * 1_000);
            let mut line = Line::new(labels, "EventsSkipped", &at);
            line.suppressed = Some(skipped);
            line.write(&mut self.lines);
        }
    }
}

/// One event in the contract's order of fields (section 6).
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    time: &'a str,
    event: &'a str,
    node: u16,
    region: &'a str,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<Remote>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Remote {
    ip_address: std::net::IpAddr,
    port: u16,
}

impl<'a> Line<'a> {
    fn new(labels: &Labels<'a>, event: &'a str, time: &'a [u8]) -> Line<'a> {
        Line {
            time: std::str::from_utf8(time).expect("digits"),
            event,
            node: labels.node,
            region: labels.region,
            listener: &labels.spec.name,
            destination: None,
            packet_source: None,
            message_id: None,
            index: None,
            remote_index: None,
            id: None,
            tag: None,
            remote: None,
            bytes: None,
            reason: None,
            packets: None,
            detail: None,
            suppressed: None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("writing to memory cannot fail");
        out.push(b'\n');
    }
}

fn why_refused(peer: &PublicKey, source: Option<IpAddr>) -> String {
    let (sent, fix) = match source {
        None => ("what is no IP packet".to_owned(), "both \"0.0.0.0/0\" and \"::/0\"".to_owned()),
        Some(source) => {
            let bits = if source.is_ipv4() { 32 } else { 128 };
            (format!("a packet with the inner source {source}"), format!("\"{source}/{bits}\""))
        }
    };
    format!(
        "the peer {peer} sent {sent}, which its allowed_ips do not hold: add {fix} to them if it may; what else is refused \
         of this peer is only counted"
    )
}

/// The reason and the detail of a peer's clock.
fn about_clock(peer: &PublicKey, clock: PeerClock) -> (&'static str, String) {
    match clock {
        PeerClock::Ahead(seconds) => (
            "StampAhead",
            format!(
                "the peer {peer} began a handshake with a stamp that is {} ahead of this machine's clock: set the clock of \
                 either one right; once the peer's is, its handshakes are refused until it has passed that stamp, or until \
                 `sluicegate peers reset {peer}`",
                span(seconds)
            ),
        ),
        PeerClock::Behind { lacks, ahead } => {
            let greatest = match ahead {
                0 => String::new(),
                ahead => format!(", and that one is {} ahead of this machine's clock", span(ahead)),
            };
            let detail = format!(
                "a handshake of the peer {peer} is refused: its stamp is {} lower than the greatest one that the peer has \
                 used{greatest}. The peer's clock was set back, or somebody repeats an old handshake of its. \
                 `sluicegate peers reset {peer}` lets it in with the clock that it has",
                span(lacks)
            );
            ("StampTooLow", detail)
        }
    }
}

/// Some time in words.
fn span(seconds: u64) -> String {
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let unit = units.into_iter().find(|(size, _)| seconds >= 2 * size).unwrap_or((1, "seconds"));
    format!("{} {}", seconds / unit.0, unit.1)
}

fn render(labels: &Labels, event: &Event, out: &mut Vec<u8>) {
    let at = time::write_iso8601(event.at_ms);
    let mut line = Line::new(labels, event.kind.name(), &at);
    line.remote = event.remote.map(|remote: SocketAddr| Remote { ip_address: remote.ip(), port: remote.port() });
    line.bytes = event.bytes;
    match &event.about {
        About::Received(tag) => line.tag = Some(tag),
        About::Rejected(why) => line.reason = Some(format!("{why:?}")),
        About::Loop => {
            let what = "1,000 answers in a row came back within a second each (loop_guard)";
            line.detail = Some(what.to_owned());
        }
        About::ProtocolFailed(reason, detail) => {
            line.reason = Some(reason.as_str().to_owned());
            line.detail = Some(detail.clone());
        }
        About::LocalAddressGone(local) => {
            line.detail = Some(format!(
                "{local} is no address of this machine any more: packets for remotes that spoke to it leave from the \
                 address that the kernel chooses, which firewalls on the way may not let through until they speak again"
            ));
        }
        About::Icmp(why) => line.reason = Some((*why).to_owned()),
        About::KernelDropped(packets) => {
            line.reason = Some("ReceiveBufferFull".to_owned());
            line.packets = Some(*packets);
            line.detail = Some(DROPPED_BY_KERNEL.to_owned());
        }
        About::InnerRefused(peer, source) => {
            line.reason = Some(format!("{:?}", Rejected::RefusedInnerSource));
            line.detail = Some(why_refused(peer, *source));
        }
        About::PeerClock(peer, clock) => {
            let (reason, detail) = about_clock(peer, *clock);
            (line.reason, line.detail) = (Some(reason.to_owned()), Some(detail));
        }
        About::Sent { origin, document, index, remote_index, id } => {
            match *origin {
                Origin::Source(i) => line.packet_source = labels.spec.sources.get(i).map(|s| s.name.as_str()),
                Origin::Destination(i) => line.destination = labels.spec.destinations.get(i).map(|d| d.name.as_str()),
            }
            line.message_id = Some(document);
            line.index = Some(*index);
            line.remote_index = *remote_index;
            line.id = id.as_deref();
        }
    }
    line.write(out);
}
