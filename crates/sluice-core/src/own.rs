//! The gateway's own Listeners, where nothing may be sent (contract section 4.4).

use std::net::IpAddr;

/// The gateway's own Listeners, kept by the I/O layer: never a remote, not even for a Tag, or two packets could chase
/// each other for ever.
#[derive(Clone, Debug, Default)]
pub struct OwnEndpoints {
    /// Ports of all Listeners.
    pub ports: Vec<u16>,
    /// Addresses of this machine's interfaces.
    pub addresses: Vec<IpAddr>,
}

impl OwnEndpoints {
    /// True if a datagram to `ip:port` would come back to one of the Listeners.
    pub fn contains(&self, ip: IpAddr, port: u16) -> bool {
        self.ports.contains(&port) && (ip.is_loopback() || ip.is_unspecified() || self.addresses.contains(&ip))
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
        let own = OwnEndpoints { ports: vec![2048], addresses: vec![ip("192.0.2.10")] };
        for text in ["192.0.2.10", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"] {
            assert!(own.contains(ip(text), 2048), "{text}");
            assert!(!own.contains(ip(text), 2049), "{text}");
        }
        assert!(!own.contains(ip("192.0.2.11"), 2048));
    }
}
