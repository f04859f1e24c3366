//! What an entry of a message or a handler's answer asks for (contract sections 3 and 4.1): JSON becomes a payload with the
//! way that it goes, or the first thing in it that is malformed is named. Whether it may go is for
//! [`Session::permit`] to say.

use crate::{
    address::malformed_remote,
    coap::exchange::{Answer, Exchanges},
    dedup,
    document::Origin,
    format::Formatter,
    judge::Surroundings,
    message::{Element, Entry, RemoteField, Remotes, Scalar, Target, Way},
    outgoing::{OneOf, To},
    payload::Payload,
    reason::{Reason, Refused},
    scheduled::AHEAD_MS,
    session::Session,
    time,
};
use std::sync::Arc;

/// Longest `Id` in bytes: it is kept in a journal and shown in events.
const ID_LIMIT: usize = 256;

/// A well-formed entry.
pub struct Read {
    /// For de-duplication.
    pub id: Option<String>,
    /// The address came from a Tag.
    pub tagged: bool,
    /// Where to.
    pub to: To,
    /// What: for a peer, its plaintext.
    pub payload: Payload,
    /// Size of the application's data.
    pub bytes: usize,
    /// Unix milliseconds after which it is not sent.
    pub expires_ms: u64,
    /// When it is to be sent, in Unix milliseconds; None: now.
    pub later: Option<u64>,
    /// Which of the entry's `Remotes` this is.
    pub one_of: Option<Box<OneOf>>,
    /// What it is to an exchange of CoAP. Boxed, because few entries are anything to one.
    pub answer: Option<Box<Answer>>,
}

/// What the `Remotes` of an entry have in common.
pub struct Common<'e, 'a> {
    entry: &'e Entry<'a>,
    id: Option<String>,
    formatter: Formatter,
    data: Payload,
    expires_ms: u64,
    later: Option<u64>,
}

/// What handlers may answer without asking for a packet: null elements, no `Tag`, null `Data` (contract section 3).
pub fn tolerates(origin: Origin, element: &Element) -> bool {
    match (origin, element) {
        (Origin::Source(_), _) | (_, Element::Malformed(_)) => false,
        (_, Element::Null) => true,
        (_, Element::Entry(entry)) => entry.tag.is_none() || entry.data.is_none(),
    }
}

/// Reads an entry, or says what is malformed or cannot be reached.
pub fn read(
    around: &Surroundings,
    session: &Session,
    exchanges: Option<&mut Exchanges>,
    origin: Origin,
    published_ms: Option<u64>,
    element: &Element,
) -> Result<Read, Refused> {
    let entry = match element {
        Element::Entry(entry) => entry,
        Element::Null => return Err((Reason::MalformedMessage, "the entry is null".to_owned())),
        Element::Malformed(detail) => return Err((Reason::MalformedMessage, detail.clone())),
    };
    if let (Origin::Source(_), Some(remotes)) = (origin, &entry.remotes) {
        return Err(malformed_remote(match **remotes {
            Remotes::Other => "Remotes is not an array",
            Remotes::List(ref targets) if targets.is_empty() => "Remotes is empty",
            Remotes::List(_) => "Remotes stands beside Remote or Tag; an entry has one of them",
        }));
    }
    let data = data_of(entry)?;
    let (formatter, (expires_ms, later), id) = match origin {
        Origin::Destination(index) => (around.spec.destinations[index].formatter, (u64::MAX, None), None),
        Origin::Source(index) => (formatter_of(entry)?, times(around, index, published_ms, entry)?, id_of(entry)?),
    };
    let mut bytes = 0;
    let mut answer = None;
    let way = Way { tag: tag_of(&entry.tag)?, remote: &entry.remote, inner: &entry.inner };
    let (to, payload) = session.address(around, way, |who| {
        let mut data = formatter.read(data).map_err(|detail| (Reason::MalformedData, detail))?;
        if let Some(exchanges) = exchanges.filter(|_| formatter == Formatter::Coap) {
            let (sent, change) = exchanges.answer(who(), data);
            (data, answer) = (sent, change.map(Box::new));
        }
        bytes = data.len();
        Ok(data.into())
    })?;
    Ok(Read { id, tagged: way.tag.is_some(), to, payload, bytes, expires_ms, later, one_of: None, answer })
}

