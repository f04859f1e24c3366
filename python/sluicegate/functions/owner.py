"""Whose is the other end of a TCP connection of this machine? Asked of the kernel, not guessed from the port.

Theory of operation. The Runtime API of an executable is a TCP port of the loopback, and every program of the machine
can connect to it. The kernel knows which socket is at the other end: sock_diag(7) takes the two addresses of a
connection and returns the socket's user and inode. So a connection is believed if its socket belongs to the gateway's
own user, and if a process of the worker's process group has that inode open (`/proc/PID/fd`).

It is asked once for a connection, before its first byte is read. Everything that cannot be found out is a refusal.
`docs/functions.md` says what this does not hold off.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_Address = tuple[str, int]

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2 without its socket id
_ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface; INET_DIAG_NOCOOKIE
_ANSWER = struct.Struct("=BBBB48sIIIII")  # inet_diag_msg: …, state, …, the id; expires, queues, user, inode
_ANSWER_BYTES = 8192

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_LISTEN = 10  # tcp_states.h
# One that has sent everything and closed its half may still be read. In all other states nobody speaks any more.
_CONNECTED = (1, 4, 5)  # ESTABLISHED, FIN_WAIT1, FIN_WAIT2

UNAVAILABLE = (
    "the kernel does not say whose a local connection is (sock_diag: {why}), so that the Runtime API of an executable"
    " would be open to every user of this machine; load the kernel's modules (modprobe tcp_diag), allow netlink"
    " sockets (in a systemd unit: AF_NETLINK in RestrictAddressFamilies), or write the function in Python, which"
    " needs no port"
)


class Unavailable(Exception):
    """The kernel does not answer. The text says why, and how to go on."""


@dataclass(frozen=True, slots=True)
class _Socket:
    state: int
    user: int
    inode: int


def check_available(listening: _Address) -> None:
    """Raises `Unavailable` if the kernel does not even find `listening`, the address of a listening socket of ours, and
    `OSError` if it has no room for the question."""
    try:
        found = _ask(listening, ("0.0.0.0", 0))  # noqa: S104  (the wildcard of a listening socket's other end)
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise Unavailable(UNAVAILABLE.format(why=os.strerror(error.errno or 0).lower())) from None
    if found is None or found.state != _LISTEN:
        raise Unavailable(UNAVAILABLE.format(why="it does not find a socket that is there"))


def stranger(peer: _Address, local: _Address, group: int | None) -> str | None:
    """Why the connection from `peer` to `local`, both IPv4, is not one of the process group `group`; None if it is.

    Without a group nobody is believed.
    """
    try:
        found = _ask(peer, local)
    except OSError as error:
        return f"the kernel does not say whose it is ({os.strerror(error.errno or 0).lower()})"
    if found is None or found.state not in _CONNECTED or not found.inode:
        return "nobody is at its other end any more"
    if found.user != os.geteuid():
        return f"it is of the user {found.user}, not of the gateway's own"
    return _not_of_group(group, found.inode) if group is not None else "there is no worker yet"


def _not_of_group(group: int, inode: int) -> str | None:
    wanted, hidden = f"socket:[{inode}]", None
    for pid in _members(group):
        try:
            if wanted in _open_files(pid):
                return None
        except PermissionError:
            hidden = pid
        except OSError:
            continue  # it has ended
    if hidden is None:
        return "no process of the worker's process group has it open"
    return (
        f"the kernel does not show what process {hidden} of the worker has open: its program is not readable, or has"
        " capabilities or another user's rights; make the file readable (chmod u+r) and take those away"
    )


def _members(group: int) -> Iterator[int]:
    """The processes of a group: first the one that gave it its number, which is nearly always the one."""
    yield group
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and path.name != str(group):
            try:
                if os.getpgid(int(path.name)) == group:
                    yield int(path.name)
            except OSError:
                continue  # it has ended


def _open_files(pid: int) -> Iterator[str]:
    """What its descriptors stand for, as `/proc` writes it. Raises `OSError`."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield str(path.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile


def _ask(local: _Address, remote: _Address) -> _Socket | None:
    """The TCP socket that has exactly these addresses, also one of an IPv6 socket that speaks IPv4 (`::ffff:…`); None
    if there is none. Raises `OSError`."""
    addresses = (socket.inet_aton(host).ljust(16, b"\0") for host, _ in (local, remote))
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    request += struct.pack("!HH", local[1], remote[1]) + b"".join(addresses) + _ANY
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.setblocking(False)  # the kernel has answered when `sendto` returns
        netlink.sendto(header + request, (0, 0))
        answer, (sender, _) = netlink.recvfrom(_ANSWER_BYTES)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if sender == 0 and kind == _SOCK_DIAG_BY_FAMILY:
        _, state, _, _, _, _, _, _, user, inode = _ANSWER.unpack_from(answer, _HEADER.size)
        return _Socket(state, user, inode)
    return None
