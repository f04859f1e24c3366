//! The gateway's own Listeners, where nothing may be sent (contract section 4.4).

use std::{collections::HashMap, net::IpAddr};

/// The gateway's own Listeners, kept by the I/O layer: never a remote, not even for a Tag, or two packets could chase
/// each other for ever.
#[derive(Clone, Debug, Default)]
pub struct OwnEndpoints {
    /// Ports of all Listeners, each with the number of Listeners there.
    pub ports: HashMap<u16, usize>,
    /// Addresses of this machine's interfaces.
    pub addresses: Vec<IpAddr>,
}

impl OwnEndpoints {
    /// A Listener is bound to this port.
    pub fn add(&mut self, port: u16) {
        *self.ports.entry(port).or_default() += 1;
    }

    /// A Listener that was bound to this port is closed.
    pub fn remove(&mut self, port: u16) {
        let left = self.ports.get(&port).map_or(0, |count| count - 1);
        if left > 0 {
            self.ports.insert(port, left)
        } else {
            self.ports.remove(&port)
        };
    }

    /// True if a datagram to `ip:port` would come back to one of the Listeners.
    pub fn contains(&self, ip: IpAddr, port: u16) -> bool {
        self.ports.contains_key(&port) && (ip.is_loopback() || ip.is_unspecified() || self.addresses.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn own_listeners() {
        let own = OwnEndpoints { ports: [(2048, 1)].into(), addresses: vec![ip("192.0.2.10")] };
        for text in ["192.0.2.10", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"] {
            assert!(own.contains(ip(text), 2048), "{text}");
            assert!(!own.contains(ip(text), 2049), "{text}");
        }
        assert!(!own.contains(ip("192.0.2.11"), 2048));
    }

    #[test]
    fn a_port_is_own_until_its_last_listener_is_closed() {
        let mut own = OwnEndpoints::default();
        own.add(2048);
        own.add(2048);
        own.remove(2048);
        assert!(own.contains(ip("127.0.0.1"), 2048));
        own.remove(2048);
        assert!(!own.contains(ip("127.0.0.1"), 2048));
    }
}
