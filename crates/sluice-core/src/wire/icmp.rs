//! ICMP echo (RFC 792) and ICMPv6 echo (RFC 4443, section 4).

use super::{Checksum, protocol};
use std::net::IpAddr;

mod field {
    use std::ops::Range;
    pub const TYPE: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: Range<usize> = 2..4;
}

/// Type, code, checksum, identifier and number: an echo has at least these.
const ECHO: usize = 8;
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// True if `message` is a genuine echo request.
pub fn is_echo_request(message: &[u8], source: IpAddr, destination: IpAddr) -> bool {
    let request = if source.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
    let echo = message.len() >= ECHO && message[field::TYPE] == request && message[field::CODE] == 0;
    echo && sum(source, destination, message).is_right()
}

/// Turns an echo request into its reply, from `source` to `destination`.
pub fn emit_echo_reply(source: IpAddr, destination: IpAddr, message: &mut [u8]) {
    message[field::TYPE] = if source.is_ipv4() { REPLY_V4 } else { REPLY_V6 };
    message[field::CHECKSUM].fill(0);
    let checksum = sum(source, destination, message).finish();
    message[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}

/// ICMPv6 covers its addresses, ICMP does not.
fn sum(source: IpAddr, destination: IpAddr, message: &[u8]) -> Checksum {
    let sum = match source {
        IpAddr::V4(_) => Checksum::default(),
        IpAddr::V6(_) => Checksum::default().cover_pseudo_header(source, destination, protocol::ICMPV6, message.len()),
    };
    sum.cover(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> [(IpAddr, IpAddr); 2] {
        [("10.1.0.2", "10.1.0.1"), ("fd00::2", "fd00::1")].map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()))
    }

    fn request(source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut message = b"\x08\0\0\0\x12\x34\0\x01payload".to_vec();
        message[field::TYPE] = if source.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        let checksum = sum(source, destination, &message).finish();
        message[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        message
    }

    #[test]
    fn a_reply_is_the_request_with_another_type() {
        for (client, gateway) in addresses() {
            let request = request(client, gateway);
            assert!(is_echo_request(&request, client, gateway));
            let mut reply = request.clone();
            emit_echo_reply(gateway, client, &mut reply);
            assert!(sum(gateway, client, &reply).is_right());
            assert_eq!(reply[field::TYPE], if client.is_ipv4() { 0 } else { 129 });
            assert_eq!(reply[4..], request[4..]);
            assert!(!is_echo_request(&reply, gateway, client), "nobody answers an answer");
        }
    }

    #[test]
    fn what_is_no_request() {
        for (client, gateway) in addresses() {
            let good = request(client, gateway);
            for bit in 0..good.len() * 8 {
                let mut altered = good.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_echo_request(&altered, client, gateway), "bit {bit}");
            }
            assert!(!is_echo_request(&good[..7], client, gateway));
            assert!(!is_echo_request(&[], client, gateway));
        }
    }
}