/// The `Remotes` of a PacketSource's entry, where it has any and nothing beside them: each of them ends by itself.
pub fn remotes<'e, 'a>(origin: Origin, element: &'e Element<'a>) -> Option<(usize, &'e Entry<'a>, &'e [Target<'a>])> {
    let (Origin::Source(source), Element::Entry(entry)) = (origin, element) else { return None };
    match entry.remotes.as_deref()? {
        Remotes::List(targets) if !targets.is_empty() && entry.remote == RemoteField::None && entry.tag.is_none() => {
            Some((source, entry, targets))
        }
        _ => None,
    }
}

/// Reads what all of an entry's `Remotes` have in common.
pub fn read_common<'e, 'a>(
    around: &Surroundings,
    source: usize,
    published_ms: Option<u64>,
    entry: &'e Entry<'a>,
) -> Result<Common<'e, 'a>, Refused> {
    let (text, formatter) = (data_of(entry)?, formatter_of(entry)?);
    let ((expires_ms, later), id) = (times(around, source, published_ms, entry)?, id_of(entry)?);
    let data = formatter.read(text).map_err(|detail| (Reason::MalformedData, detail))?;
    Ok(Common { entry, id, formatter, data: Payload::Shared(Arc::from(data)), expires_ms, later })
}

impl Common<'_, '_> {
    /// Reads one of the `Remotes`.
    pub fn read(
        &self,
        around: &Surroundings,
        session: &Session,
        exchanges: Option<&mut Exchanges>,
        index: u32,
        target: &Target,
    ) -> Result<Read, Refused> {
        self.read_one(around, session, exchanges, index, target).map_err(|refused| named(index, refused))
    }

    fn read_one(
        &self,
        around: &Surroundings,
        session: &Session,
        exchanges: Option<&mut Exchanges>,
        index: u32,
        target: &Target,
    ) -> Result<Read, Refused> {
        let way = Way { tag: tag_of(&target.tag)?, remote: &target.remote, inner: &self.entry.inner };
        let mut answer = None;
        let (to, payload) = session.address(around, way, |who| {
            let Some(exchanges) = exchanges.filter(|_| self.formatter == Formatter::Coap) else {
                return Ok(self.data.clone());
            };
            let (sent, change) = exchanges.answer(who(), self.data.to_vec());
            answer = change.map(Box::new);
            Ok(if answer.is_some() { sent.into() } else { self.data.clone() })
        })?;
        let id = self.id.as_ref().map(|id| dedup::with_remote(id, &to.name()));
        Ok(Read {
            id: self.id.clone(),
            tagged: way.tag.is_some(),
            to,
            payload,
            bytes: self.data.len(),
            expires_ms: self.expires_ms,
            later: self.later,
            one_of: Some(Box::new(OneOf { index, id })),
            answer,
        })
    }
}

/// A refusal of an entry's `Remote` or `Tag`, as one of what is in its `Remotes`. No detail of those repeats a user's text.
fn named(index: u32, (reason, detail): Refused) -> Refused {
    let place = format!("Remotes[{index}]");
    let detail = match detail.strip_prefix("Tag ") {
        Some(rest) => format!("{place}.Tag {rest}"),
        None => detail.replace("Remote (or Tag)", &place).replace("Remote.", &format!("{place}.")),
    };
    (reason, detail)
}

fn data_of<'e>(entry: &'e Entry) -> Result<&'e str, Refused> {
    match &entry.data {
        Scalar::Text(data) => Ok(data),
        _ => Err((Reason::MalformedData, "Data is missing or not a string".to_owned())),
    }
}

fn tag_of<'e>(tag: &'e Scalar) -> Result<Option<&'e str>, Refused> {
    match tag {
        Scalar::Absent | Scalar::Null => Ok(None),
        Scalar::Text(tag) => Ok(Some(tag)),
        _ => Err((Reason::InvalidTag, "Tag is not a string".to_owned())),
    }
}

fn id_of(entry: &Entry) -> Result<Option<String>, Refused> {
    match &entry.id {
        Scalar::Absent | Scalar::Null => Ok(None),
        Scalar::Text(id) if (1..=ID_LIMIT).contains(&id.len()) => Ok(Some(id.clone().into_owned())),
        _ => Err((Reason::MalformedMessage, format!("Id is not a string of 1 to {ID_LIMIT} bytes"))),
    }
}

