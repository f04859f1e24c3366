//! Packets through WireGuard tunnels (contract sections 4.1 and 5): what comes out of a peer's session as a Listener's
//! packet, and what applications' entries become for a peer.

use crate::{
    Now, PAYLOAD_LIMIT_V4,
    address::{address_of, at_one_interface, malformed_remote, port_of},
    inner::{self, Inner, Ip, Recent, Unwrapped},
    judge::{self, Surroundings},
    message::{InnerField, InnerObject, RemoteField, Scalar, Way},
    outgoing::{Outgoing, ToPeer},
    payload::Payload,
    policy,
    reason::{Reason, Refused, Rejected},
    session::{
        passage::{Arrived, Delivery, Departure, FromPeer},
        wireguard::{Endpoint, OVERHEAD, PublicKey, Received, Sealed, Transmit, WireGuard, WireGuardCounters},
    },
    spec::WireGuardSpec,
};
use std::net::{IpAddr, SocketAddr};

/// Largest plaintext; a multiple of 16, so that padding does not pass it.
const PLAINTEXT_LIMIT: usize = (PAYLOAD_LIMIT_V4 - OVERHEAD) / 16 * 16;

/// The tunnels of one Listener.
pub struct Tunnels {
    /// The protocol.
    pub wg: WireGuard,
    decapsulate: bool,
    echoes: u64,
}

impl Tunnels {
    /// Remembers at most `guests` unknown peers.
    pub fn new(spec: &WireGuardSpec, guests: usize) -> Tunnels {
        Tunnels { wg: WireGuard::new(spec, guests), decapsulate: spec.decapsulated_delivery, echoes: 0 }
    }

    /// What has been counted, inner echo requests included.
    pub fn counters(&self) -> WireGuardCounters {
        WireGuardCounters { echoes_answered: self.echoes, ..self.wg.counters().clone() }
    }

