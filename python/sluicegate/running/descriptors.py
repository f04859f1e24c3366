"""File descriptors: how many this process may have open, what its resources need, and what is left for its servers.

A Listener whose socket cannot be made, or a worker whose pipes cannot, is worse than a client that waits. So the
servers get what all others leave. What others need is counted from the resources: it is what they have open when all
of their workers run, measured by `tests/integration/test_attack_descriptors.py`.
"""

import resource
from collections.abc import Iterable

from sluicegate.model import DestinationSpec, Finding, GatewayConfig, Listener, PacketSource
from sluicegate.running.documents import Desired, Refused

OWN = 32
"""The streams, the event loop, the state and its journal, and what is open for a moment: a worker that starts, a
configuration that is read, a name that is looked up."""
LISTENER = 1
DESTINATION = 1
"""Of a file, or a Destination of a package; one that is bound to nothing or to the console has none."""
WORKER = 5
"""Two pipes, the worker and its keeper, and a socket; the Runtime API of an executable has two."""
WORKERS = 2
"""Of a function that names no number (`destinations/function.py`)."""
SERVICE = 4
"""Connections to a service of AWS, for each resource that calls it."""
LEAST_CONNECTIONS = 8
MOST_CONNECTIONS = 1000
"""Connections of one server."""


def raise_limit() -> None:
    """Take what the system allows: the soft limit is for programs with `select`, which has no room for more than 1,024.
    Workers get that one back (`functions/_worker_main.py`)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check(desired: Desired, gateway: GatewayConfig) -> None:
    """Raises `Refused` if these resources would not find the descriptors that they need."""
    limit, needed = _limit(), _needed(desired, gateway)
    if needed <= limit:
        return
    cause = (
        f"{len(desired.listeners)} Listeners with their Destinations and workers, the servers and the gateway itself "
        f"need {needed} open files, and this process may have {limit}"
    )
    fix = f"allow more before it starts: `ulimit -n {2 * needed}`, or `LimitNOFILE={2 * needed}` in systemd's unit"
    raise Refused(Finding(("listeners",), cause, fix, conflict=True))


def check_file(gateway: GatewayConfig) -> None:
    """`check` for what the configuration has by itself, before anything is open: what is in the state comes later.
    Raises `Refused`."""
    listeners = {one.name: one for one in gateway.listeners}
    check(Desired(listeners, {one.name: one for one in gateway.packet_sources}), gateway)


def connections(desired: Desired, gateway: GatewayConfig) -> int:
    """How many connections each server may have beside these resources."""
    servers = _servers(gateway)
    left = _limit() - _needed(desired, gateway)
    share = LEAST_CONNECTIONS + left // servers if servers else 0
    # Newcomers that are refused, and those that take another's place, are open beside them for a moment.
    return max(LEAST_CONNECTIONS // 2, min(MOST_CONNECTIONS, share - 2 * max(1, min(16, share // 8))))


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _servers(gateway: GatewayConfig) -> int:
    return (gateway.api is not None) + (gateway.sns is not None)


def _needed(desired: Desired, gateway: GatewayConfig) -> int:
    needed = OWN + _servers(gateway) * (1 + LEAST_CONNECTIONS) + (gateway.events.file is not None)
    needed += sum(map(_listener, desired.listeners.values()))
    if gateway.sns is None:
        needed += SERVICE * len(desired.packet_sources)
    return needed + _dead_letters(desired.packet_sources.values())


def _listener(listener: Listener) -> int:
    specs = [one for one in listener.destinations if isinstance(one, DestinationSpec)]
    groups = (listener.log_group_name is not None) + sum(one.log_group_name is not None for one in specs)
    return LISTENER + sum(map(_destination, specs)) + SERVICE * groups


def _destination(spec: DestinationSpec) -> int:
    arns = spec.destination_arn
    found = list(arns.values()) if isinstance(arns, dict) else [arns or ""]
    functions = [arn for arn in found if arn.startswith("function:")]
    if not functions:
        return DESTINATION * any(arn and not arn.startswith("console:") for arn in found)
    named = [spec.arguments_of(region).get("Concurrency", WORKERS) for region in spec.targets()]
    executable = not all(".py:" in arn for arn in functions)
    return (WORKER + executable) * max(int(one) if str(one).isdecimal() else WORKERS for one in named)


def _dead_letters(sources: Iterable[PacketSource]) -> int:
    queues = {one.dead_letter_queue_arn for one in sources if one.dead_letter_queue_arn}
    return sum(SERVICE if queue.startswith("arn:") else 1 for queue in queues)
