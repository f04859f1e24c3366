//! The system calls for which no crate in use has a safe wrapper. All `unsafe` of the project is here.

use quinn_udp::{BATCH_SIZE, RecvMeta};
use socket2::SockAddr;
use std::{
    io::{self, IoSliceMut},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
    time::Duration,
};

/// Datagrams of one [`send_many`], at most.
pub const SEND_MANY: usize = 64;

// linux/sock_diag.h: indexes in SO_MEMINFO's array, and the array's length.
const SK_MEMINFO_RMEM_ALLOC: usize = 0;
const SK_MEMINFO_RCVBUF: usize = 1;
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;
// linux/errqueue.h
const SO_EE_ORIGIN_ICMP: u8 = 2;
const SO_EE_ORIGIN_ICMP6: u8 = 3;

/// An entry of a socket's error queue (ip(7), IP_RECVERR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// Where the datagram that caused it had gone.
    pub remote: Option<SocketAddr>,
    /// What the kernel makes of it.
    pub errno: i32,
    /// False for errors that this host made itself, at once.
    pub icmp: bool,
}

/// Takes one entry off the socket's error queue; None when it is empty.
pub fn take_queued_error(socket: BorrowedFd) -> Option<QueuedError> {
    // SAFETY: all-zero bytes are valid values of these C structures.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    let mut control = [0u64; 64]; // aligned as control messages need it
    let mut start = [0u8; 1]; // of the datagram that failed; Linux wants a place for it
    let mut data = libc::iovec { iov_base: start.as_mut_ptr().cast(), iov_len: start.len() };
    header.msg_iov = &raw mut data;
    header.msg_iovlen = 1;
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = mem::size_of_val(&name) as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: the header points to live buffers of the lengths that it states.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if received < 0 {
        return None;
    }
    let mut found = QueuedError { remote: address(&name), errno: 0, icmp: false };
    // SAFETY: the kernel filled the header; CMSG_* walk within msg_controllen, and a control message of these types
    // carries a sock_extended_err.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while !message.is_null() {
            let kind = ((*message).cmsg_level, (*message).cmsg_type);
            if matches!(kind, (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
                let error: libc::sock_extended_err = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                found.errno = error.ee_errno as i32;
                found.icmp = matches!(error.ee_origin, SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6);
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
    }
    Some(found)
}

/// Receives datagrams by one `recvmmsg`, without waiting; how many buffers arrived. Each `metas` says how long its buffer
/// was, whatever of it the slice has room for: into an empty slice nothing is copied.
pub fn receive_parts(socket: BorrowedFd, slices: &mut [IoSliceMut], metas: &mut [RecvMeta]) -> io::Result<usize> {
    let count = slices.len().min(metas.len()).min(BATCH_SIZE);
    // SAFETY: all-zero bytes are valid values of these C structures.
    let mut headers: [libc::mmsghdr; BATCH_SIZE] = unsafe { mem::zeroed() };
    let mut names: [libc::sockaddr_storage; BATCH_SIZE] = unsafe { mem::zeroed() };
    let mut controls = [[0u64; 16]; BATCH_SIZE]; // each holds all that is asked for of a datagram, aligned
    let places = headers.iter_mut().zip(&mut names).zip(&mut controls);
    for (slice, ((header, name), control)) in slices[..count].iter_mut().zip(places) {
        let header = &mut header.msg_hdr;
        // An IoSliceMut has the layout of an iovec (std::io::IoSliceMut).
        header.msg_iov = ptr::from_mut(slice).cast();
        header.msg_iovlen = 1;
        header.msg_name = ptr::from_mut(name).cast();
        header.msg_namelen = mem::size_of_val(name) as libc::socklen_t;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = mem::size_of_val(control) as _;
    }
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    let (socket, vector) = (socket.as_raw_fd(), headers.as_mut_ptr());
    // SAFETY: `count` headers point to live buffers of the lengths that they state.
    let received = unsafe { libc::recvmmsg(socket, vector, count as u32, flags as _, ptr::null_mut()) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    for ((header, name), meta) in headers.iter().zip(&names).zip(metas).take(received as usize) {
        *meta = RecvMeta::default();
        (meta.len, meta.stride) = (header.msg_len as usize, header.msg_len as usize);
        meta.addr = address(name).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        read_control(&header.msg_hdr, meta);
    }
    Ok(received as usize)
}

/// What the kernel says beside a datagram, as far as quinn-udp asks for it: ip(7), ipv6(7), udp(7), socket(7).
fn read_control(header: &libc::msghdr, meta: &mut RecvMeta) {
    // SAFETY: the kernel filled the header; CMSG_* walk within msg_controllen, and a control message of each of these types
    // carries the structure that is read.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                    meta.dst_ip = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                    meta.interface_index = Some(info.ipi_ifindex as u32);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                    meta.dst_ip = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    meta.interface_index = Some(info.ipi6_ifindex as u32);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    meta.stride = ptr::read_unaligned::<libc::c_int>(data.cast()) as usize;
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let at: libc::timespec = ptr::read_unaligned(data.cast());
                    meta.timestamp = Some(Duration::new(at.tv_sec as u64, at.tv_nsec as u32));
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
}

/// Tells the allocator to keep what batches leave behind for the batches that follow, up to 32 MiB. By default it gives
/// blocks as large as a batch back to the kernel each time, which has to clear their pages anew: a tenth of what a large
/// datagram costs.
pub fn keep_freed_memory() {
    // SAFETY: both calls set a number inside the allocator.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 20);
    }
}

/// One of many datagrams to send.
pub struct Datagram<'a> {
    /// Where to, in the socket's own family.
    pub remote: SockAddr,
    /// The address to send from; None: the kernel chooses.
    pub source: Option<IpAddr>,
    /// What.
    pub payload: &'a [u8],
}