    /// A datagram arrived; its plaintext is put into `plaintext`.
    pub fn receive<'a>(
        &mut self,
        now: Now,
        local: IpAddr,
        remote: SocketAddr,
        datagram: &[u8],
        plaintext: &'a mut Vec<u8>,
    ) -> Arrived<'a> {
        let id = match self.wg.receive(now, local, remote, datagram, plaintext) {
            Received::Packet(id) => id,
            Received::Protocol => return Arrived::Protocol,
            Received::Refused(why) => return Arrived::Refused(why),
        };
        let plaintext: &'a [u8] = plaintext;
        let (key, only_ip) = match self.wg.judge_inner(&id, plaintext) {
            Ok(judged) => judged,
            Err(Rejected::RefusedInnerSource) => return Arrived::RefusedInner(id, inner::claimed_source(plaintext)),
            Err(why) => return Arrived::Refused(why),
        };
        let (inner, payload) = match Ip::new(plaintext) {
            Some(ip) if !self.decapsulate => (None, ip.bytes()),
            None if self.decapsulate && only_ip => return Arrived::Refused(Rejected::InnerMalformed),
            None => (None, plaintext),
            Some(ip) => match ip.unwrap() {
                Unwrapped::Udp(inner, payload) => (Some(inner), payload),
                Unwrapped::Dropped(why) => return Arrived::Refused(why),
                Unwrapped::Echo(reply) => {
                    if let Sealed::Datagram(transmit) = self.wg.seal(now, &id, &reply, true) {
                        self.echoes += 1;
                        self.wg.transmit(transmit);
                    }
                    return Arrived::Protocol;
                }
            },
        };
        if self.decapsulate {
            self.wg.set_recent(&id, inner.map_or(Recent::Raw, Recent::Udp));
        }
        Arrived::Packet(Delivery { peer: Some(FromPeer { key, id, inner }), payload })
    }

    /// Puts the sealed packet into the place of its plaintext, if it has a peer and the peer a session.
    pub fn seal(&mut self, now: Now, outgoing: &mut Outgoing) -> Result<Departure, Refused> {
        let Some(to) = outgoing.peer.as_deref().copied() else { return Ok(Departure::Now) };
        match self.wg.seal(now, &to.peer, &outgoing.payload, to.pad) {
            Sealed::Datagram(Transmit { endpoint: Endpoint { remote, local }, datagram }) => {
                (outgoing.local, outgoing.remote) = (local, remote);
                (outgoing.payload, outgoing.peer) = (datagram.into(), None);
                Ok(Departure::Now)
            }
            Sealed::Wait => Ok(Departure::AfterHandshake(to.peer)),
            Sealed::NoEndpoint => Err(no_endpoint(&to.key)),
            Sealed::UnknownPeer => Err(unknown_peer(&to.key)),
        }
    }

    /// Where an entry goes, and how it is to be wrapped.
    pub fn find(&self, around: &Surroundings, way: Way) -> Result<(ToPeer, Recent), Refused> {
        match way.tag {
            Some(tag) => self.by_tag(around, tag),
            None => self.by_key(around, way),
        }
    }

    /// Where a Tag leads, and how the packet was wrapped that it answers.
    fn by_tag(&self, around: &Surroundings, tag: &str) -> Result<(ToPeer, Recent), Refused> {
        let address = around.shared.tag_keys.open_peer(around.now, tag).map_err(judge::invalid_tag)?;
        judge::made_here(around, address.listener, address.node)?;
        let gone = || (Reason::UnknownPeer, "the peer that the Tag answers is there no more".to_owned());
        let key = self.wg.key_of(&address.peer).ok_or_else(gone)?;
        let to = ToPeer { key, peer: address.peer, given: None, pad: false };
        Ok((to, address.inner.map_or(Recent::Raw, Recent::Udp)))
    }

    /// Where `Remote` and `Inner` lead.
    fn by_key(&self, around: &Surroundings, way: Way) -> Result<(ToPeer, Recent), Refused> {
        let RemoteField::Object { address, spelling, port, peer_key } = way.remote else {
            return Err(malformed_remote("Remote (or Tag) is missing or not an object"));
        };
        let Scalar::Text(text) = peer_key else {
            return Err(malformed_remote("Remote.PeerKey is missing or not a string; the Listener's protocol is wg"));
        };
        let key = PublicKey::from_base64(text)
            .ok_or_else(|| malformed_remote("Remote.PeerKey is not the Base64 of 32 bytes"))?;
        let given = match (address.is_none(), port.is_none()) {
            (true, true) => None,
            _ => Some(address_of(around.own, around.bound, address, spelling, port)?),
        };
        // An unknown peer can be reached only where somebody says it is.
        let invited = || (self.wg.admits_unknown() && given.is_some()).then(|| key.id());
        let peer = self.wg.find(&key).or_else(invited).ok_or_else(|| unknown_peer(&key))?;
        let inner = match inner_of(way.inner)? {
            Some(_) if !self.decapsulate => {
                let detail =
                    "Inner is set, but the Listener delivers and sends whole packets (DecapsulatedDelivery is off)";
                return Err(malformed_remote(detail));
            }
            Some(inner) => Recent::Udp(inner),
            None if self.decapsulate => self.wg.recent(&peer),
            None => Recent::Raw,
        };
        Ok((ToPeer { key, peer, given, pad: false }, inner))
    }

    /// The plaintext for a peer.
    pub fn wrap(&self, to: &mut ToPeer, inner: Recent, data: Payload) -> Result<Payload, Refused> {
        let overhead = match &inner {
            Recent::Udp(inner) => inner.overhead(),
            Recent::Raw | Recent::None => 0,
        };
        let limit = PLAINTEXT_LIMIT - overhead;
        if data.len() > limit {
            let detail = format!("{} bytes; a packet in this tunnel carries at most {limit}", data.len());
            return Err((Reason::PayloadTooLarge, detail));
        }
        match inner {
            Recent::Raw => Ok(data),
            Recent::Udp(inner) => {
                to.pad = true;
                Ok(inner.wrap(&data).into())
            }
            Recent::None => {
                let detail = format!("the peer {} has sent nothing yet, and the entry has no Inner", to.key);
                Err((Reason::InnerAddressUnknown, detail))
            }
        }
    }

    /// Expiry and egress policy of a sourced entry for a peer; an unknown peer gets its place here.
    pub fn permit(
        &mut self,
        around: &Surroundings,
        source: usize,
        to: &ToPeer,
        expires_ms: u64,
    ) -> Result<(), Refused> {
        judge::in_time(around, expires_ms)?;
        let source = &around.spec.sources[source];
        if source.require_session && !self.wg.has_session(around.now, &to.peer) {
            return Err((Reason::NoSession, format!("the peer {} has no session", to.key)));
        }
        let known = self.wg.endpoint_of(&to.peer).map(|endpoint| endpoint.remote);
        if self.wg.has_shown_itself(&to.peer) {
            let remote = known.ok_or_else(|| no_endpoint(&to.key))?;
            return match policy::refuse_answer(&around.spec.client_networks, &around.own.routes, remote.ip()) {
                Some(detail) if !source.egress_networks.names(remote.ip()) => Err((Reason::RemoteDenied, detail)),
                _ => judge::permit_remote(around, remote),
            };
        }
        // Only publishers say that the peer is there.
        let remote = to.given.or(known).ok_or_else(|| no_endpoint(&to.key))?;
        if let Some(detail) = source.egress_networks.refuse(&around.own.routes, remote.ip(), false) {
            return Err((Reason::RemoteDenied, detail));
        }
        judge::permit_remote(around, remote)?;
        at_one_interface(remote)?;
        self.wg.invite(to.key).ok_or_else(|| unknown_peer(&to.key))?;
        self.wg.offer_endpoint(&to.peer, remote);
        Ok(())
    }

    /// Judges a handler's answer.
    pub fn permit_answer(&self, around: &Surroundings, to: &ToPeer) -> Result<(), Refused> {
        match self.wg.endpoint_of(&to.peer) {
            Some(endpoint) => judge::permit_answer(around, endpoint.remote),
            None => Err(no_endpoint(&to.key)),
        }
    }
}

