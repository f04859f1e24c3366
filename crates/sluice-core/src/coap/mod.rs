//! CoAP messages (RFC 7252 section 3) on the wire. Their JSON is `format/coap.rs`.
//!
//! Every well-formed datagram has one spelling: what [`Message::parse`] accepts, [`Draft::encode`] gives back to the byte.
//! Extended tokens (RFC 8974) are refused: a token has at most 8 bytes.

pub mod exchange;

use crate::reason::Dropped;

/// Bytes before the token.
const HEADER: usize = 4;
/// Most bytes of a token.
pub const TOKEN_LIMIT: usize = 8;
/// Most bytes that the length of an option can say.
pub const OPTION_LIMIT: usize = 269 + u16::MAX as usize;
const PAYLOAD_MARKER: u8 = 0xff;
/// From here on a delta or length has one extended byte.
const ONE_MORE: u32 = 13;
/// From here on it has two.
const TWO_MORE: u32 = 269;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// To be acknowledged.
    Confirmable = 0,
    /// Not to be acknowledged.
    NonConfirmable = 1,
    /// Answers a confirmable one.
    Acknowledgement = 2,
    /// Says that a message meant nothing to its receiver.
    Reset = 3,
}

impl Kind {
    /// The type with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        [Kind::Confirmable, Kind::NonConfirmable, Kind::Acknowledgement, Kind::Reset].get(usize::from(number)).copied()
    }
}

/// Class and detail of a message in one byte: 2.05 is 69.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u8);

impl Code {
    /// 0.00: a message without content.
    pub const EMPTY: Code = Code(0);

    /// `class.detail`; None where they do not fit.
    pub fn new(class: u8, detail: u8) -> Option<Code> {
        (class < 8 && detail < 32).then_some(Code(class << 5 | detail))
    }

    /// True for a method, known or not.
    pub fn is_request(self) -> bool {
        (1..32).contains(&self.0)
    }

    /// The name of a method (RFC 7252 section 12.1.1, RFC 8132).
    pub fn method(self) -> Option<&'static str> {
        let names = ["GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "iPATCH"];
        names.get(usize::from(self.0).checked_sub(1)?).copied()
    }
}

/// A well-formed message: views into its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message<'d> {
    /// How it is to be acknowledged.
    pub kind: Kind,
    /// What it asks or says.
    pub code: Code,
    /// Message ID.
    pub id: u16,
    /// Up to 8 bytes.
    pub token: &'d [u8],
    options: &'d [u8],
    /// Empty: there is none.
    pub payload: &'d [u8],
}

impl<'d> Message<'d> {
    /// Reads a datagram, or says what is wrong with it.
    #[inline(never)]
    pub fn parse(datagram: &'d [u8]) -> Result<Message<'d>, Dropped> {
        let [first, code, high, low, rest @ ..] = datagram else { return Err(Dropped::CoapTruncated) };
        if first >> 6 != 1 {
            return Err(Dropped::CoapVersion);
        }
        let token = usize::from(first & 15);
        if token > TOKEN_LIMIT {
            return Err(Dropped::CoapTokenLength);
        }
        let code = Code(*code);
        if code == Code::EMPTY && (token > 0 || !rest.is_empty()) {
            return Err(Dropped::CoapEmptyCode);
        }
        let (token, rest) = rest.split_at_checked(token).ok_or(Dropped::CoapTruncated)?;
        let mut options = Options { rest, number: 0 };
        while options.step()?.is_some() {}
        let payload = match options.rest {
            [] => &[][..],
            [_] => return Err(Dropped::CoapNoPayload),
            [_, payload @ ..] => payload,
        };
        Ok(Message {
            kind: Kind::from_number(first >> 4 & 3).expect("two bits are a type"),
            code,
            id: u16::from_be_bytes([*high, *low]),
            token,
            options: &rest[..rest.len() - options.rest.len()],
            payload,
        })
    }

    /// The options' numbers and values, as they stand.
    pub fn options(&self) -> impl Iterator<Item = (u16, &'d [u8])> {
        let mut options = Options { rest: self.options, number: 0 };
        std::iter::from_fn(move || options.step().expect("they have been read before"))
    }
}

/// Reads options up to the payload marker.
struct Options<'d> {
    rest: &'d [u8],
    number: u32,
}