/// Sends datagrams to different remotes by one `sendmmsg`, without waiting; how many the kernel took, from the first on.
/// An error is the first one's; what the kernel says of a later one it says again when that one is the first.
pub fn send_many(socket: BorrowedFd, datagrams: &[Datagram]) -> io::Result<usize> {
    let count = datagrams.len().min(SEND_MANY);
    // SAFETY: all-zero bytes are valid values of these C structures.
    let mut headers: [libc::mmsghdr; SEND_MANY] = unsafe { mem::zeroed() };
    let mut data: [libc::iovec; SEND_MANY] = unsafe { mem::zeroed() };
    let mut controls = [[0u64; 5]; SEND_MANY]; // each holds one packet info of either family, aligned
    let places = headers.iter_mut().zip(&mut data).zip(&mut controls);
    for (datagram, ((header, data), control)) in datagrams.iter().zip(places) {
        let header = &mut header.msg_hdr;
        data.iov_base = datagram.payload.as_ptr().cast_mut().cast();
        data.iov_len = datagram.payload.len();
        header.msg_iov = data;
        header.msg_iovlen = 1;
        header.msg_name = datagram.remote.as_ptr().cast_mut().cast();
        header.msg_namelen = datagram.remote.len();
        if let Some(source) = datagram.source {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = mem::size_of_val(control) as _;
            header.msg_controllen = write_source(header, source) as _;
        }
    }
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: `count` headers point to live buffers of the lengths that they state; the kernel only reads them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Writes a control message that chooses the source address; its length. The header has room for one of either family.
fn write_source(header: &mut libc::msghdr, source: IpAddr) -> usize {
    fn put<T>(header: &mut libc::msghdr, level: i32, kind: i32, info: T) -> usize {
        let size = mem::size_of::<T>() as u32;
        // SAFETY: msg_control points to zeroed memory of msg_controllen bytes, which is CMSG_SPACE of the larger type.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = libc::CMSG_LEN(size) as _;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
            libc::CMSG_SPACE(size) as usize
        }
    }
    match source {
        IpAddr::V4(v4) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
            let info =
                libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } };
            put(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(v6) => {
            let info = libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: libc::in6_addr { s6_addr: v6.octets() } };
            put(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

/// A socket's receive queue.
pub struct ReceiveQueue {
    /// Buffers that the kernel dropped because it was full (SO_RXQ_OVFL misses most). One holds a datagram, or up to 64 that
    /// were coalesced.
    pub drops: u32,
    /// Bytes that it books for what waits, and the most that it books.
    pub booked: u32,
    pub limit: u32,
}

/// The socket's receive queue (SO_MEMINFO).
pub fn receive_queue(socket: BorrowedFd) -> io::Result<ReceiveQueue> {
    let mut values = [0u32; SK_MEMINFO_VARS];
    let mut length = mem::size_of_val(&values) as libc::socklen_t;
    // SAFETY: the buffer is live and as long as stated.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let (booked, limit) = (values[SK_MEMINFO_RMEM_ALLOC], values[SK_MEMINFO_RCVBUF]);
    Ok(ReceiveQueue { drops: values[SK_MEMINFO_DROPS], booked, limit })
}

/// Sets an integer socket option.
pub fn set_option(socket: BorrowedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is live and its size is stated.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: the family says which address the storage holds, and the storage is large enough for both.
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            Some(SocketAddr::from((Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn_udp::UdpSocketState;
    use socket2::{Domain, Socket, Type};
    use std::{net::UdpSocket, os::fd::AsFd};

    /// Remote, length, size of each, local address, interface, and whether the time is known.
    type Known = (SocketAddr, usize, usize, Option<IpAddr>, Option<u32>, bool);

    fn known(metas: &[RecvMeta]) -> Vec<Known> {
        let known = |m: &RecvMeta| (m.addr, m.len, m.stride, m.dst_ip, m.interface_index, m.timestamp.is_some());
        metas.iter().map(known).collect()
    }

    /// Three coalesced datagrams, the last one shorter, then an empty one and a single one.
    fn send(from: &UdpSocket, to: SocketAddr) {
        from.connect(to).unwrap();
        let segment = |size| set_option(from.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, size);
        segment(1_000).unwrap();
        from.send(&[7; 2_500]).unwrap();
        segment(0).unwrap();
        from.send(&[]).unwrap();
        from.send(&[8; 9]).unwrap();
    }

    #[test]
    fn what_is_not_copied_is_known_as_what_is() {
        let receiver = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        receiver.set_only_v6(false).unwrap();
        receiver.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        let state = UdpSocketState::new((&receiver).into()).unwrap();
        let port = receiver.local_addr().unwrap().as_socket().unwrap().port();
        for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let sender = UdpSocket::bind((loopback, 0)).unwrap();
            send(&sender, (loopback, port).into());
            let (mut buffers, mut metas) = (vec![vec![0; 1 << 16]; 4], [RecvMeta::default(); 4]);
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            assert_eq!(state.recv((&receiver).into(), &mut slices, &mut metas).unwrap(), 3);
            let copied = known(&metas[..3]);
            assert_eq!(
                copied.iter().map(|known| (known.1, known.2)).collect::<Vec<_>>(),
                [(2_500, 1_000), (0, 0), (9, 9)]
            );

            send(&sender, (loopback, port).into());
            slices[0] = IoSliceMut::new(&mut []);
            slices[2].fill(0);
            assert_eq!(receive_parts(receiver.as_fd(), &mut slices, &mut metas).unwrap(), 3);
            assert_eq!(known(&metas[..3]), copied);
            assert_eq!(slices[2][..10], [8, 8, 8, 8, 8, 8, 8, 8, 8, 0]);
            let nothing = receive_parts(receiver.as_fd(), &mut slices, &mut metas).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
