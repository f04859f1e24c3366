//! What is received without its content, as every Destination refuses it ([`crate::intake`]).
//!
//! Theory. To copy a datagram from the kernel costs about as much as to refuse it. Where all Destinations of a Listener
//! refuse most of what arrives, lots are drawn before it is received, and what is not drawn is not copied. Its remote and
//! its size are known all the same, so that it is counted, and its remote has spoken. Everything is read where something
//! else may want the content: a tunnel, an exchange of CoAP, a filter.

use super::Listener;
use crate::{Now, Rejected, pacing::Recipient};
use std::net::{IpAddr, SocketAddr};

/// Datagrams that arrived together: all but the last one are of the same size, as receive offload coalesces them.
#[derive(Clone, Copy, Debug)]
pub struct Unread {
    /// Bytes of all.
    pub bytes: usize,
    /// Bytes of each but the last one, which may have fewer.
    pub each: usize,
}

impl Unread {
    /// How many; an empty datagram is one too.
    pub fn packets(self) -> usize {
        self.bytes.div_ceil(self.each.max(1)).max(1)
    }

    /// The bytes of each.
    pub fn sizes(self) -> impl Iterator<Item = usize> {
        let each = self.each.max(1);
        (0..self.packets()).map(move |index| each.min(self.bytes - index * each))
    }
}

impl Listener {
    /// Before datagrams are received, about `packets` in all: which of the buffers are worth reading. False: all of them.
    /// What lies in the others is shown to [`handle_unread`](Self::handle_unread). This holds until the next call.
    pub fn draw(&mut self, now: Now, packets: usize, buffers: &mut [bool]) -> bool {
        self.read = self.worth_reading(now, packets);
        if self.read < 1.0 {
            buffers.fill_with(|| self.lots.draw(self.read));
        }
        self.read < 1.0
    }

    /// The part of what arrives that some Destination takes. What they see of a packet is why it is read at all.
    fn worth_reading(&mut self, now: Now, packets: usize) -> f64 {
        if self.egress.exchanges.is_some() || !self.session.is_plain() {
            return 1.0;
        }
        let destinations = self.spec.destinations.iter().zip(&mut self.intakes).filter(|(spec, _)| !spec.removed);
        destinations
            .map(|(spec, intake)| match spec.bound && spec.filter.is_none() {
                true => intake.worth_reading(now, packets),
                false => 1.0,
            })
            .reduce(f64::max)
            .unwrap_or(1.0)
    }

    /// Datagrams arrived from `remote` at `local` that [`draw`](Self::draw) said are not worth reading: what they are is
    /// accounted for as in [`handle_datagram`](Self::handle_datagram), and all Destinations refuse them.
    pub fn handle_unread(&mut self, now: Now, local: IpAddr, remote: SocketAddr, unread: Unread) {
        let packets = unread.packets();
        self.counters.received_packets += packets as u64;
        self.counters.received_bytes += unread.bytes as u64;
        if !self.spec.client_networks.contains(remote.ip()) {
            unread.sizes().for_each(|bytes| self.reject(now, remote, bytes, Rejected::RefusedNetwork));
            return;
        }
        self.session.heard(now, local, remote);
        self.egress.answers.missed(Recipient::Remote(remote));
        for index in 0..self.batchers.len() {
            if !self.spec.destinations[index].removed {
                self.counters.destinations[index].packets += packets as u64;
                self.counters.destinations[index].bytes += unread.bytes as u64;
                self.intakes[index].unread(packets);
                self.refuse(index, packets);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_size() {
        for (bytes, each, sizes) in [(0, 0, vec![0]), (5, 5, vec![5]), (12, 5, vec![5, 5, 2]), (10, 5, vec![5, 5])] {
            let unread = Unread { bytes, each };
            assert_eq!(unread.packets(), sizes.len());
            assert_eq!(unread.sizes().collect::<Vec<_>>(), sizes);
        }
    }
}
