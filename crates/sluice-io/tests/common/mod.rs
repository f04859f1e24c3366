//! A data plane on loopback with one Listener, and what the tests say to it and read from it.

#![allow(dead_code)] // each test file is a program of its own and uses a part

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use sluice_core::{Completion, DataplaneSpec, Now, Origin, Shared, Submission};
use sluice_io::{Dataplane, Port, Signal};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    process::Command,
    time::{Duration, Instant},
};

/// No test takes as long; what has not happened by then does not happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub plane: Dataplane,
    pub port: Port,
}

impl Rig {
    /// A Listener on 127.0.0.1 with one Destination and one PacketSource that may send to loopback.
    pub fn new(change: impl FnOnce(&mut Value)) -> Rig {
        Rig::on(|shared| Dataplane::start(shared, || [1; 6]), change)
    }

    /// On a data plane that runs by this clock.
    pub fn by(clock: fn() -> Now, change: impl FnOnce(&mut Value)) -> Rig {
        Rig::on(|shared| Dataplane::start_by(shared, || [1; 6], clock), change)
    }

    fn on(start: impl FnOnce(Shared) -> io::Result<Dataplane>, change: impl FnOnce(&mut Value)) -> Rig {
        let shared: DataplaneSpec = serde_json::from_value(json!({
            "Node": 1, "Region": "us-east-1", "TagSeconds": 3600, "TagKeys": [{"Id": 0, "Key": "ab".repeat(32)}],
        }))
        .unwrap();
        let mut spec = json!({
            "Id": 7, "Name": "decoder", "Domain": "ingress-1", "Bind": "127.0.0.1:0",
            "ClientNetworks": ["0.0.0.0/0"], "SessionIdleSeconds": 300, "SessionLimit": 1000, "RingBytes": 1 << 22,
            "Destinations": [{"Name": "echo", "Formatter": "utf8", "Count": 10, "TimeoutSeconds": 0.01,
                              "SizeBytes": 1 << 20, "QueueBytes": 1 << 22, "Bound": true}],
            "Sources": [{"Name": "replies", "EgressNetworks": ["127.0.0.0/8"], "HoldSeconds": 60,
                         "DedupSeconds": 600, "DedupLimit": 1000}],
        });
        change(&mut spec);
        let plane = start(Shared::new(&shared).unwrap()).unwrap();
        let port = plane.open(serde_json::from_value(spec).unwrap()).unwrap().unwrap();
        Rig { plane, port }
    }

    /// With a source that paces.
    pub fn paced(packets_per_second: f64, change: impl FnOnce(&mut Value)) -> Rig {
        Rig::new(|spec| {
            spec["Sources"][0]["RateLimit"] = json!({"PacketsPerSecond": packets_per_second, "Burst": 1});
            change(spec);
        })
    }

    /// Waits for the completions of `count` documents, and checks that each adds up.
    pub fn completions(&self, count: usize) -> Vec<Completion> {
        let deadline = Instant::now() + PATIENCE;
        let mut ended = Vec::new();
        while ended.len() < count {
            assert!(readable(self.port.completed(), deadline), "{} of {count} documents ended", ended.len());
            ended.extend(self.port.completions());
        }
        for completion in &ended {
            let sum = completion.sent + completion.duplicates + completion.failures.len() as u32;
            assert_eq!(completion.entries, sum, "{}", completion.id);
        }
        assert_eq!(ended.len(), count);
        ended
    }

    /// Submits one document that there must be room for, and waits for its end.
    pub fn publish(&self, entries: &[(SocketAddr, String)]) -> Completion {
        assert_eq!(self.port.submit([document("m", entries)]), 1);
        self.completions(1).remove(0)
    }
}

pub fn document(id: &str, entries: &[(SocketAddr, String)]) -> Submission {
    let address = |remote: &SocketAddr| match remote {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => remote.ip().to_string(),
    };
    let entry = |(remote, data): &(SocketAddr, String)| json!({"Data": data, "Formatter": "utf8", "Remote": {"Address": address(remote), "Port": remote.port()}});
    let body = json!({"Messages": entries.iter().map(entry).collect::<Vec<_>>()}).to_string().into_bytes();
    Submission {
        id: id.to_owned(),
        origin: Origin::Source(0),
        published_ms: None,
        body: body.into(),
        refusal: None,
        due: None,
    }
}

/// `size` bytes that say which packet it is.
pub fn payload(number: usize, size: usize) -> String {
    let mut text = format!("{number} ");
    text.extend(std::iter::repeat_n('x', size.saturating_sub(text.len())));
    text.truncate(size);
    text
}

/// False if it was not set before `deadline`.
pub fn readable(signal: &Signal, deadline: Instant) -> bool {
    while !signal.is_set() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    true
}

pub fn readable_fd(fd: &impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = rustix::event::Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)).unwrap() > 0
}

/// A client, or whoever datagrams are sent to.
pub fn remote() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// The next datagram, as text.
pub fn next(socket: &UdpSocket) -> String {
    let mut buffer = [0; 1 << 16];
    let length = socket.recv(&mut buffer).expect("a datagram should have arrived");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// True if nothing has arrived. For use after what was sent later has arrived, or the Listener has closed.
pub fn nothing_more(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let empty = socket.recv(&mut [0; 1]).is_err();
    socket.set_nonblocking(false).unwrap();
    empty
}

/// Runs `test` in a network namespace of its own with loopback set up by `commands`; without the rights or the tools for
/// that the test is skipped.
pub fn in_own_network(commands: &[&str], test: impl FnOnce() + Send + 'static) {
    let commands: Vec<String> = commands.iter().map(|&command| command.to_owned()).collect();
    let ran = std::thread::spawn(move || {
        // Of this thread alone; threads and programs that it starts inherit it.
        // SAFETY: the call takes no pointers.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            println!("skipped: needs root");
            return;
        }
        for command in commands {
            let mut words = command.split(' ');
            let program = words.next().unwrap();
            if !Command::new(program).args(words).status().is_ok_and(|status| status.success()) {
                println!("skipped: `{command}` did not work here");
                return;
            }
        }
        let _down = Down;
        test();
    });
    if let Err(panic) = ran.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Takes loopback down at the end, also after a panic. Packets that wait in a queue there would hold on to their sockets,
/// those to the namespace, and that to the queue; and ICMP answers among them would use up what all namespaces share.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        let status = Command::new("ip").args(["link", "set", "lo", "down"]).status();
        assert!(status.is_ok_and(|status| status.success()), "loopback stays up");
    }
}
