//! Sessions: what makes a remote one that has spoken first, and what its packets go through. Plain UDP only remembers;
//! WireGuard opens and seals.
//!
//! Everything else calls the same verbs whatever the protocol, and matches on none. A further protocol is a variant of
//! [`Session`] and a module beside [`plain`] and `tunnel`.

mod passage;
pub mod plain;
mod tunnel;
pub mod wireguard;

pub use passage::{Arrived, Delivery, Departure};
pub use plain::PlainSessions;
pub use wireguard::WireGuard;

use crate::{
    Now,
    coap::exchange::{self, Who},
    event::PeerClock,
    inner::Recent,
    judge::{self, Surroundings},
    message::Way,
    outgoing::{Outgoing, To},
    pacing::Recipient,
    payload::Payload,
    reason::Refused,
    spec::ListenerSpec,
    time,
};
use std::net::{IpAddr, SocketAddr};
use tunnel::Tunnels;
use wireguard::{HandshakeOutcome, PublicKey, Transmit, WireGuardCounters};

/// An entry's way was found by the session that it is shown to again.
const ANOTHER: &str = "an entry's way leads through the session that found it";

/// The protocol of one Listener, with the sessions of all its remotes. A Listener has a single one, so its size does not
/// matter.
#[allow(clippy::large_enum_variant)]
pub enum Session {
    /// `udp`: payloads as they are.
    Plain(PlainSessions),
    /// `wg`
    WireGuard(Tunnels),
}

impl Session {
    /// For a new Listener. Takes what is not to be kept out of `spec`: it has the private key, and peers come and go.
    pub fn new(spec: &mut ListenerSpec) -> Session {
        match spec.wire_guard.take() {
            None => Session::Plain(PlainSessions::new(time::nanos(spec.session_idle_seconds), spec.session_limit)),
            Some(wire_guard) => Session::WireGuard(Tunnels::new(&wire_guard, spec.session_limit)),
        }
    }

    /// The Listener's resource has changed. Sessions go on.
    pub fn update(&mut self, spec: &ListenerSpec) {
        match self {
            Session::Plain(plain) => plain.update(time::nanos(spec.session_idle_seconds), spec.session_limit),
            Session::WireGuard(_) => {} // peers have their own ways in
        }
    }

