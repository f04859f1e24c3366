"""Binding a Listener: at its own port, at the one that was assigned to it, or at a new one of the range."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from sluicegate import _native
from sluicegate.model import Finding, Listener
from sluicegate.model.text import endpoint_text
from sluicegate.running import interfaces
from sluicegate.running.documents import Refused
from sluicegate.state import State, StateError


class AssignedPorts:
    """The ports that Listeners were assigned, and those that one change assigns. `StateError`; blocks.

    `ports` is the range to assign from. `fixed` are those that Listeners ask for themselves; nobody goes through them
    unless a new port is assigned. The state is read once and written once, by `keep`.
    """

    def __init__(self, state: State, ports: range, fixed: Iterable[int] = ()) -> None:
        self._state = state
        self._assigned = state.assigned_ports()
        self._free = self._unused(ports, fixed)
        self._new: dict[str, int] = {}

    def of(self, listener: str) -> int | None:
        """The port that was assigned to a Listener; None if none was."""
        return self._assigned.get(listener)

    def next(self) -> int:
        """The next port of the range that nobody has."""
        port = next(self._free, None)
        if port is None:
            raise StateError("every port of the range is in use, widen `ports:` or set `bind:` with a port")
        return port

    def assign(self, listener: str, port: int) -> None:
        """Note that a Listener has this port from now on; `keep` writes it."""
        if self._assigned.get(listener) != port:
            self._assigned[listener] = self._new[listener] = port

    def keep(self) -> None:
        """Write the new ones, in one transaction."""
        self._state.assign_ports(self._new)
        self._new = {}

    def _unused(self, ports: range, fixed: Iterable[int]) -> Iterator[int]:
        taken = {*fixed, *self._assigned.values()}
        yield from (port for port in ports if port not in taken)


def open_port(
    listener: Listener, spec: dict[str, Any], dataplane: _native.Dataplane, ports: AssignedPorts
) -> _native.Port:
    """The Listener's Port, bound.

    Raises `Refused` for what the kernel refuses, and `StateError` when no port of the range is free. Blocks.
    """
    host, fixed, dual_stack = listener.bind_address()
    host = _with_index(listener, host)
    spec = spec | {"Multicast": _groups(listener)}
    kept = fixed if fixed is not None else ports.of(listener.name)
    while True:
        number = kept if kept is not None else ports.next()
        try:
            port = _open_at(spec, host, number, dual_stack, dataplane.open)
        except _native.NativeError as error:
            if error.args[1] == errno.EADDRINUSE and kept is None:
                continue
            raise _refused(listener.name, number, error) from None
        if fixed is None:
            ports.assign(listener.name, number)
        return port


def _with_index(listener: Listener, host: str | None) -> str | None:
    """The address with the index of its zone."""
    address, percent, zone = (host or "").partition("%")
    return f"{address}%{_index(listener, ('bind',), zone)}" if percent else host


def _groups(listener: Listener) -> dict[str, object]:
    wanted = listener.multicast
    if wanted is None:
        return {"Groups": [], "Interface": 0}
    if wanted.interface is None:
        return {"Groups": wanted.groups, "Interface": 0}
    return {
        "Groups": wanted.groups,
        "Interface": _index(listener, ("multicast", "interface"), wanted.interface),
    }


def _index(listener: Listener, place: tuple[str, ...], interface: str) -> int:
    index = interfaces.index_of(interface)
    if index is not None:
        return index
    cause = f'Listener {listener.name}: this machine has no interface "{interface}"'
    fix = f"use one of: {interfaces.names()}"
    raise Refused(Finding(place, cause, fix, conflict=True).of(Listener, listener.name))


def _open_at(
    spec: dict[str, Any],
    host: str | None,
    number: int,
    dual_stack: bool,
    open_: Callable[[str], _native.Port],
) -> _native.Port:
    where = {"Bind": endpoint_text(host or "::", number)}
    try:
        return open_(orjson.dumps(spec | where | {"DualStack": dual_stack}).decode())
    except _native.NativeError as error:
        # A kernel without IPv6 still serves every address that it has.
        if host is None and error.args[1] in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return open_(orjson.dumps(spec | {"Bind": f"0.0.0.0:{number}", "DualStack": False}).decode())
        raise


def _refused(name: str, number: int, error: _native.NativeError) -> Refused:
    attempt, code = error.args
    if attempt.startswith("join the group"):
        cause = f"Listener {name} cannot {attempt}: {os.strerror(code)}"
        fix = "name an interface in `multicast.interface` that is up and has an address of the group's family"
        return Refused(Finding(("multicast",), cause, fix, conflict=True).of(Listener, name))
    match code:
        case errno.EADDRINUSE:
            cause = f"UDP port {number} of Listener {name} is in use by another program"
            fix = f"stop it (`ss -lunp 'sport = :{number}'` names it), or choose another port"
        case errno.EACCES:
            cause = f"UDP port {number} of Listener {name} needs privileges"
            fix = "choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            cause = f"the address of Listener {name} is not one of this machine"
            fix = "`ip address` lists them; 0.0.0.0 or [::] stands for all"
        case _:
            code_name = errno.errorcode.get(code, code)
            cause = f"Listener {name} cannot be opened: the kernel refused to {attempt} ({code_name})"
            fix = "check the address and the limits of the process"
    return Refused(Finding(("bind",), cause, fix, conflict=True).of(Listener, name))
