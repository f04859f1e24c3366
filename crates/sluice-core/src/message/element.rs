//! One element of `Messages` or `Replies`: every field takes any JSON value, and is judged afterwards.

use std::borrow::Cow;

/// Any JSON value, kept as far as a field may need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar<'a> {
    /// The field does not occur.
    #[default]
    Absent,
    /// `null`
    Null,
    /// A string.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
    /// `true`, `false`, an array or an object.
    Other,
}

impl Scalar<'_> {
    /// True where the field has no value: absent or `null`.
    pub fn is_none(&self) -> bool {
        matches!(self, Scalar::Absent | Scalar::Null)
    }
}

/// `Remote` of an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RemoteField<'a> {
    /// Absent or `null`.
    #[default]
    None,
    /// An object.
    Object {
        /// `Address`, `IP` or `IpAddress`: the same thing.
        address: Scalar<'a>,
        /// Which of the three was written; `Address` if none was.
        spelling: &'static str,
        /// `Port`
        port: Scalar<'a>,
        /// `PeerKey`
        peer_key: Scalar<'a>,
    },
    /// Anything else.
    Other,
}

/// `Remotes` of an entry: one payload to many.
#[derive(Clone, Debug, PartialEq)]
pub enum Remotes<'a> {
    /// An array.
    List(Vec<Target<'a>>),
    /// Neither an array nor `null`.
    Other,
}

/// One of `Remotes`: a Remote, or an object with a `Tag`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target<'a> {
    /// None for `null`, Other for what is no object.
    pub remote: RemoteField<'a>,
    /// `Tag`
    pub tag: Scalar<'a>,
}

/// `Inner` of an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum InnerField<'a> {
    /// Absent or `null`.
    #[default]
    None,
    /// An object. Boxed, because few entries have one.
    Object(Box<InnerObject<'a>>),
    /// Anything else.
    Other,
}

/// Addresses inside a tunnel; `Version` and `Protocol` follow from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InnerObject<'a> {
    /// `SourceAddress`, `SourcePort`: the client's side.
    pub source: [Scalar<'a>; 2],
    /// `DestinationAddress`, `DestinationPort`: the gateway's side.
    pub destination: [Scalar<'a>; 2],
}

/// One element of `Messages` or `Replies`, not yet judged.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the fields are the contract's
pub struct Entry<'a> {
    pub data: Scalar<'a>,
    pub formatter: Scalar<'a>,
    pub tag: Scalar<'a>,
    pub remote: RemoteField<'a>,
    /// None: absent or `null`. Boxed, because few entries have it.
    pub remotes: Option<Box<Remotes<'a>>>,
    pub inner: InnerField<'a>,
    pub ttl_seconds: Scalar<'a>,
    pub expires_at: Scalar<'a>,
    pub id: Scalar<'a>,
    pub send_at: Scalar<'a>,
}

/// What an entry says of its way: the `tag` leads, where there is one.
#[derive(Clone, Copy)]
#[allow(missing_docs)] // the fields are the contract's
pub struct Way<'e, 'a> {
    pub tag: Option<&'e str>,
    pub remote: &'e RemoteField<'a>,
    pub inner: &'e InnerField<'a>,
}

/// Where the value of an entry's key goes.
pub(super) enum Field<'e, 'a> {
    Scalar(&'e mut Scalar<'a>),
    Remote(&'e mut RemoteField<'a>),
    Remotes(&'e mut Option<Box<Remotes<'a>>>),
    Inner(&'e mut InnerField<'a>),
}

impl<'a> Entry<'a> {
    /// None: an entry has no such field.
    #[inline]
    pub(super) fn field(&mut self, key: &str) -> Option<Field<'_, 'a>> {
        Some(match key {
            "Data" => Field::Scalar(&mut self.data),
            "Formatter" => Field::Scalar(&mut self.formatter),
            "Tag" => Field::Scalar(&mut self.tag),
            "Remote" => Field::Remote(&mut self.remote),
            "Remotes" => Field::Remotes(&mut self.remotes),
            "Inner" => Field::Inner(&mut self.inner),
            "TtlSeconds" => Field::Scalar(&mut self.ttl_seconds),
            "ExpiresAt" => Field::Scalar(&mut self.expires_at),
            "Id" => Field::Scalar(&mut self.id),
            "SendAt" => Field::Scalar(&mut self.send_at),
            _ => return None,
        })
    }
}

impl<'a> InnerObject<'a> {
    #[inline]
    pub(super) fn field(&mut self, key: &str) -> Option<&mut Scalar<'a>> {
        match key {
            "SourceAddress" => Some(&mut self.source[0]),
            "SourcePort" => Some(&mut self.source[1]),
            "DestinationAddress" => Some(&mut self.destination[0]),
            "DestinationPort" => Some(&mut self.destination[1]),
            _ => None,
        }
    }
}

/// The fields of [`RemoteField::Object`], and the `Tag` that stands beside them in `Remotes`, while they are read.
pub(super) struct RemoteParts<'a> {
    address: Scalar<'a>,
    spelling: &'static str,
    port: Scalar<'a>,
    peer_key: Scalar<'a>,
    tag: Scalar<'a>,
}

impl Default for RemoteParts<'_> {
    fn default() -> Self {
        RemoteParts {
            address: Scalar::default(),
            spelling: "Address",
            port: Scalar::default(),
            peer_key: Scalar::default(),
            tag: Scalar::default(),
        }
    }
}

impl<'a> RemoteParts<'a> {
    #[inline]
    pub(super) fn field(&mut self, key: &str) -> Option<&mut Scalar<'a>> {
        let spelling = match key {
            "Address" => "Address",
            "IP" => "IP",
            "IpAddress" => "IpAddress",
            "Port" => return Some(&mut self.port),
            "PeerKey" => return Some(&mut self.peer_key),
            _ => return None,
        };
        self.spelling = spelling;
        Some(&mut self.address)
    }

    /// The same among `Remotes`, where a `Tag` may stand in its place.
    #[inline]
    pub(super) fn field_or_tag(&mut self, key: &str) -> Option<&mut Scalar<'a>> {
        if key == "Tag" { Some(&mut self.tag) } else { self.field(key) }
    }

    pub(super) fn target(self) -> Target<'a> {
        let RemoteParts { address, spelling, port, peer_key, tag } = self;
        Target { remote: RemoteField::Object { address, spelling, port, peer_key }, tag }
    }

    pub(super) fn whole(self) -> RemoteField<'a> {
        let RemoteParts { address, spelling, port, peer_key, .. } = self;
        RemoteField::Object { address, spelling, port, peer_key }
    }
}

/// An element of `Messages` or `Replies`. Nearly all are entries: boxing them would only cost.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Element<'a> {
    /// An object.
    Entry(Entry<'a>),
    /// `null`
    Null,
    /// Neither; what is wrong with it.
    Malformed(String),
}

/// Gives the `SendAt` of a message to its entries that have none of their own.
pub(super) fn send_all_at<'a>(elements: &mut [Element<'a>], send_at: &Scalar<'a>) {
    if send_at.is_none() {
        return;
    }
    for element in elements {
        if let Element::Entry(entry) = element
            && entry.send_at.is_none()
        {
            entry.send_at = send_at.clone();
        }
    }
}

/// What a body is.
pub(super) enum Parsed<'a> {
    List(Vec<Element<'a>>),
    /// An object without the list (or with `null` for it): itself the entry.
    Flat(Box<Entry<'a>>),
    NotAList,
    Null,
    NotAnObject,
}
