//! Datagrams from anybody: each is refused and counted, or stands in one batch of each Destination, as JSON that gives
//! the payload back.
//!
//! An input is a list of datagrams, each ended by a NUL byte. A datagram may begin with a line of two addresses (see the
//! seeds: `REMOTE LOCAL`); otherwise its first bytes are the addresses.

use crate::world::{FORMATTERS, SHARED, START, World, spec};
use arbitrary::{Arbitrary, Unstructured};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use sluice_core::{ListenerSpec, Now, canonical};
use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::LazyLock,
};

/// Datagrams of one input: more of them only take longer.
const MOST: usize = 16;

static SPEC: LazyLock<ListenerSpec> =
    LazyLock::new(|| spec(|spec| spec["ClientNetworks"] = json!(["0.0.0.0/1", "198.51.100.0/24", "::/1"])));

/// Any bytes as datagrams.
pub fn check(data: &[u8]) {
    // The first byte bends the batches; what they hold must not depend on it.
    let bend = data.first().map_or(0, |&byte| usize::from(byte));
    let mut spec = SPEC.clone();
    for destination in &mut spec.destinations {
        destination.count = bend % 5;
        destination.size_bytes = bend * 16;
    }
    let mut world = World::new(spec);
    let mut heard = Vec::new();
    let mut refused = 0;
    let mut got = vec![Vec::new(); FORMATTERS.len()];
    for (nth, bytes) in data.split(|&byte| byte == 0).filter(|bytes| !bytes.is_empty()).take(MOST).enumerate() {
        let Some(Datagram { remote, local, payload }) = read(bytes) else { continue };
        let now = Now { mono: START.mono + nth as u64, unix_ms: START.unix_ms + nth as u64 };
        world.listener.handle_datagram(now, local, remote, payload);
        if world.listener.spec().client_networks.contains(remote.ip()) {
            heard.push((now, remote, local, payload));
        } else {
            refused += 1;
        }
        collect(&mut world, &mut got);
    }
    world.listener.flush(START);
    collect(&mut world, &mut got);
    for (formatter, packets) in FORMATTERS.iter().zip(&got) {
        assert_eq!(packets.len(), heard.len());
        for (packet, heard) in packets.iter().zip(&heard) {
            check_packet(formatter, packet, heard);
        }
    }
    let counters = world.listener.counters();
    assert_eq!(counters.received_packets, heard.len() as u64 + refused);
    assert_eq!(counters.rejected.values().sum::<u64>(), refused);
    assert!(counters.destinations.iter().all(|counted| counted.packets == heard.len() as u64));
}

struct Datagram<'a> {
    remote: SocketAddr,
    local: IpAddr,
    payload: &'a [u8],
}

#[derive(Arbitrary)]
struct Addresses {
    v6: bool,
    remote: [u8; 16],
    local: [u8; 16],
    port: u16,
    zone: u32,
}

fn read(bytes: &[u8]) -> Option<Datagram<'_>> {
    if let Some(end) = bytes.iter().position(|&byte| byte == b'\n')
        && let Ok(line) = std::str::from_utf8(&bytes[..end])
        && let Some((remote, local)) = line.split_once(' ')
        && let (Ok(remote), Ok(local)) = (remote.parse::<SocketAddr>(), local.parse::<IpAddr>())
    {
        return of_one_family(canonical(remote), local.to_canonical(), &bytes[end + 1..]);
    }
    let mut rest = Unstructured::new(bytes);
    let Addresses { v6, remote, local, port, zone } = rest.arbitrary().ok()?;
    let ip = |octets: [u8; 16]| match v6 {
        true => IpAddr::V6(octets.into()).to_canonical(),
        false => IpAddr::V4([octets[0], octets[1], octets[2], octets[3]].into()),
    };
    let remote = match ip(remote) {
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, zone & 0x00ff_ffff).into(),
        v4 => SocketAddr::new(v4, port),
    };
    of_one_family(canonical(remote), ip(local), rest.take_rest())
}

fn of_one_family(remote: SocketAddr, local: IpAddr, payload: &[u8]) -> Option<Datagram<'_>> {
    (remote.is_ipv4() == local.is_ipv4()).then_some(Datagram { remote, local, payload })
}

fn collect(world: &mut World, got: &mut [Vec<Value>]) {
    while let Some((destination, batch)) = world.listener.poll_batch() {
        let limits = &world.listener.spec().destinations[destination];
        assert!((1..=limits.count.max(1)).contains(&batch.count()));
        assert!(batch.body().len() <= limits.size_bytes || batch.count() == 1);
        let mut body: Value = serde_json::from_slice(batch.body()).expect("a batch is JSON");
        let packets = std::mem::take(body["Messages"].as_array_mut().expect("a list of packets"));
        assert_eq!(body, json!({"Messages": []}), "and nothing else");
        let records = batch.records().map(|record| serde_json::from_slice(record).expect("a record is JSON"));
        assert_eq!(records.collect::<Vec<Value>>(), packets);
        got[destination].extend(packets);
    }
}

fn check_packet(formatter: &str, packet: &Value, heard: &(Now, SocketAddr, IpAddr, &[u8])) {
    let &(now, remote, local, payload) = heard;
    let data = packet["Data"].as_str().expect("Data is a string");
    match formatter {
        "base64" => assert_eq!(BASE64_STANDARD.decode(data).expect("Base64"), payload),
        "hex" => {
            let digits = payload.iter().fold(String::new(), |mut digits, byte| {
                let _ = write!(digits, "{byte:02X}");
                digits
            });
            assert_eq!(data, digits);
        }
        "utf8" => assert_eq!(data, String::from_utf8_lossy(payload)),
        _ => {
            let shown = payload.iter().map(|&byte| if byte < 128 { char::from(byte) } else { '?' });
            assert_eq!(data, shown.collect::<String>());
        }
    }
    let zone = match remote {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("%{}", v6.scope_id()),
        _ => String::new(),
    };
    let at = sluice_core::time::write_iso8601(now.unix_ms);
    let tag = packet["Tag"].as_str().expect("Tag is a string");
    assert_eq!(
        packet,
        &json!({
            "Tag": tag,
            "Remote": {"IpAddress": format!("{}{zone}", remote.ip()), "Port": remote.port()},
            "Local": {"Domain": "ingress-1", "IpAddress": local.to_string(), "Port": 2048, "Protocol": "udp"},
            "ReceivedAt": std::str::from_utf8(&at).expect("ASCII"),
            "IngressRegion": "us-east-1",
            "Formatter": formatter,
            "Data": data,
        })
    );
    let address = SHARED.tag_keys.open(now, tag).expect("a Tag of ours opens");
    assert_eq!((address.remote, address.local), (remote, SocketAddr::new(local, 2048)));
}
