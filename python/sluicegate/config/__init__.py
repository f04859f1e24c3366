"""The configuration file: YAML in, a checked `GatewayConfig` or every finding with its line and column out.

The file is read in three steps: text → YAML nodes (which know their places) → plain data for the model.
Findings of the model come with a path; the nodes turn the path into `file:line:col`. Contract section 8:
relative paths are relative to the file, unknown keys are errors, and all errors are shown at once.
"""

import dataclasses
import errno
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from sluicegate.config.checks import checks
from sluicegate.config.regions import unknown_regions
from sluicegate.config.schema import json_schema
from sluicegate.config.yamlfile import Document, YamlError, read
from sluicegate.model import Finding, FindingsError, GatewayConfig, findings, notes
from sluicegate.model import Path as Place
from sluicegate.model.address import is_loopback
from sluicegate.regular import is_handed_over

__all__ = ["Config", "ConfigError", "json_schema", "load", "stamp"]


class ConfigError(FindingsError):
    """The file cannot be used; the findings are in the order of the file."""


Stamp = tuple[int, int, int]
"""What changes whenever a file is saved."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A valid configuration: `gateway` with its `state` path made absolute, and where it came from.

    `base_dir` is what `file:` and `function:` paths are relative to. `warnings` are worth a line, not a
    refusal.
    """

    gateway: GatewayConfig
    path: Path
    base_dir: Path
    warnings: list[Finding]
    document: Document = dataclasses.field(repr=False)
    stamp: Stamp | None = None
    """The file's before it was read: what is saved later has another one."""

    def locate(self, found: Finding) -> Finding:
        """A finding with its place in the file, if it is about what the file names."""
        if found.resource is None:
            return self.document.locate(found)
        for section in ("listeners", "packet_sources"):
            for index, item in enumerate(getattr(self.gateway, section)):
                if item.name == found.name and type(item) is found.resource:
                    return self.document.locate(found.under(section, index))
        return found


def load(path: str | Path) -> Config:
    """Read and check a configuration file. Raises `ConfigError`; touches nothing but the files that it
    reads."""
    given = Path(path)
    before = stamp(given)
    try:
        document = read(given)
    except YamlError as error:
        raise ConfigError(*error.findings) from None
    base_dir = Path.cwd() if is_handed_over(given) else given.absolute().parent
    found = list(document.duplicate_keys())
    try:
        context = {"check": checks(base_dir, str(GatewayConfig.peek(document.data, "region")))}
        gateway = GatewayConfig.model_validate(document.data, context=context)
    except ValidationError as error:
        found += map(document.locate, findings(error, GatewayConfig))
        raise ConfigError(*_in_order(found)) from None
    if found:
        raise ConfigError(*_in_order(found))
    gateway.state = str(base_dir / gateway.state)
    warnings = _in_order(map(document.locate, _doubtful(gateway)))
    return Config(gateway, given, base_dir, warnings, document, before)


def stamp(path: Path) -> Stamp | None:
    """None while there is no such file: between the two steps of an editor that replaces it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _doubtful(gateway: GatewayConfig) -> list[Finding]:
    found = [
        *notes(gateway.listeners, gateway.packet_sources),
        *_readable_on_the_way(gateway),
        *_elsewhere(gateway),
        *unknown_regions(gateway),
    ]
    sourced = {source.listener_name for source in gateway.packet_sources}
    for index, listener in enumerate(gateway.listeners):
        if not listener.destinations and listener.name not in sourced:
            cause = f'the Listener "{listener.name}" has neither Destinations nor a PacketSource'
            found.append(Finding(("listeners", index), cause, "add one, otherwise packets are only counted"))
        for position, destination in enumerate(listener.destinations):
            if not isinstance(destination, str) and destination.destination_arn is None:
                cause = f'the Destination "{destination.name}" has no `destination_arn`'
                place = ("listeners", index, "destinations", position)
                found.append(Finding(place, cause, "its packets are dropped and counted until it has one"))
    return found


def _readable_on_the_way(gateway: GatewayConfig) -> Iterator[Finding]:
    """Servers that others reach without TLS."""
    for name, server, what in (
        ("api", gateway.api, "keys and answers"),
        ("sns", gateway.sns, "messages"),
    ):
        if server is not None and server.tls is None and not is_loopback(server.address()[0]):
            cause = f"{what} can be read on the way to {server.bind}, because it speaks HTTP"
            fix = f"set `{name}.tls`, or let a proxy on this machine or in a private network add TLS"
            yield Finding((name, "bind"), cause, fix)


def _elsewhere(gateway: GatewayConfig) -> Iterator[Finding]:
    """Addresses that this machine does not have now: an interface may be down, or the file be for another machine."""
    bound: list[tuple[Place, str | None]] = [
        (("listeners", index, "bind"), listener.bind_address().host)
        for index, listener in enumerate(gateway.listeners)
    ]
    bound += [
        ((name, "bind"), server.address()[0])
        for name, server in (("api", gateway.api), ("sns", gateway.sns))
        if server is not None
    ]
    missing = {host for host in {host for _, host in bound if host is not None} if not _is_here(host)}
    for place, host in bound:
        if host in missing:
            cause = f"{host} is not an address of this machine now"
            yield Finding(place, cause, "the gateway starts only where it is one: `ip address` lists them")


def _is_here(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _in_order(found: Iterable[Finding]) -> list[Finding]:
    # One mistake in an anchor is found once per alias, at the same place.
    once = {str(one): one for one in found}
    return sorted(once.values(), key=lambda one: (one.line, one.col))
