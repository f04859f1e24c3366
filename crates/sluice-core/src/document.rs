//! Documents to send, as they come in and as they end.

use crate::{
    reason::Reason,
    scheduled::{Due, Scheduled},
};
use std::{fmt, ops::Deref, sync::Arc};

/// Where a document came from: an index into the Listener's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A PacketSource's message.
    Source(usize),
    /// The answer of a Destination's handler.
    Destination(usize),
}

/// A document to send.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Comes back in the [`Completion`].
    pub id: String,
    /// Who sends it.
    pub origin: Origin,
    /// When it was published (Unix milliseconds), if the source says so; ages count from here.
    pub published_ms: Option<u64>,
    /// `{"Messages": …}`, one flat entry, or `{"Replies": …}`.
    pub body: Body,
    /// Every entry fails so, and nothing is sent.
    pub refusal: Option<(Reason, String)>,
    /// It is an entry that was scheduled before: flat, and of its `Remotes` only those that are not null.
    pub due: Option<Box<Due>>,
}

/// The bytes of a document, wherever they lie: whoever submits it need not copy them.
#[derive(Clone)]
pub struct Body(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Body {
    /// `bytes` must not change while the document is here.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Body {
        Body(Arc::new(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::new(bytes)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body of {} bytes", self.len())
    }
}

/// An entry that was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The entry's place in its document; None: the document as a whole.
    pub index: Option<u32>,
    /// The place in the entry's `Remotes`, where it has them and each fails by itself.
    pub remote_index: Option<u32>,
    /// Why, as counted.
    pub reason: Reason,
    /// Why, for a person.
    pub detail: String,
}

/// A document of which every entry has ended, each of its `Remotes` counted as one:
/// `entries == sent + duplicates + failures.len() + scheduled.len()`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Completion {
    pub id: String,
    pub origin: Origin,
    pub entries: u32,
    pub sent: u32,
    pub duplicates: u32,
    pub failures: Vec<Failure>,
    /// Those that are to be sent later.
    pub scheduled: Vec<Scheduled>,
    /// Size of the document, to give its room in the ring back.
    pub bytes: usize,
}
