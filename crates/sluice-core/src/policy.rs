//! Who may send to a Listener, and where a PacketSource may send (contract section 4.4).
//!
//! Sending UDP to any address that a message names would be an open relay into the gateway's own network: a publisher
//! could reach `169.254.169.254`, a database on `10.0.0.0/8` or the gateway itself. So an address must lie in the
//! source's networks, and a special-purpose address ([`crate::special`]) needs a network that names it: `0.0.0.0/0` and
//! `::/0` do not. Answers go back to where a packet came from; but its source may be forged, so they go to no address
//! that only the gateway's own surroundings have.

use crate::{
    own::LocalRoutes,
    special::{BROADCAST, Special, special},
};
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use std::net::IpAddr;

/// A list of CIDRs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Vec<IpNet>")]
pub struct Networks(pub Vec<IpNet>);

impl From<Vec<IpNet>> for Networks {
    /// Networks of IPv4-mapped addresses are read as IPv4: every address is looked up in its canonical form.
    fn from(networks: Vec<IpNet>) -> Networks {
        Networks(networks.into_iter().map(unmapped).collect())
    }
}

fn unmapped(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => {
            let v4 = v6.addr().to_ipv4_mapped().and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok());
            v4.map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

impl Networks {
    /// True if any of the networks contains `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// True if a network other than `0.0.0.0/0` and `::/0` contains `ip`.
    pub fn names(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.prefix_len() > 0 && net.contains(&ip))
    }

    /// The egress policy for what a PacketSource sends to `ip`, which must be canonical ([`crate::canonical`]): why it is
    /// refused, if it is. A remote with a session has spoken first, and needs no permission; but a spoofed datagram speaks
    /// too, so that a special-purpose address needs a network that names it in any case.
    pub fn refuse(&self, routes: &LocalRoutes, ip: IpAddr, has_session: bool) -> Option<String> {
        let why = match special_here(routes, ip) {
            Some(special) if !self.names(ip) => format!("{special}, which no network of the PacketSource names"),
            None if !has_session && !self.contains(ip) => "in no network of the PacketSource".to_owned(),
            _ => return None,
        };
        Some(format!(
            "{ip} is {why}: add \"{}\" or a larger network to its egress_networks (EgressNetworks), or \
             apply the template with --egress-network",
            IpNet::from(ip)
        ))
    }
}

/// What is special about `ip`, also by this machine's own networks.
fn special_here(routes: &LocalRoutes, ip: IpAddr) -> Option<Special> {
    special(ip).or_else(|| routes.is_broadcast(ip).then_some(BROADCAST))
}

/// What is special about `ip` (canonical), if no answer goes there: no client of a UDP server has such an address, and none
/// of the client networks names it.
pub fn unanswered(clients: &Networks, ip: IpAddr) -> Option<Special> {
    special(ip).filter(|special| !special.answered && !clients.names(ip))
}

/// Why no answer goes to `ip`, if none does ([`unanswered`]).
pub fn refuse_answer(clients: &Networks, routes: &LocalRoutes, ip: IpAddr) -> Option<String> {
    let special = special_here(routes, ip).filter(|special| !special.answered && !clients.names(ip))?;
    Some(format!(
        "{ip} is {special}, where no answer goes: add \"{}\" or a larger network to the Listener's \
         client_restrictions.networks (ClientRestrictions.Networks) if clients are there",
        IpNet::from(ip)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        Networks(list.iter().map(|net| net.parse().unwrap()).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const OPEN: [&str; 2] = ["0.0.0.0/0", "::/0"];

    #[test]
    fn a_special_address_needs_a_network_that_names_it_session_or_not() {
        for text in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "255.255.255.255", "::1", "fd00::1", "2002:7f00:1::1"]
        {
            let host = IpNet::from(ip(text)).to_string();
            for has_session in [false, true] {
                let why = networks(&OPEN).refuse(&LocalRoutes::default(), ip(text), has_session).unwrap();
                assert!(why.contains(&format!("\"{host}\"")) && why.contains("egress_networks"), "{why}");
                assert_eq!(
                    networks(&["0.0.0.0/0", &host]).refuse(&LocalRoutes::default(), ip(text), has_session),
                    None,
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn an_ordinary_address_needs_a_network_or_a_session() {
        for text in ["203.0.113.42", "198.51.100.7", "8.8.8.8", "2001:db8::1", "2606:4700::1", "64:ff9b::808:808"] {
            assert_eq!(networks(&OPEN).refuse(&LocalRoutes::default(), ip(text), false), None, "{text}");
            let elsewhere = networks(&["192.0.2.0/24", "2001:4860::/32"]);
            assert!(
                elsewhere
                    .refuse(&LocalRoutes::default(), ip(text), false)
                    .unwrap()
                    .contains("in no network of the PacketSource"),
                "{text}"
            );
            assert_eq!(elsewhere.refuse(&LocalRoutes::default(), ip(text), true), None, "{text}");
        }
    }

    #[test]
    fn the_broadcast_address_of_an_own_network_is_special() {
        let mut routes = LocalRoutes::default();
        routes.add("203.0.113.255/32".parse().unwrap(), crate::own::Local::Group);
        let why = networks(&OPEN).refuse(&routes, ip("203.0.113.255"), true).unwrap();
        assert!(why.contains("the broadcast address of a network of this machine"), "{why}");
        assert!(refuse_answer(&networks(&OPEN), &routes, ip("203.0.113.255")).is_some());
        assert_eq!(networks(&["203.0.113.0/24"]).refuse(&routes, ip("203.0.113.255"), false), None);
        assert_eq!(networks(&OPEN).refuse(&routes, ip("203.0.113.254"), false), None);
    }

    #[test]
    fn mapped_networks_are_read_as_ipv4() {
        let read = |text: &str| Networks::from(vec![text.parse().unwrap()]).0[0].to_string();
        assert_eq!(read("::ffff:192.0.2.0/120"), "192.0.2.0/24");
        assert_eq!(read("::ffff:0:0/96"), "0.0.0.0/0");
        assert_eq!(read("::/0"), "::/0");
        assert_eq!(read("2001:db8::/120"), "2001:db8::/120");
    }

    #[test]
    fn answers_go_where_clients_are() {
        for text in ["127.0.0.1", "10.0.0.1", "100.64.0.1", "192.168.0.1", "::1", "fe80::1", "fd00::1", "8.8.8.8"] {
            assert_eq!(refuse_answer(&networks(&OPEN), &LocalRoutes::default(), ip(text)), None, "{text}");
        }
        for text in ["169.254.169.254", "fd00:ec2::254", "224.0.0.1", "255.255.255.255", "0.0.0.0", "250.1.1.1"] {
            let why = refuse_answer(&networks(&OPEN), &LocalRoutes::default(), ip(text)).unwrap();
            assert!(why.contains("client_restrictions.networks"), "{why}");
            let named = networks(&[&IpNet::from(ip(text)).to_string()]);
            assert_eq!(refuse_answer(&named, &LocalRoutes::default(), ip(text)), None, "{text}");
        }
    }
}