fn formatter_of(entry: &Entry) -> Result<Formatter, Refused> {
    let unknown = || {
        let names = Formatter::ALL.map(Formatter::as_str).join(", ");
        (Reason::MalformedData, format!("Formatter is none of {names}"))
    };
    match &entry.formatter {
        Scalar::Absent | Scalar::Null => Ok(Formatter::default()),
        Scalar::Text(name) => Formatter::from_name(name).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

/// Of an entry that cannot be reached now, and need not be: when it is to be sent, and by which `Id` it is remembered.
/// `target`: it is one of its `Remotes`.
pub fn put_off(
    around: &Surroundings,
    entry: &Entry,
    target: Option<&Target>,
    reason: Reason,
) -> Option<(u64, Option<String>)> {
    let may_change = matches!(reason, Reason::UnknownPeer | Reason::InnerAddressUnknown);
    let at = send_at(around, entry).ok()?.filter(|&at| may_change && at > around.now.unix_ms)?;
    let id = id_of(entry).ok()?;
    let Some(target) = target else { return Some((at, id)) };
    let RemoteField::Object { peer_key: Scalar::Text(key), .. } = &target.remote else { return None };
    Some((at, id.map(|id| dedup::with_remote(&id, key))))
}

/// `SendAt` in Unix milliseconds.
fn send_at(around: &Surroundings, entry: &Entry) -> Result<Option<u64>, Refused> {
    let malformed = |detail: &str| Err((Reason::MalformedMessage, detail.to_owned()));
    let at = match &entry.send_at {
        Scalar::Absent | Scalar::Null => return Ok(None),
        // Never early: what is finer than a millisecond counts as one.
        Scalar::Text(text) => time::parse_rfc3339(text).map(|at| at + u64::from(is_fine(text))),
        Scalar::Number(seconds) if *seconds >= 0.0 => Some((*seconds * 1e3).ceil() as u64),
        _ => None,
    };
    match at {
        None => malformed("SendAt is neither a time such as 2026-06-09T10:00:00Z nor Unix seconds"),
        Some(at) if at > around.now.unix_ms.saturating_add(AHEAD_MS) => malformed("SendAt is more than 7 days ahead"),
        at => Ok(at),
    }
}

/// True for an RFC 3339 time with more than three digits of a second's fraction.
fn is_fine(text: &str) -> bool {
    text.bytes().skip("2026-06-09T10:00:00.".len()).take_while(u8::is_ascii_digit).count() > 3
}

/// The Unix millisecond at which an entry becomes stale: the earlier of its TTL (or the source's default) and `ExpiresAt`;
/// and that at which it is to be sent, if that is later than now.
fn times(
    around: &Surroundings,
    source: usize,
    published_ms: Option<u64>,
    entry: &Entry,
) -> Result<(u64, Option<u64>), Refused> {
    let send_at = send_at(around, entry)?;
    let ttl = match &entry.ttl_seconds {
        Scalar::Absent | Scalar::Null => around.spec.sources[source].default_ttl_seconds,
        Scalar::Number(seconds) if *seconds >= 0.0 => Some(*seconds),
        _ => return Err((Reason::MalformedMessage, "TtlSeconds is not a number of at least 0".to_owned())),
    };
    let born = published_ms.unwrap_or(around.now.unix_ms).max(send_at.unwrap_or(0));
    let by_ttl = ttl.map_or(u64::MAX, |seconds| born.saturating_add(time::nanos(seconds) / 1_000_000));
    let at = match &entry.expires_at {
        Scalar::Absent | Scalar::Null => u64::MAX,
        Scalar::Text(text) => time::parse_rfc3339(text).ok_or_else(|| {
            (Reason::MalformedMessage, "ExpiresAt is not a time such as 2026-06-09T10:00:00Z".to_owned())
        })?,
        _ => return Err((Reason::MalformedMessage, "ExpiresAt is not a string".to_owned())),
    };
    Ok((by_ttl.min(at), send_at.filter(|&at| at > around.now.unix_ms)))
}
