//! Batching: packets of one Destination gather until one of Count, TimeoutInSeconds or SizeInMb is reached
//! (`reference-service.md` section 6). With a TimeoutInSeconds of 0 they gather while no delivery can start (contract
//! section 3): a batch is ready at the end of the turn in which its first packet came, and as long as nobody has read it,
//! those that follow [join](Batch::join) it.

use crate::{
    Now,
    brex::Budget,
    spec::{DestinationSpec, ValueSpec},
    time,
};
use std::sync::Arc;

const HEAD: &[u8] = b"{\"Messages\":[";
const TAIL: &[u8] = b"]}";

/// Packets of one Destination, rendered: a whole `{"Messages":[…]}` document that remembers where its records lie.
#[derive(Debug, Default)]
pub struct Batch {
    body: Vec<u8>,
    /// End of each record in `body`; a record starts one byte (the comma) after the end of the one before.
    ends: Vec<u32>,
    /// Packets that were refused while this batch was open, or since the one before.
    refused: usize,
    values: Values,
    /// Others may join it up to these limits; none where there is no room.
    room: Room,
}

/// Limits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    count: usize,
    size: usize,
}

/// What expressions say of each packet of a batch, as text.
#[derive(Debug, Default)]
struct Values {
    asked: Arc<[ValueSpec]>,
    text: String,
    /// Where each value ends in `text`, packet by packet; [`NULL`] for null.
    ends: Vec<u32>,
}

const NULL: u32 = u32::MAX;

impl Values {
    fn extend(&mut self, later: &Values) {
        let moved = self.text.len() as u32;
        self.text.push_str(&later.text);
        self.ends.extend(later.ends.iter().map(|&end| if end == NULL { NULL } else { end + moved }));
    }

    fn ask(&mut self, payload: &[u8], budget: &mut Budget) {
        for ValueSpec { expression, formatter, .. } in self.asked.iter() {
            match expression.evaluate(payload, budget).render(*formatter) {
                Some(value) => {
                    self.text.push_str(&value);
                    self.ends.push(self.text.len() as u32);
                }
                None => self.ends.push(NULL),
            }
        }
    }
}

impl Batch {
    /// Adds a later batch of the same Destination to this one, if both fit into one; gives it back where they do not.
    #[must_use]
    pub fn join(&mut self, later: Batch) -> Option<Batch> {
        let fit = self.count() + later.count() <= self.room.count && self.size() + later.size() <= self.room.size;
        if !fit || self.room != later.room || self.values.asked != later.values.asked {
            return Some(later);
        }
        self.body.truncate(self.body.len() - TAIL.len());
        self.body.push(b',');
        let moved = (self.body.len() - HEAD.len()) as u32;
        self.body.extend_from_slice(&later.body[HEAD.len()..]);
        self.ends.extend(later.ends.iter().map(|end| end + moved));
        self.values.extend(&later.values);
        self.refused += later.refused;
        None
    }

    /// The document of contract section 2.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Number of packets.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// What the expression of the argument `name` says of each packet; nothing if the batch was begun without it.
    pub fn values(&self, name: &str) -> Option<impl Iterator<Item = Option<&str>>> {
        let Values { asked, text, ends } = &self.values;
        let column = asked.iter().position(|value| value.name == name)?;
        let mut start = 0;
        let all = ends.iter().map(move |&end| {
            let end = (end != NULL).then_some(end as usize)?;
            Some(&text[std::mem::replace(&mut start, end)..end])
        });
        Some(all.skip(column).step_by(asked.len()))
    }

    /// Bytes that the batch keeps.
    pub fn size(&self) -> usize {
        self.body.len() + self.values.text.len()
    }

    /// Bytes that the batch would have if none of its time had been refused: about, from the size of those that it has.
    pub fn weight(&self) -> usize {
        self.size() + self.refused.saturating_mul(self.size() / self.count().max(1))
    }

    /// The packets, one JSON object each.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(HEAD.len()).chain(self.ends.iter().map(|&end| end as usize + 1));
        starts.zip(&self.ends).map(|(start, &end)| &self.body[start..end as usize])
    }

    /// Length of what [`write_lines`](Self::write_lines) writes.
    pub fn lines_len(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize + 1 - HEAD.len())
    }

    /// The packets as lines (NDJSON), into a buffer of [`lines_len`](Self::lines_len) bytes.
    pub fn write_lines(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.body[HEAD.len()..][..out.len()]);
        for &end in &self.ends {
            out[end as usize - HEAD.len()] = b'\n';
        }
    }
}

/// Gathers the packets of one Destination.
pub struct Batcher {
    count: usize,
    timeout: u64,
    size: usize,
    asked: Arc<[ValueSpec]>,
    open: Batch,
    /// When the open batch must go; meaningless while it is empty.
    deadline: u64,
    /// Capacity for the next batch, from the last one: a steady stream allocates once a batch.
    typical: usize,
    /// Bytes of a packet in the last batch, about.
    record: usize,
}

