"""Which gateway a command talks to, and which key it shows: one mechanism for all client commands (contract section 8).

What the user gives comes first: `--api` or `SLUICEGATE_API`, `--api-key` or `SLUICEGATE_API_KEY`. What is not given is
found: the address in the configuration (`--config`, else `./sluicegate.yaml`), and the key `local` in the file
`STATE.admin-key` of that configuration, or of the gateway that noted the API's address (`state/notes.py`).

The key `local` is shown to its own gateway alone: at the address that the configuration or the note names, and only
while a socket of the key's owner listens there, on this machine. So it goes neither to another address nor to a program
of another user that took the port after the gateway ended.
"""

import dataclasses
import ipaddress
import os
import pwd
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from sluicegate.cli.errors import CliError
from sluicegate.config.yamlfile import YamlError, read
from sluicegate.model import Api as ApiSettings
from sluicegate.model import GatewayConfig, Tls, parse_server
from sluicegate.model.text import endpoint_text
from sluicegate.state.keys import parse_key
from sluicegate.state.local_key import admin_key_file
from sluicegate.state.notes import read_note
from sluicegate.state.private import read_private

DEFAULT_API = "http://127.0.0.1:8080"
DEFAULT_CONFIG = Path("sluicegate.yaml")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)
_LISTENING = "0A"  # include/net/tcp_states.h, TCP_LISTEN
_KEY_LIMIT = 1000

Address = tuple[str, int]


class _Bound(NamedTuple):
    """What a configuration says of its API."""

    address: Address
    state: Path
    certificate: Path | None
    """None: it speaks http."""


@dataclasses.dataclass(frozen=True)
class Api:
    """The API that a command talks to. `str()` is its URL. `given` is the key that the user gave, `config` the
    configuration that was named or found."""

    url: str
    given: str | None = dataclasses.field(default=None, repr=False)
    config: Path | None = None

    def __str__(self) -> str:
        return self.url

    @property
    def credentials(self) -> "Credentials":
        """The key for the next request. It may be another one each time: the gateway makes a new one if its file is
        gone. Raises `CliError` for a given key that is none."""
        if self.given:
            if not (self.given.isascii() and self.given.isprintable() and " " not in self.given):
                raise CliError(
                    "SLUICEGATE_API_KEY or --api-key is not a key, `sluicegate keys create` makes one"
                )
            return Credentials(self.given)
        found = _key_file(self)
        if found is None:
            return Credentials(
                advice="no key is known here: name the gateway's file with --config, or set SLUICEGATE_API_KEY"
            )
        return _local(*found)


@dataclasses.dataclass(frozen=True)
class Credentials:
    """A key, or why there is none, for people who are refused without one. `local`: it is the gateway's own, and goes
    over loopback."""

    key: str | None = dataclasses.field(default=None, repr=False)
    local: bool = False
    advice: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def choose(api: str | None, config: Path | None, key: str | None) -> Api:
    """The API that the options of a command mean. Raises `CliError` for a configuration that cannot be read."""
    file = config if config is not None else _own(DEFAULT_CONFIG)
    url = api
    if url is None and file is not None:
        bound = _bound(file, named=config is not None)
        if bound is not None and bound.address[1]:
            scheme = "https" if bound.certificate else "http"
            url = f"{scheme}://{endpoint_text(*_reachable(bound.address))}"
    return Api(url or DEFAULT_API, (key or "").strip() or None, file)


def _key_file(api: Api) -> tuple[Path, Address] | None:
    """`(file with the key, address that it is for)`: of the configuration if that is this API's, else as noted."""
    for wanted in _addresses(api.url):
        bound = _bound(api.config, named=False) if api.config is not None else None
        if bound is not None and _covers(bound.address, wanted):
            return admin_key_file(bound.state), wanted
        for host in (wanted[0], *_WILDCARDS):
            noted = read_note(host, wanted[1])
            if noted is not None and _covers((host, wanted[1]), wanted):
                return noted, wanted
    return None


def own_certificate(api: Api) -> Path | None:
    """The certificate of the configuration that is this API's, if there is one."""
    bound = _bound(api.config, named=False) if api.config is not None else None
    if bound is None or not any(_covers(bound.address, wanted) for wanted in _addresses(api.url)):
        return None
    return bound.certificate