    /// `Local.Protocol` of packets.
    pub fn protocol(&self) -> &'static str {
        match self {
            Session::Plain(_) => "udp",
            Session::WireGuard(_) => "wg",
        }
    }

    /// True if a datagram is its payload, and says nothing to the session but that its remote has spoken.
    pub fn is_plain(&self) -> bool {
        matches!(self, Session::Plain(_))
    }

    /// A datagram arrived that nobody reads.
    pub fn heard(&mut self, now: Now, local: IpAddr, remote: SocketAddr) {
        match self {
            Session::Plain(plain) => plain.heard(now, remote, local),
            Session::WireGuard(_) => {} // its datagrams are read
        }
    }

    /// A datagram arrived. What is opened is put into `plaintext`.
    #[inline]
    pub fn receive<'a>(
        &mut self,
        now: Now,
        local: IpAddr,
        remote: SocketAddr,
        datagram: &'a [u8],
        plaintext: &'a mut Vec<u8>,
    ) -> Arrived<'a> {
        match self {
            Session::Plain(plain) => {
                plain.heard(now, remote, local);
                Arrived::Packet(Delivery { peer: None, payload: datagram })
            }
            Session::WireGuard(tunnels) => tunnels.receive(now, local, remote, datagram, plaintext),
        }
    }

    /// Where an entry goes, and the payload that carries its data there. `data` reads them once it is known for whom.
    #[inline]
    pub fn address(
        &self,
        around: &Surroundings,
        way: Way,
        data: impl FnOnce(&dyn Fn() -> Who) -> Result<Payload, Refused>,
    ) -> Result<(To, Payload), Refused> {
        match self {
            Session::Plain(_) => {
                let (local, remote) = plain::find(around, way)?;
                let payload = data(&|| (Recipient::Remote(remote), None))?;
                plain::fits(remote, &payload)?;
                Ok((To::Remote { local, remote }, payload))
            }
            Session::WireGuard(tunnels) => {
                let (mut to, inner) = tunnels.find(around, way)?;
                let data = data(&|| (Recipient::Peer(to.peer), inner.client()))?;
                let payload = tunnels.wrap(&mut to, inner, data)?;
                Ok((To::Peer(to), payload))
            }
        }
    }

    /// The payload that carries `data` back to where a packet came from.
    pub fn wrap(&self, way: &exchange::Way, data: Vec<u8>) -> Result<(To, Payload), Refused> {
        match (self, way.to) {
            (Session::Plain(_), to) => Ok((to, data.into())),
            (Session::WireGuard(tunnels), To::Peer(mut to)) => {
                let payload = tunnels.wrap(&mut to, way.inner.map_or(Recent::Raw, Recent::Udp), data.into())?;
                Ok((To::Peer(to), payload))
            }
            _ => unreachable!("{ANOTHER}"),
        }
    }

    /// Expiry and egress policy of a sourced entry. Yields the address to send from, where one is known.
    #[inline]
    pub fn permit(
        &mut self,
        around: &Surroundings,
        source: usize,
        tagged: bool,
        to: &To,
        expires_ms: u64,
    ) -> Result<Option<IpAddr>, Refused> {
        match (self, to) {
            (Session::Plain(plain), To::Remote { local, remote }) => {
                plain.permit(around, source, tagged, *remote, expires_ms).map(|session| local.or(session))
            }
            (Session::WireGuard(tunnels), To::Peer(to)) => {
                tunnels.permit(around, source, to, expires_ms).map(|()| None)
            }
            _ => unreachable!("{ANOTHER}"),
        }
    }

    /// Judges by the rules that hold for handlers' answers too: never to a Listener of this gateway, and only where the
    /// socket reaches. Yields the address to send from, where one is known.
    #[inline]
    pub fn permit_answer(&self, around: &Surroundings, to: &To) -> Result<Option<IpAddr>, Refused> {
        match (self, to) {
            (Session::Plain(_), To::Remote { local, remote }) => judge::permit_answer(around, *remote).map(|()| *local),
            (Session::WireGuard(tunnels), To::Peer(to)) => tunnels.permit_answer(around, to).map(|()| None),
            _ => unreachable!("{ANOTHER}"),
        }
    }

    /// The address that an entry goes to, if it is known.
    #[inline]
    pub fn remote_of(&self, to: &To) -> Option<SocketAddr> {
        match (self, to) {
            (_, To::Remote { remote, .. }) => Some(*remote),
            (Session::WireGuard(tunnels), To::Peer(to)) => tunnels.wg.endpoint_of(&to.peer).map(|at| at.remote),
            _ => unreachable!("{ANOTHER}"),
        }
    }

    /// Makes a packet ready for the socket, unless it has to wait for a handshake.
    #[inline]
    pub fn seal(&mut self, now: Now, outgoing: &mut Outgoing) -> Result<Departure, Refused> {
        match self {
            Session::Plain(_) => Ok(Departure::Now),
            Session::WireGuard(tunnels) => tunnels.seal(now, outgoing),
        }
    }

    /// The next outcome of a handshake for which packets wait.
    #[inline]
    pub fn poll_outcome(&mut self) -> Option<HandshakeOutcome> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => tunnels.wg.poll_outcome(),
        }
    }

    /// The next datagram that the protocol itself sends.
    #[inline]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => tunnels.wg.poll_transmit(),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, on the clock of [`Now::mono`].
    pub fn poll_timeout(&self) -> Option<u64> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => tunnels.wg.poll_timeout(),
        }
    }

    /// The protocol's timers.
    pub fn handle_timeout(&mut self, now: Now) {
        match self {
            Session::Plain(_) => {}
            Session::WireGuard(tunnels) => tunnels.wg.handle_timeout(now),
        }
    }

    /// The counters that only a `wg` Listener has.
    #[inline]
    pub fn wire_guard_counters(&self) -> Option<WireGuardCounters> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => Some(tunnels.counters()),
        }
    }

    /// What the last datagram told of its peer's clock, if that is to be reported.
    #[inline]
    pub fn take_clock_report(&mut self) -> Option<(PublicKey, PeerClock)> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => tunnels.wg.take_clock_report(),
        }
    }

    /// The peers of a `wg` Listener.
    pub fn wire_guard(&self) -> Option<&WireGuard> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => Some(&tunnels.wg),
        }
    }

    /// The peers of a `wg` Listener, to change them.
    pub fn wire_guard_mut(&mut self) -> Option<&mut WireGuard> {
        match self {
            Session::Plain(_) => None,
            Session::WireGuard(tunnels) => Some(&mut tunnels.wg),
        }
    }
}