impl Batcher {
    /// Limits from the Destination's spec; a count or size of zero means one packet.
    pub fn new(spec: &DestinationSpec) -> Batcher {
        Batcher {
            count: spec.count.max(1),
            timeout: time::nanos(spec.timeout_seconds),
            // Offsets are 32 bits: half of that leaves room for one more packet of any size.
            size: spec.size_bytes.min(u32::MAX as usize / 2),
            asked: spec.values.clone().into(),
            open: Batch::default(),
            deadline: 0,
            typical: 0,
            record: 0,
        }
    }

    /// Adds one packet that `render` appends to a buffer; `ready` takes each batch that this completes. A packet that
    /// would make the batch too large starts the next one. Expressions are asked of `payload`.
    pub fn add(
        &mut self,
        now: Now,
        payload: &[u8],
        budget: &mut Budget,
        render: impl FnOnce(&mut Vec<u8>),
        mut ready: impl FnMut(Batch),
    ) {
        if self.open.ends.is_empty() {
            self.start(now);
        } else {
            self.open.body.push(b',');
        }
        let start = self.open.body.len();
        render(&mut self.open.body);
        if self.open.body.len() + TAIL.len() > self.size && !self.open.ends.is_empty() {
            let record = self.open.body.split_off(start);
            self.open.body.pop(); // the comma
            ready(self.close());
            self.start(now);
            self.open.body.extend_from_slice(&record);
        }
        self.open.ends.push(self.open.body.len() as u32);
        self.open.values.ask(payload, budget);
        if self.open.ends.len() >= self.count || self.open.size() + TAIL.len() >= self.size {
            ready(self.close());
        }
    }

    /// Packets were refused ([`crate::intake`]): they weigh, but are not there.
    pub fn refuse(&mut self, packets: usize) {
        self.open.refused += packets;
    }

    /// Packets a second that make batches full before their time is over, by the size of those in the last batch.
    pub fn fills(&self) -> f64 {
        if self.is_adaptive() {
            return 0.0; // as long as nobody reads it, it fills
        }
        let packets = self.count.min(self.size / self.record.max(1));
        packets as f64 / (self.timeout.max(time::SECOND / 1_000) as f64 / time::SECOND as f64)
    }

    /// The moment at which the open batch must go, if there is one.
    pub fn deadline(&self) -> Option<u64> {
        (!self.open.ends.is_empty()).then_some(self.deadline)
    }

    /// Takes the open batch if its time has come, or in any case with `force`.
    pub fn expire(&mut self, now: Now, force: bool) -> Option<Batch> {
        let due = self.deadline()? <= now.mono || force;
        due.then(|| self.close())
    }

    /// New limits, also for the open batch; takes it if it has reached them, or if other values are asked from here on.
    pub fn update(&mut self, now: Now, spec: &DestinationSpec) -> Option<Batch> {
        let limits = Batcher::new(spec);
        let other = limits.asked != self.asked;
        (self.count, self.timeout, self.size) = (limits.count, limits.timeout, limits.size);
        self.asked = limits.asked;
        self.deadline = self.deadline.min(now.mono.saturating_add(self.timeout));
        let reached = other || self.open.ends.len() >= self.count || self.open.body.len() + TAIL.len() >= self.size;
        (reached && !self.open.ends.is_empty()).then(|| self.close())
    }

    fn is_adaptive(&self) -> bool {
        self.timeout == 0
    }

    fn start(&mut self, now: Now) {
        self.deadline = now.mono.saturating_add(self.timeout);
        self.open.body.reserve(self.typical);
        self.open.body.extend_from_slice(HEAD);
        self.open.values.asked = self.asked.clone();
    }

