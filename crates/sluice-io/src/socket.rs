//! One Listener's socket: quinn-udp for the receive batches and control messages, and what a gateway needs otherwise
//! than QUIC does.
//!
//! - QUIC forbids fragmentation; a gateway sends what it is asked to. Both families may fragment again.
//! - The error queue (IP_RECVERR) tells which remote an ICMP error is about. Without care it does harm: a pending error
//!   makes the *next* send fail, whoever it is for. So an error is never taken for this packet's before the queue has
//!   been drained and the packet tried again.
//! - SO_REUSEADDR and SO_REUSEPORT stay off: a port in use must be an error, not a shared load.

use crate::{
    drops::KernelDrops,
    errno::{icmp_name, refusal},
    local::LocalAddresses,
    martian::Martians,
    offload::Offload,
    sys,
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use sluice_core::{Now, Reason, RunLimit, Unread, canonical, own::LocalRoutes, spec::MulticastSpec};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd},
};

/// Receive buffers hold a whole GRO run.
const BUFFER: usize = 1 << 16;
/// Bytes that a socket asks for to receive. Without CAP_NET_ADMIN the kernel gives at most `net.core.rmem_max`. It books
/// twice of what it gives, for what it keeps beside the datagrams.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// Bytes that a socket asks for to send.
const SEND_BUFFER: usize = 8 << 20;
/// Errors about other remotes that one packet may meet before it gives up: far more than a queue holds between two sends.
const ATTEMPTS: usize = 64;
/// ICMP errors kept between two looks at them.
const ICMP_RECENT: usize = 256;

/// Why a Listener's socket could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The step that failed.
    pub attempt: String,
    /// The kernel's error.
    pub source: io::Error,
}

/// What became of a packet.
pub enum Sent {
    /// The kernel accepted the packet.
    Yes,
    /// The socket is full: try again when it is writable.
    Full,
    /// The packet will not be sent, for this reason and with this detail.
    No(Reason, String),
}

/// What arrived.
pub enum Arrival<'a> {
    /// A datagram.
    Read(&'a [u8]),
    /// Datagrams that nobody asked for.
    Unread(Unread),
}

/// Which of the next buffers are read; none: all.
pub type Asked = Option<[bool; BATCH_SIZE]>;

/// Buffers for one round of receiving, shared by all sockets of a thread.
pub struct Buffers(Vec<u8>);

impl Buffers {
    /// Allocates the buffers.
    pub fn new() -> Buffers {
        Buffers(vec![0; BUFFER * BATCH_SIZE])
    }
}

/// A bound socket.
pub struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    bound: SocketAddr,
    receive_buffer: usize,
    drops: KernelDrops,
    /// Answers to packets that we sent, by the kernel's name for them.
    icmp_errors: BTreeMap<&'static str, u64>,
    /// ICMP errors that nobody has taken yet, at most `ICMP_RECENT`.
    icmp_recent: Vec<(&'static str, Option<SocketAddr>)>,
    local: LocalAddresses,
    offload: Offload,
    run: Vec<u8>,
    martians: Martians,
    /// Whether the last batch was the end of the queue, and its datagrams.
    emptied: bool,
    last: usize,
}

