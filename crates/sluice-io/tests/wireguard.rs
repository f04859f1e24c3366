//! A `wg` Listener against another implementation: wireguard-go in a network namespace of its own, with the kernel's IP
//! stack behind it. Without root, a tun device or the programs, the tests skip themselves and say so.

mod common;

use common::{PATIENCE, Rig, in_own_network, next, readable};
use serde_json::{Value, json};
use sluice_core::{
    Origin, Submission,
    session::wireguard::{PublicKey, Secret, keys::Identity},
};
use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const GATEWAY: u8 = 2;
const CLIENT: u8 = 1;
const PSK: u8 = 3;

fn key(byte: u8) -> String {
    base64(&[byte; 32])
}

fn public(byte: u8) -> PublicKey {
    Identity::new(&Secret([byte; 32])).public
}

fn base64(bytes: &[u8; 32]) -> String {
    PublicKey(*bytes).to_base64()
}

fn wireguard(decapsulated: bool) -> impl FnOnce(&mut Value) {
    move |spec| {
        spec["Domain"] = json!("ingress-1");
        spec["WireGuard"] = json!({
            "PrivateKey": key(GATEWAY), "DecapsulatedDelivery": decapsulated,
            "Peers": [{"PublicKey": public(CLIENT), "SharedSecret": key(PSK),
                       "AllowedIPs": ["10.1.0.2/32", "fd00::2/128"]}],
        });
    }
}

/// wireguard-go with an interface of its own: 10.1.0.2 and fd00::2, everything else of these networks behind the gateway.
struct Stock {
    process: Child,
    socket: PathBuf,
    listen_port: u16,
}

impl Stock {
    /// `name`: the interface's. Programs talk to it by a path that namespaces do not separate.
    fn start(name: &str, gateway: u16) -> Stock {
        let socket = Path::new("/var/run/wireguard").join(format!("{name}.sock"));
        let mut process = Command::new("wireguard-go")
            .args(["-f", name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() || !run(&format!("ip link show {name}")) {
            assert!(Instant::now() < deadline && process.try_wait().unwrap().is_none(), "wireguard-go does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let settings = format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nEndpoint = 127.0.0.1:{gateway}\n\
             AllowedIPs = 10.1.0.0/24, fd00::/64\n",
            key(CLIENT),
            public(GATEWAY),
            key(PSK)
        );
        let file = std::env::temp_dir().join(format!("sluicegate-{name}-{}.conf", std::process::id()));
        fs::write(&file, settings).unwrap();
        let configured = run(&format!("wg setconf {name} {}", file.display()));
        fs::remove_file(&file).unwrap();
        assert!(configured);
        for command in ["addr add 10.1.0.2/24", "-6 addr add fd00::2/64 nodad", "link set mtu 1420 up"] {
            assert!(run(&format!("ip {command} dev {name}")), "{command}");
        }
        let shown = Command::new("wg").args(["show", name, "listen-port"]).output().unwrap().stdout;
        let listen_port = String::from_utf8(shown).unwrap().trim().parse().unwrap();
        Stock { process, socket, listen_port }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

fn run(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let status = Command::new(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a test in a namespace with the programs that it needs.
fn with_stock(test: impl FnOnce() + Send + 'static) {
    if !Path::new("/dev/net/tun").exists()
        || !["wireguard-go --version", "wg --version", "ping -V"].into_iter().all(run)
    {
        eprintln!("skipped: needs /dev/net/tun, wireguard-go, wireguard-tools and iputils-ping");
        return;
    }
    in_own_network(&["ip link set lo up"], test);
}

/// The next packet that the handler gets.
fn packet(rig: &Rig) -> Value {
    let queue = rig.port.queue(0).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(batch) = queue.read(1).pop() {
            let body: Value = serde_json::from_slice(batch.body()).unwrap();
            return body["Messages"][0].clone();
        }
        assert!(readable(queue.ready(), deadline), "a packet should have arrived");
    }
}

fn submit(rig: &Rig, origin: Origin, body: Value) {
    let body = body.to_string().into_bytes();
    let document =
        Submission { id: "m".into(), origin, published_ms: None, body: body.into(), refusal: None, due: None };
    assert_eq!(rig.port.submit([document]), 1);
    let ended = rig.completions(1).remove(0);
    assert_eq!((ended.sent, ended.failures), (1, Vec::new()));
}

fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn stock_client_pings_asks_and_is_pushed_to() {
    with_stock(|| {
        let rig = Rig::new(wireguard(true));
        let _stock = Stock::start("wgping", rig.port.bound().port());
        assert!(run("ping -c 2 -W 5 10.1.0.1"), "ping through the tunnel");
        assert!(run("ping -c 2 -W 5 -s 1300 fd00::1"), "and IPv6");
        for (own, gateway) in [("10.1.0.2:0", "10.1.0.1:5683"), ("[fd00::2]:0", "[fd00::9]:7")] {
            let socket = client(own);
            socket.send_to(b"hello", gateway).unwrap();
            let packet = packet(&rig);
            assert_eq!((&packet["Data"], &packet["Remote"]["PeerKey"]), (&json!("hello"), &json!(public(CLIENT))));
            submit(&rig, Origin::Destination(0), json!({"Replies": [{"Tag": packet["Tag"], "Data": "reply"}]}));
            assert_eq!(next(&socket), "reply");
            let push = json!({"Data": "push", "Formatter": "utf8", "Remote": {"PeerKey": public(CLIENT)}});
            submit(&rig, Origin::Source(0), push);
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.to_string().as_str()), (&b"push"[..], gateway));
        }
    });
}

#[test]
fn the_gateway_speaks_first_to_a_stock_client() {
    with_stock(|| {
        let rig = Rig::new(wireguard(true));
        let stock = Stock::start("wgfirst", rig.port.bound().port());
        let socket = client("10.1.0.2:6000");
        // Nothing has been said; the address is all there is, as after a restart.
        submit(
            &rig,
            Origin::Source(0),
            json!({"Data": "first", "Formatter": "utf8",
                   "Remote": {"Address": "127.0.0.1", "Port": stock.listen_port, "PeerKey": public(CLIENT)},
                   "Inner": {"SourceAddress": "10.1.0.2", "SourcePort": 6000, "DestinationAddress": "10.1.0.1",
                             "DestinationPort": 5683}}),
        );
        assert_eq!(next(&socket), "first");
    });
}

#[test]
fn whole_packets_reach_the_handler_without_decapsulation() {
    with_stock(|| {
        let rig = Rig::new(|spec| {
            wireguard(false)(spec);
            spec["Destinations"][0]["Formatter"] = json!("hex");
        });
        let _stock = Stock::start("wgwhole", rig.port.bound().port());
        let socket = client("10.1.0.2:6000");
        socket.send_to(b"hello", "10.1.0.1:5683").unwrap();
        // Other packets of the stack (router solicitations) may come before.
        let packet =
            std::iter::repeat_with(|| packet(&rig)).find(|packet| packet["Data"].as_str().unwrap().starts_with("45"));
        let data = packet.unwrap()["Data"].as_str().unwrap().to_owned();
        assert_eq!(data.len(), 2 * (20 + 8 + 5), "without padding: {data}");
        assert!(data.ends_with("68656C6C6F"), "{data}");
    });
}
