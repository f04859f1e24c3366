//! Inner packets: what is taken for one has the form of one, what comes out goes in again, and nobody answers an answer.

use sluice_core::inner::{Inner, Ip, Unwrapped};

/// Any bytes as a plaintext; and as the payload of a packet.
pub fn check(data: &[u8]) {
    if let Some(ip) = Ip::new(data) {
        let (packet, padding) = data.split_at(ip.bytes().len());
        assert_eq!(packet, ip.bytes());
        assert!(padding.len() < 16 && padding.iter().all(|&byte| byte == 0));
        let said = match packet[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            6 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
            version => panic!("IP version {version}"),
        };
        assert_eq!(packet.len(), said);
        match ip.unwrap() {
            Unwrapped::Udp(inner, payload) => {
                assert!(payload.len() + inner.overhead() <= packet.len());
                round_trip(inner, payload);
            }
            Unwrapped::Echo(reply) => {
                let answer = Ip::new(&reply).expect("an answer is a packet");
                assert_eq!((answer.source(), answer.destination()), (ip.destination(), ip.source()));
                assert!(matches!(answer.unwrap(), Unwrapped::Dropped(_)), "nobody answers an answer");
            }
            Unwrapped::Dropped(_) => {}
        }
    }
    for (client, gateway) in [("10.1.0.2:5000", "10.1.0.1:7"), ("[fd00::2]:5000", "[fd00::1]:7")] {
        let at = |text: &str| text.parse().expect("an address");
        round_trip(Inner { source: at(client), destination: at(gateway) }, data);
    }
}

/// The gateway's packet, taken apart at the client: sides are changed there.
fn round_trip(inner: Inner, payload: &[u8]) {
    let packet = inner.wrap(payload);
    let changed = Inner { source: inner.destination, destination: inner.source };
    let ip = Ip::new(&packet).expect("what is written is a packet");
    assert_eq!(ip.unwrap(), Unwrapped::Udp(changed, payload));
}