    fn close(&mut self) -> Batch {
        self.open.body.extend_from_slice(TAIL);
        self.typical = self.open.body.len();
        self.record = self.typical / self.open.count().max(1);
        if self.is_adaptive() {
            self.open.room = Room { count: self.count, size: self.size };
        }
        std::mem::take(&mut self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Formatter;
    use proptest::prelude::*;

    fn batcher(count: usize, timeout_seconds: f64, size_bytes: usize) -> Batcher {
        Batcher::new(&spec(count, timeout_seconds, size_bytes))
    }

    fn spec(count: usize, timeout_seconds: f64, size_bytes: usize) -> DestinationSpec {
        DestinationSpec {
            name: "d".into(),
            formatter: Formatter::Base64,
            filter: None,
            values: Vec::new(),
            count,
            timeout_seconds,
            size_bytes,
            queue_bytes: 0,
            bound: true,
            removed: false,
        }
    }

    fn at(seconds: f64) -> Now {
        Now { mono: time::nanos(seconds), unix_ms: 0 }
    }

    fn add(batcher: &mut Batcher, now: Now, record: &str) -> Vec<String> {
        let mut ready = Vec::new();
        batcher.add(
            now,
            b"",
            &mut Budget::default(),
            |out| out.extend_from_slice(record.as_bytes()),
            |batch| ready.push(text(&batch)),
        );
        ready
    }

    fn text(batch: &Batch) -> String {
        String::from_utf8(batch.body().to_vec()).unwrap()
    }

    #[test]
    fn count_closes() {
        let mut batcher = batcher(2, 1.0, 1 << 20);
        assert!(add(&mut batcher, at(0.0), "1").is_empty());
        assert_eq!(add(&mut batcher, at(0.0), "2"), ["{\"Messages\":[1,2]}"]);
        assert_eq!(batcher.deadline(), None);
    }

    #[test]
    fn the_first_packet_sets_the_deadline() {
        let mut batcher = batcher(10, 0.1, 1 << 20);
        add(&mut batcher, at(1.0), "1");
        add(&mut batcher, at(1.05), "2");
        assert_eq!(batcher.deadline(), Some(time::nanos(1.1)));
        assert!(batcher.expire(at(1.09), false).is_none());
        let batch = batcher.expire(at(1.1), false).unwrap();
        assert_eq!(batch.records().collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(batch.count(), 2);
        assert!(batcher.expire(at(9.0), true).is_none());
    }

    #[test]
    fn a_packet_over_the_size_starts_the_next_batch() {
        let mut batcher = batcher(10, 1.0, 20);
        assert!(add(&mut batcher, at(0.0), "123").is_empty());
        assert_eq!(add(&mut batcher, at(0.0), "456"), ["{\"Messages\":[123]}"]);
        assert_eq!(add(&mut batcher, at(0.0), "a-large-one"), ["{\"Messages\":[456]}", "{\"Messages\":[a-large-one]}"]);
        assert_eq!(batcher.deadline(), None);
    }

    proptest! {
        #[test]
        fn joined_batches_are_as_if_they_had_been_one(first in 1usize..6, second in 1usize..6, count in 1usize..12) {
            let spec = |count| {
                let mut spec = spec(count, 0.0, 1 << 20);
                let expression = |text: &str| crate::brex::Expression::parse(text).unwrap();
                spec.values = ["u8[0]", "[1]"].map(|text| ValueSpec {
                    name: text.into(), expression: expression(text), formatter: Formatter::Hex,
                }).into();
                spec
            };
            let gather = |numbers: std::ops::Range<usize>, count| {
                let mut batcher = Batcher::new(&spec(count));
                for number in numbers {
                    let payload = if number % 2 == 0 { vec![number as u8] } else { vec![number as u8, 7] };
                    batcher.add(at(0.0), &payload, &mut Budget::default(), |b| b.extend(number.to_string().bytes()), |_| {});
                }
                batcher.expire(at(0.0), false)
            };
            // Batches that are full are not open any more.
            prop_assume!(first < count && second < count);
            let (mut joined, later) = (gather(0..first, count).unwrap(), gather(first..first + second, count).unwrap());
            match joined.join(later) {
                None => {
                    let whole = gather(0..first + second, 99).unwrap();
                    prop_assert!(first + second <= count);
                    prop_assert_eq!(joined.body(), whole.body());
                    prop_assert_eq!(joined.records().collect::<Vec<_>>(), whole.records().collect::<Vec<_>>());
                    for name in ["u8[0]", "[1]"] {
                        prop_assert!(joined.values(name).unwrap().eq(whole.values(name).unwrap()));
                    }
                }
                Some(later) => {
                    prop_assert!(first + second > count);
                    prop_assert_eq!((joined.count(), later.count()), (first, second));
                }
            }
        }

        #[test]
        fn no_packet_is_lost_or_doubled(count in 0usize..9, size in 0usize..200, lens in prop::collection::vec(1usize..60, 0..80)) {
            let mut batcher = batcher(count, 1.0, size);
            let mut out: Vec<String> = Vec::new();
            let mut sent = Vec::new();
            let mut check = |batch: &Batch| {
                assert!(batch.count() <= count.max(1));
                assert!(batch.body().len() <= size || batch.count() == 1);
                let parsed: serde_json::Value = serde_json::from_slice(batch.body()).unwrap();
                assert_eq!(parsed["Messages"].as_array().unwrap().len(), batch.count());
                let mut lines = vec![0; batch.lines_len()];
                batch.write_lines(&mut lines);
                assert_eq!(lines, batch.records().flat_map(|r| [r, b"\n"].concat()).collect::<Vec<_>>());
                out.extend(batch.records().map(|r| String::from_utf8(r.to_vec()).unwrap()));
            };
            for (i, len) in lens.iter().enumerate() {
                let record = format!("\"{i}{}\"", "x".repeat(*len));
                batcher.add(at(0.0), b"", &mut Budget::default(), |b| b.extend_from_slice(record.as_bytes()), |batch| check(&batch));
                sent.push(record);
            }
            if let Some(batch) = batcher.expire(at(0.0), true) {
                check(&batch);
            }
            prop_assert_eq!(out, sent);
        }
    }
}
