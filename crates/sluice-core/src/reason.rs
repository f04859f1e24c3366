//! The closed sets of names that counters, events and outcomes use.

use serde::Serialize;

/// An enum whose variants are spelt the same everywhere, with `ALL` and `as_str`.
macro_rules! names {
    ($(#[$of_all:meta])* pub enum $Names:ident { $($(#[$of_one:meta])* $Name:ident,)* }) => {
        $(#[$of_all])*
        pub enum $Names { $($(#[$of_one])* $Name,)* }

        impl $Names {
            /// Every one, in declaration order.
            pub const ALL: &[$Names] = &[$($Names::$Name,)*];

            /// The spelling in counters and events.
            pub fn as_str(self) -> &'static str {
                match self { $($Names::$Name => stringify!($Name),)* }
            }
        }
    };
}

names! {
    /// Why an entry of a message or a reply was not sent (contract section 4.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
    #[allow(missing_docs)] // the names are the contract's and say what they mean
    pub enum Reason {
        MalformedMessage,
        MalformedRemote,
        MalformedData,
        InvalidTag,
        UnknownPeer,
        NoSession,
        InnerAddressUnknown,
        RemoteDenied,
        WrongRegion,
        Expired,
        PayloadTooLarge,
        RateLimited,
        AnswerRefused,
        LoopSuspected,
        Cancelled,
        RemoteUnreachable,
        SendFailed,
        SourceDisabled,
    }
}

impl Reason {
    /// The reason with this spelling, as the Python side names it in a refusal.
    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

names! {
    /// Why an arriving datagram went to no Destination at all.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
    pub enum Rejected {
        /// The client lies outside `ClientRestrictions.Networks`; or its address is special, they do not name it, and nothing
        /// is to be had from it: a loopback address that came over another interface, or for WireGuard one that is not answered.
        RefusedNetwork,
        /// The Listener has no Destination.
        NoDestination,
        /// The datagram arrived after the Listener had stopped.
        Shutdown,
        /// The datagram is no message of WireGuard.
        NotWireGuard,
        /// A handshake by somebody who does not know the Listener's public key.
        InvalidMac,
        /// A handshake under load: a cookie was asked for, or its sender has had its share.
        HandshakeLimit,
        /// A handshake that is not genuine.
        InvalidHandshake,
        /// A handshake that is not newer than the peer's last one.
        ReplayedHandshake,
        /// A handshake of somebody who is not among the peers.
        UnknownPeer,
        /// The packet belongs to no session, or to one that has ended.
        NoSession,
        /// The packet is not sealed with its session's key.
        InvalidPacket,
        /// The packet has come before, or comes far too late.
        Replayed,
        /// The packet's inner source is not among the peer's `AllowedIPs`, or it is no IP packet and they do not hold everything.
        RefusedInnerSource,
        /// An inner packet whose length or checksum is wrong, where it was to be taken out of its headers.
        InnerMalformed,
        /// A part of a larger inner packet.
        InnerFragment,
        /// An inner packet that is neither UDP nor an ICMP echo request.
        InnerProtocol,
        /// A CoAP message that came before and was delivered: it got the same answer, if there was one.
        CoapRepeated,
        /// It acknowledges, or resets, a CoAP message that the gateway repeats.
        CoapAcknowledged,
    }
}

names! {
    /// Why a packet that was admitted did not reach one Destination.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
    pub enum Dropped {
        /// The Destination has no ARN yet (contract section 1.2).
        Unbound,
        /// The Destination's queue was full; its oldest batch gave way.
        QueueFull,
        /// No CoAP message, where the formatter is `coap`, as all that follow: it ends in the middle of something.
        CoapTruncated,
        /// Another version of CoAP than 1.
        CoapVersion,
        /// A token of more than 8 bytes: extended (RFC 8974), or the reserved length 15.
        CoapTokenLength,
        /// Code 0.00, with more than the 4 bytes that it has.
        CoapEmptyCode,
        /// The reserved delta 15.
        CoapOptionDelta,
        /// The reserved length 15.
        CoapOptionLength,
        /// An option whose number is above 65535.
        CoapOptionNumber,
        /// A payload marker with nothing behind it.
        CoapNoPayload,
    }
}

impl Rejected {
    /// True for what happens on WireGuard Listeners alone.
    pub fn of_wireguard(self) -> bool {
        let everywhere = matches!(self, Rejected::RefusedNetwork | Rejected::NoDestination | Rejected::Shutdown);
        !everywhere && !self.of_coap()
    }

    /// True for what happens where the gateway takes part in CoAP's exchanges.
    pub fn of_coap(self) -> bool {
        matches!(self, Rejected::CoapRepeated | Rejected::CoapAcknowledged)
    }
}

/// Why an entry is not sent: as counted, and for a person.
pub type Refused = (Reason, String);