fn unknown_peer(key: &PublicKey) -> Refused {
    (Reason::UnknownPeer, format!("the Listener has no peer {key}"))
}

fn no_endpoint(key: &PublicKey) -> Refused {
    (Reason::NoSession, format!("nobody knows where the peer {key} is"))
}

fn inner_of(field: &InnerField) -> Result<Option<Inner>, Refused> {
    let InnerObject { source, destination } = match field {
        InnerField::None => return Ok(None),
        InnerField::Other => return Err(malformed_remote("Inner is not an object")),
        InnerField::Object(inner) => &**inner,
    };
    // A client may send from port 0, but nothing can be sent there.
    let source = inner_side(source, 1, "Source")?;
    let destination = inner_side(destination, 0, "Destination")?;
    match source.is_ipv4() == destination.is_ipv4() {
        true => Ok(Some(Inner { source, destination })),
        false => Err(malformed_remote("Inner.SourceAddress and Inner.DestinationAddress are of two families")),
    }
}

fn inner_side([address, port]: &[Scalar; 2], least: u16, side: &str) -> Result<SocketAddr, Refused> {
    let address = match address {
        Scalar::Text(text) => text.parse::<IpAddr>().ok(),
        _ => None,
    };
    let address =
        address.ok_or_else(|| malformed_remote(&format!("Inner.{side}Address is missing or not an IP address")))?;
    let port = port_of(port, least)
        .ok_or_else(|| malformed_remote(&format!("Inner.{side}Port is not a whole number from {least} to 65535")))?;
    Ok(SocketAddr::new(address, port))
}