def _local(file: Path, address: Address) -> Credentials:
    try:
        with read_private(file) as opened:
            owner = os.fstat(opened.fileno()).st_uid
            text = opened.read(_KEY_LIMIT).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return Credentials(advice=f"the gateway's key is not in {file}: it makes one when it starts")
    except PermissionError:
        return Credentials(advice=f"the key in {file} is for {_owner(file)}")
    except OSError as error:
        return Credentials(advice=f"the key in {file} cannot be read ({error.strerror})")
    shown = endpoint_text(*address)
    if parse_key(text) is None:
        return Credentials(advice=f"there is no key in {file}: delete it, and the gateway makes a new one")
    listening = _listening(*address)
    if listening != {owner}:
        who = f"what serves {shown} belongs to {', '.join(map(_user, listening))}" if listening else ""
        why = who or f"nothing serves {shown} on this machine"
        return Credentials(advice=f"the key in {file} was not sent, because it is {_user(owner)}'s and {why}")
    return Credentials(text, local=ipaddress.ip_address(address[0]).is_loopback)


def _bound(file: Path, *, named: bool) -> _Bound | None:
    """The API in a configuration, of which nothing else is looked at; None without an API.

    Raises `CliError` if the user named the file.
    """
    try:
        data = read(file).data
        settings = GatewayConfig.peek(data, "api")
        host, port = parse_server(str(ApiSettings.peek(settings, "bind") or ApiSettings().bind))
    except YamlError as error:
        if named:
            raise CliError(f"{file} cannot be used\n{error}") from None
        return None
    except ValueError:
        return None
    state = GatewayConfig.peek(data, "state") or "./sluicegate.db"
    certificate = Tls.peek(ApiSettings.peek(settings, "tls"), "cert")
    folder = file.absolute().parent
    return _Bound(
        ("127.0.0.1" if host == "localhost" else host, port),
        folder / str(state),
        folder / certificate if isinstance(certificate, str) else None,
    )


def _own(file: Path) -> Path | None:
    """The file, unless somebody else put it into this folder."""
    try:
        found = file.stat()
    except OSError:
        return None
    return file if found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o002 else None


def _reachable(bound: Address) -> Address:
    """The address at which this machine reaches what is bound there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound[0], bound[0]), bound[1]  # noqa: S104


def _addresses(url: str) -> list[Address]:
    """The addresses that a URL may mean; none for a name of another machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme, 80)
        if parts.username is not None or parts.scheme not in ("http", "https"):
            return []
        hosts = ["127.0.0.1", "::1"] if host == "localhost" else [str(ipaddress.ip_address(host))]
    except ValueError:
        return []
    return [(one, port) for one in hosts]


def _covers(bound: Address, wanted: Address) -> bool:
    """True if what is bound to one address is what answers at the other, on this machine."""
    same_family = (":" in bound[0]) == (":" in wanted[0])
    any_address = bound[0] == "::" or (bound[0] == "0.0.0.0" and same_family)  # noqa: S104
    is_local = ipaddress.ip_address(wanted[0]).is_loopback
    return bound[1] == wanted[1] and (bound[0] == wanted[0] or (any_address and is_local))


def _listening(host: str, port: int) -> set[int]:
    """The users whose sockets take connections to an address of this machine: the socket of that address, else those of
    all addresses.

    From the kernel's table of TCP sockets (proc_pid_net(5)), in which those that listen come first.
    """
    wanted = ipaddress.ip_address(host)
    found: dict[int, set[int]] = {}
    for table in ("tcp", "tcp6"):
        try:
            with Path("/proc/thread-self/net", table).open() as lines:
                next(lines, None)
                for line in lines:
                    _, local, _, state, _, _, _, uid, *_ = line.split()
                    if state != _LISTENING:
                        break
                    address, _, number = local.partition(":")
                    at = _from_kernel(address)
                    if int(number, 16) == port and (at == wanted or at.is_unspecified):
                        rank = 0 if at == wanted else 1 if at.version == wanted.version else 2
                        found.setdefault(rank, set()).add(int(uid))
        except (OSError, ValueError):
            continue
    return found[min(found)] if found else set()


def _from_kernel(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel's tables have it: words of 32 bits in the order of the machine's bytes."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    address = ipaddress.ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address


def _owner(file: Path) -> str:
    try:
        return _user(file.lstat().st_uid)
    except OSError:
        return "another user"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