impl<'d> Options<'d> {
    /// The next option. None: `rest` is empty, or begins with the payload marker.
    fn step(&mut self) -> Result<Option<(u16, &'d [u8])>, Dropped> {
        let &[first, ref rest @ ..] = self.rest else { return Ok(None) };
        if first == PAYLOAD_MARKER {
            return Ok(None);
        }
        let (delta, rest) = extended(first >> 4, rest, Dropped::CoapOptionDelta)?;
        let (length, rest) = extended(first & 15, rest, Dropped::CoapOptionLength)?;
        self.number += delta;
        let number = u16::try_from(self.number).map_err(|_| Dropped::CoapOptionNumber)?;
        let (value, rest) = rest.split_at_checked(length as usize).ok_or(Dropped::CoapTruncated)?;
        self.rest = rest;
        Ok(Some((number, value)))
    }
}

/// What a nibble and the bytes that it announces stand for. 15 is reserved.
fn extended(nibble: u8, rest: &[u8], reserved: Dropped) -> Result<(u32, &[u8]), Dropped> {
    match (nibble, rest) {
        (0..13, _) => Ok((u32::from(nibble), rest)),
        (13, &[byte, ref rest @ ..]) => Ok((ONE_MORE + u32::from(byte), rest)),
        (14, &[high, low, ref rest @ ..]) => Ok((TWO_MORE + u32::from(u16::from_be_bytes([high, low])), rest)),
        (13 | 14, _) => Err(Dropped::CoapTruncated),
        _ => Err(reserved),
    }
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// How it is to be acknowledged.
    pub kind: Kind,
    /// What it asks or says.
    pub code: Code,
    /// Message ID.
    pub id: u16,
    /// At most [`TOKEN_LIMIT`] bytes.
    pub token: Vec<u8>,
    /// In any order; values of at most [`OPTION_LIMIT`] bytes.
    pub options: Vec<(u16, Vec<u8>)>,
    /// Empty: there is none.
    pub payload: Vec<u8>,
}

impl Draft {
    /// The datagram. Options are sorted by number; those of one number stay in their order.
    pub fn encode(mut self) -> Vec<u8> {
        debug_assert!(self.token.len() <= TOKEN_LIMIT);
        self.options.sort_by_key(|(number, _)| *number);
        let size = self.options.iter().map(|(_, value)| value.len() + 5).sum::<usize>();
        let mut out = Vec::with_capacity(HEADER + self.token.len() + size + 1 + self.payload.len());
        out.push(1 << 6 | (self.kind as u8) << 4 | self.token.len() as u8);
        out.push(self.code.0);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.token);
        let mut before = 0;
        for (number, value) in &self.options {
            debug_assert!(value.len() <= OPTION_LIMIT);
            let (delta, more_delta) = extension(u32::from(number - before));
            let (length, more_length) = extension(value.len() as u32);
            out.push(delta << 4 | length);
            more_delta.write(&mut out);
            more_length.write(&mut out);
            out.extend_from_slice(value);
            before = *number;
        }
        if !self.payload.is_empty() {
            out.push(PAYLOAD_MARKER);
            out.extend_from_slice(&self.payload);
        }
        out
    }
}

/// The bytes behind an option's first one that extend its delta or its length.
enum Extension {
    None,
    One(u8),
    Two(u16),
}

impl Extension {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Extension::None => {}
            Extension::One(byte) => out.push(*byte),
            Extension::Two(both) => out.extend_from_slice(&both.to_be_bytes()),
        }
    }
}

fn extension(value: u32) -> (u8, Extension) {
    match value {
        0..ONE_MORE => (value as u8, Extension::None),
        ONE_MORE..TWO_MORE => (13, Extension::One((value - ONE_MORE) as u8)),
        _ => (14, Extension::Two((value - TWO_MORE) as u16)),
    }
}

#[cfg(test)]
mod tests;