impl UdpSocket {
    /// Binds; with `dual_stack` an IPv6 wildcard serves IPv4 too.
    pub fn open(bind: SocketAddr, dual_stack: bool, multicast: &MulticastSpec) -> Result<UdpSocket, OpenError> {
        let step = |attempt: &str| {
            let attempt = format!("{attempt} {bind}");
            move |source| OpenError { attempt, source }
        };
        let domain = Domain::for_address(bind);
        let socket =
            Socket::new(domain, Type::DGRAM.cloexec(), Some(Protocol::UDP)).map_err(step("open a socket for"))?;
        if bind.is_ipv6() {
            socket.set_only_v6(!dual_stack).map_err(step("choose the address families of"))?;
        }
        socket.bind(&SockAddr::from(bind)).map_err(step("bind"))?;
        join(&socket, multicast)?;
        // The egress policy says who may be sent to.
        socket.set_broadcast(true).map_err(step("allow broadcasts on"))?;
        // Best effort: the limits are the administrator's.
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
        if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER as i32).is_err() {
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        }
        let receive_buffer = socket.recv_buffer_size().map_err(step("read the receive buffer of"))? / 2;
        let state = UdpSocketState::new((&socket).into()).map_err(step("prepare the socket of"))?;
        state.enable_transport_errors((&socket).into()).map_err(step("read ICMP errors of"))?;
        allow_fragmentation(socket.as_fd(), bind.is_ipv6()).map_err(step("allow fragmentation on"))?;
        let bound = socket.local_addr().map_err(step("read the address of"))?;
        let bound = bound.as_socket().unwrap_or(bind);
        let (local, offload) = (LocalAddresses::new(bound.ip()), Offload::new(state.max_gso_segments()));
        Ok(UdpSocket {
            socket,
            state,
            bound,
            receive_buffer,
            drops: KernelDrops::default(),
            icmp_errors: BTreeMap::new(),
            icmp_recent: Vec::new(),
            local,
            offload,
            run: Vec::new(),
            martians: Martians::default(),
            emptied: true,
            last: 0,
        })
    }

    /// Address and port as bound.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Bytes of the receive buffer, as [`RECEIVE_BUFFER`] counts them.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// Receives one batch and hands over what arrived: time, local address, remote, and each datagram of the buffers that are
    /// `asked` for. Returns how many datagrams came; none means that the queue is empty. The local address is one that an
    /// answer may leave from. A datagram from a loopback address is handed over only if it came over the loopback interface
    /// ([`Martians`]).
    pub fn receive(
        &mut self,
        now: Now,
        routes: &LocalRoutes,
        buffers: &mut Buffers,
        asked: &Asked,
        mut take: impl FnMut(Now, IpAddr, SocketAddr, Arrival),
    ) -> usize {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut chunks = buffers.0.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("one buffer each")));
        for (slice, _) in slices.iter_mut().zip(asked.iter().flatten()).filter(|(_, asked)| !**asked) {
            *slice = IoSliceMut::new(&mut []);
        }
        let count = self.fetch(&mut slices, &mut metas, asked.is_some());
        self.emptied = count < BATCH_SIZE;
        if count == 0 {
            return 0;
        }
        let mut datagrams = 0;
        for (index, (slice, meta)) in slices.iter().zip(&metas[..count]).enumerate() {
            let run = Unread { bytes: meta.len, each: meta.stride };
            let received = Now { unix_ms: meta.timestamp.map_or(now.unix_ms, |t| t.as_millis() as u64), ..now };
            let remote = canonical(meta.addr);
            let to = meta.dst_ip.map_or(self.bound.ip(), |ip| ip.to_canonical());
            let local = self.local.spoken_to(routes, to, meta.interface_index, remote);
            if remote.ip().is_loopback() && self.martians.is_one(now, meta.interface_index) {
                datagrams += run.packets();
                self.martians.count += run.packets();
                continue;
            }
            if slice.len() < meta.len || asked.is_some_and(|asked| !asked[index]) {
                datagrams += run.packets();
                take(received, local, remote, Arrival::Unread(run));
                continue;
            }
            let run = &slice[..meta.len];
            // An empty datagram has no chunks, but is a datagram too.
            for payload in run.chunks(meta.stride.max(1)).chain(run.is_empty().then_some(run)) {
                datagrams += 1;
                take(received, local, remote, Arrival::Read(payload));
            }
        }
        self.drops.read(now, count, datagrams);
        self.last = datagrams;
        datagrams
    }

    /// How many buffers arrived; `parts`: some slices are empty, as nobody wants what they would hold.
    fn fetch(&mut self, slices: &mut [IoSliceMut], metas: &mut [RecvMeta], parts: bool) -> usize {
        for _ in 0..=ATTEMPTS {
            let received = match parts {
                false => self.state.recv((&self.socket).into(), slices, metas),
                true => sys::receive_parts(self.socket.as_fd(), slices, metas),
            };
            match received {
                Ok(count) => return count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                // A pending ICMP error fails a receive as it fails a send; the datagrams are still there.
                Err(_) => self.drain_errors(),
            };
        }
        0
    }

    /// True if the last [`receive`](Self::receive) left nothing behind.
    pub fn emptied(&self) -> bool {
        self.emptied
    }

    /// Datagrams of the last [`receive`](Self::receive) that brought any.
    pub fn last_count(&self) -> usize {
        self.last
    }

    /// True if more than half of the receive buffer is used. What has just been read counts for a while.
    pub fn is_half_full(&self) -> bool {
        sys::receive_queue(self.socket.as_fd()).is_ok_and(|queue| queue.booked > queue.limit / 2)
    }

    /// How many datagrams [`receive`](Self::receive) has not handed over since the last call.
    pub fn take_martians(&mut self) -> usize {
        std::mem::take(&mut self.martians.count)
    }

    /// The limit of a run to `remote`, which leaves by one call ([`send_run`](Self::send_run)).
    pub fn offload(&self, remote: IpAddr) -> RunLimit {
        self.offload.limit(remote)
    }

    /// Addresses that packets were to leave from and that this machine has no more ([`LocalAddresses::take_gone`]).
    pub fn take_gone(&mut self) -> Vec<IpAddr> {
        self.local.take_gone()
    }

    /// Sends one datagram from `local`, where it is known and still there.
    pub fn send(&mut self, routes: &LocalRoutes, local: Option<IpAddr>, remote: SocketAddr, payload: &[u8]) -> Sent {
        let Ok(local) = self.local.leave_from(self.socket.as_fd(), routes, local) else {
            let detail = format!("the Listener's address is not on this machine: {}", self.bound.ip());
            return Sent::No(Reason::SendFailed, detail);
        };
        let mut sent = self.transmit(local, remote, payload, None);
        // The address has gone a moment ago, or what the kernel does not tell has changed.
        if let (Err(error), Some(lost)) = (&sent, local)
            && error.raw_os_error() == Some(libc::EINVAL)
            && self.local.lost(lost)
        {
            sent = self.transmit(None, remote, payload, None);
        }
        match sent {
            Ok(true) => Sent::Yes,
            Ok(false) => Sent::Full,
            Err(error) => {
                let (reason, detail) = refusal(&error);
                Sent::No(reason, detail)
            }
        }
    }

    /// Sends datagrams (source address, remote, payload) in order by one call. Returns how many the kernel accepted. If
    /// it did not accept all, send the next one by [`send`](Self::send), which says why.
    pub fn send_many<'a>(
        &mut self,
        routes: &LocalRoutes,
        packets: impl Iterator<Item = (Option<IpAddr>, SocketAddr, &'a [u8])>,
    ) -> usize {
        let bound = self.bound;
        let (local, socket) = (&mut self.local, self.socket.as_fd());
        let datagram = |(from, remote, payload)| {
            let source = local.leave_from(socket, routes, from).ok()?;
            Some(sys::Datagram { remote: in_family_of(bound, remote).into(), source, payload })
        };
        sys::send_many(socket, &packets.map_while(datagram).collect::<Vec<_>>()).unwrap_or(0)
    }

    /// Sends datagrams of one size (the last may be shorter) to one remote by UDP_SEGMENT: all or none. None: send them
    /// one by one; a size that cannot be offloaded on the way to this remote is not tried again.
    pub fn send_run<'a>(
        &mut self,
        routes: &LocalRoutes,
        local: Option<IpAddr>,
        remote: SocketAddr,
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Sent> {
        let local = self.local.leave_from(self.socket.as_fd(), routes, local).ok()?;
        let mut run = std::mem::take(&mut self.run);
        run.clear();
        let mut segment = 0;
        for payload in payloads {
            segment = segment.max(payload.len());
            run.extend_from_slice(payload);
        }
        let sent = self.transmit(local, remote, &run, Some(segment));
        self.run = run;
        match sent {
            Ok(true) => Some(Sent::Yes),
            Ok(false) => Some(Sent::Full),
            Err(error) => {
                self.offload.refused(remote.ip(), segment, error.raw_os_error());
                None
            }
        }
    }

    /// True: the kernel accepted the payload. False: the socket is full.
    fn transmit(
        &mut self,
        local: Option<IpAddr>,
        remote: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<bool> {
        let transmit = Transmit {
            destination: in_family_of(self.bound, remote),
            ecn: None,
            contents,
            segment_size,
            src_ip: local,
        };
        let mut seen_alone = false;
        for _ in 0..ATTEMPTS {
            let error = match self.state.try_send((&self.socket).into(), &transmit) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => error,
            };
            // Only an error that comes back with nothing in the queue, twice, is this packet's own: the first may have
            // been another's whose entry did not fit into the queue.
            if self.drain_errors() == 0 && std::mem::replace(&mut seen_alone, true) {
                return Err(error);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Takes everything off the error queue and counts it; returns how many ICMP errors there were.
    pub fn drain_errors(&mut self) -> usize {
        let mut icmp = 0;
        while let Some(error) = sys::take_queued_error(self.socket.as_fd()) {
            if error.icmp {
                icmp += 1;
                let name = icmp_name(error.errno);
                *self.icmp_errors.entry(name).or_default() += 1;
                if self.icmp_recent.len() < ICMP_RECENT {
                    self.icmp_recent.push((name, error.remote.map(canonical)));
                }
            }
        }
        icmp
    }

    /// Forgets an error that is pending outside of the queue, so that epoll does not report it for ever.
    pub fn clear_error(&self) {
        let _ = self.socket.take_error();
    }

    /// ICMP errors that came back, by name.
    pub fn icmp_errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.icmp_errors
    }

    /// Takes the ICMP errors since the last call (at most `ICMP_RECENT`, the first ones): the error's name, and the
    /// remote to which the datagram had gone.
    pub fn take_icmp(&mut self) -> Vec<(&'static str, Option<SocketAddr>)> {
        std::mem::take(&mut self.icmp_recent)
    }

    /// Datagrams that the kernel dropped so far because the receive buffer was full.
    pub fn kernel_drops(&mut self) -> u64 {
        if let Ok(queue) = sys::receive_queue(self.socket.as_fd()) {
            self.drops.look(queue.drops);
        }
        self.drops.total()
    }

    /// When [`report_drops`](Self::report_drops) has something to do, on the clock of [`Now::mono`].
    pub fn drops_due(&self) -> Option<u64> {
        self.drops.due()
    }

    /// Datagrams that the kernel dropped since the last report, if any.
    pub fn report_drops(&mut self, now: Now) -> Option<u64> {
        self.kernel_drops();
        self.drops.report(now)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A dual-stack socket sends to IPv4 by its mapped form.
fn in_family_of(bound: SocketAddr, remote: SocketAddr) -> SocketAddr {
    match (bound, remote) {
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        _ => remote,
    }
}

fn join(socket: &Socket, MulticastSpec { groups, interface }: &MulticastSpec) -> Result<(), OpenError> {
    for group in groups {
        let joined = match group {
            IpAddr::V4(v4) => socket.join_multicast_v4_n(v4, &InterfaceIndexOrAddress::Index(*interface)),
            IpAddr::V6(v6) => socket.join_multicast_v6(v6, *interface),
        };
        joined.map_err(|source| OpenError { attempt: format!("join the group {group}"), source })?;
    }
    Ok(())
}

fn allow_fragmentation(socket: BorrowedFd, v6: bool) -> io::Result<()> {
    sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    if v6 {
        sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
        sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    Ok(())
}
