//! Packets of sessions, in and out (whitepaper, sections 5.4.5, 5.4.6, 6.2, 6.5 and 2.1).

use super::{
    Endpoint, PeerId, Received, Sealed, Transmit, WireGuard,
    message::Message,
    peers::NEVER,
    timers::{KEEPALIVE_TIMEOUT, SILENCE},
    transport::PacketError,
};
use crate::{Now, reason::Rejected};
use std::net::{IpAddr, SocketAddr};

impl WireGuard {
    /// A datagram arrived. A packet's plaintext is put into `plaintext`; what is not delivered leaves it undefined.
    pub fn receive(
        &mut self,
        now: Now,
        local: IpAddr,
        remote: SocketAddr,
        datagram: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Received {
        let Some(message) = Message::parse(datagram) else { return Received::Refused(Rejected::NotWireGuard) };
        if remote.port() == 0 {
            return Received::Refused(Rejected::NotWireGuard); // nothing can be answered there
        }
        match message {
            Message::Data { receiver, counter, sealed } => {
                let at = Endpoint { remote, local: Some(local) };
                self.packet(now, at, receiver, counter, sealed, plaintext)
            }
            Message::Initiation(message) => match self.pass(now, local, remote, message, false) {
                Ok(()) => self.initiation(now, local, remote, message),
                Err(refused) => refused,
            },
            Message::Response(message) => {
                let awaited = self.awaits(message);
                match self.pass(now, local, remote, message, awaited) {
                    Ok(()) => self.response(now, local, remote, message),
                    Err(refused) => refused,
                }
            }
            Message::Cookie(message) => self.cookie(now, message),
        }
    }

    fn packet(
        &mut self,
        now: Now,
        from: Endpoint,
        index: u32,
        counter: u64,
        sealed: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Received {
        let Some(&place) = self.indices.get(&index) else { return Received::Refused(Rejected::NoSession) };
        let peer = self.peers.get_mut(place);
        let Some(live) = peer.live.as_deref_mut() else { return Received::Refused(Rejected::NoSession) };
        let Some(session) = live.session(index) else { return Received::Refused(Rejected::NoSession) };
        let could_send = session.can_send(now);
        let newest = match session.open(now, counter, sealed, plaintext) {
            Ok(newest) => newest,
            Err(PacketError::Ended) => return Received::Refused(Rejected::NoSession),
            Err(PacketError::Forged) => return Received::Refused(Rejected::InvalidPacket),
            Err(PacketError::Replayed) => return Received::Refused(Rejected::Replayed),
        };
        let (wants_rekey, outlived) = (session.wants_rekey_after_receiving(now), session.outlived);
        let revived = !could_send && session.can_send(now);
        live.silent_at = NEVER;
        if !plaintext.is_empty() {
            match live.keepalive_at {
                NEVER => live.keepalive_at = now.mono.saturating_add(KEEPALIVE_TIMEOUT),
                _ => live.another_keepalive = true,
            }
        }
        let confirmed = live.next.take_if(|next| next.local_index == index);
        let promoted = confirmed.is_some();
        if promoted {
            let before = std::mem::replace(&mut live.current, confirmed);
            let dropped = std::mem::replace(&mut live.previous, before);
            self.release(dropped);
            self.settled(now, place);
        }
        let peer = self.peers.get_mut(place);
        let id = peer.id;
        peer.seen().received_bytes += (sealed.len() + super::message::HEADER) as u64;
        let current = peer.live.as_ref().and_then(|live| live.current.as_ref());
        let is_current = current.is_some_and(|session| session.local_index == index);
        // A packet that was overtaken comes from where the peer was, not from where it is.
        if newest && is_current {
            self.moved(place, from);
        }
        if is_current && outlived {
            // The peer answers no handshake, but goes on.
            self.abandon(place);
            if revived {
                self.outcomes.push_back(super::HandshakeOutcome::Ready(id));
            }
        } else if is_current && wants_rekey {
            self.initiate(now, place);
        }
        self.peers.touch(place);
        self.arm_persistent(now, place);
        self.reschedule(place);
        if plaintext.is_empty() {
            self.counters.keepalives_received += 1;
            return Received::Protocol;
        }
        Received::Packet(id)
    }

    /// Seals a packet for a peer, or begins the handshake that it needs first. `pad`: with zeros to 16 bytes, for IP packets
    /// that we have made ourselves.
    pub fn seal(&mut self, now: Now, id: &PeerId, plaintext: &[u8], pad: bool) -> Sealed {
        let Some(place) = self.peers.find(id) else { return Sealed::UnknownPeer };
        match self.seal_at(now, place, plaintext, pad) {
            Some(transmit) => Sealed::Datagram(transmit),
            None if self.initiate(now, place) => Sealed::Wait,
            None => Sealed::NoEndpoint,
        }
    }

    /// None without a session.
    pub(super) fn seal_at(&mut self, now: Now, place: u32, plaintext: &[u8], pad: bool) -> Option<Transmit> {
        let peer = self.peers.get_mut(place);
        let endpoint = peer.endpoint()?;
        let live = peer.live.as_deref_mut()?;
        let session = live.current.as_deref_mut().filter(|session| session.can_send(now))?;
        let datagram = session.seal(plaintext, pad);
        let wants_rekey = session.wants_rekey_after_sending(now);
        live.keepalive_at = NEVER;
        live.another_keepalive = false;
        if !plaintext.is_empty() && live.silent_at == NEVER && !session.outlived {
            live.silent_at = now.mono.saturating_add(SILENCE);
        }
        peer.seen().sent_bytes += datagram.len() as u64;
        if wants_rekey {
            self.initiate(now, place);
        }
        self.arm_persistent(now, place);
        self.reschedule(place);
        Some(Transmit { endpoint, datagram })
    }
}
