"""What Destinations have in common that call a server of a user's: its URL, TLS, files with secrets, addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from sluicegate.destinations.base import Arguments, DestinationContext, DestinationError
from sluicegate.localcode import Outside
from sluicegate.regular import read_regular

SECRET_LIMIT = 65_536
"""Bytes of a file with secrets."""
_URL = re.compile(r"[!-~]+")  # printable ASCII: a URL has nothing else
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?|[0-9A-Fa-f:.]+")


def read_url(name: str, text: str, usage: str, context: DestinationContext) -> SplitResult:
    """The parts of a URL without user and fragment, whose host may be called. Raises `DestinationError`.

    No message shows the URL: a path or a query may be a secret, as in those of chats.
    """
    cause = f"destination {name}: the URL"
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        raise DestinationError(
            f"{cause} has no host, or no port that is one", f"write it as {usage}"
        ) from None
    if "@" in url.netloc:
        fix = "leave out what stands before the @, and name a file with the secret among the `arguments`"
        raise DestinationError(f"{cause} has a user or a password, which would be shown with it", fix)
    if not _URL.fullmatch(text) or not _HOST.fullmatch(host) or port == 0 or url.fragment or "#" in text:
        raise DestinationError(f"{cause} is not of that form", f"write it as {usage}, percent-encoded")
    address = _numeric(host)
    forbidden = forbids(context)(address) if address else None
    if forbidden is not None:
        raise DestinationError(
            f"destination {name}: {host} is {forbidden}", "add its network there, or use another host"
        )
    return url


def forbids(context: DestinationContext | None) -> Callable[[str], str | None]:
    """Says why a numeric address may not be called, as the end of "it is …"; the operator's word has no bounds."""
    return context.local_code.forbids if context and context.local_code else lambda address: None


def is_local(host: str) -> bool:
    """True for a host whose packets do not leave this machine."""
    address = _numeric(host)
    return host == "localhost" if address is None else ipaddress.ip_address(address).is_loopback


def read_secret(reader: Arguments, name: str, context: DestinationContext, *, leaves: bool = False) -> str:
    """The text of the file that the argument `name` names; "" without one. Raises `DestinationError`.

    `leaves`: what is in it goes to the server. A document of the API names no such file: it chooses the server too.
    """
    path = _path(reader, name, context)
    if path is None:
        return ""
    if leaves and context.local_code is not None:
        cause = f"{name} names secrets that are sent, which a document of the API may not"
        raise reader.wrong(name, cause, "declare this Destination in the gateway's file")
    try:
        return read_regular(path, SECRET_LIMIT).decode("ascii").strip()
    except OSError as error:
        cause = f"the file of {name} cannot be read ({(error.strerror or 'it fails').lower()})"
        raise reader.wrong(name, cause, "name a file that the gateway's user may read") from None
    except ValueError:
        raise reader.wrong(
            name, f"the file of {name} is not ASCII text", "write the secret as text"
        ) from None


def read_tls(reader: Arguments, context: DestinationContext, *, secure: bool) -> ssl.SSLContext | None:
    """Whom to trust (`CaFile`), and the client's certificate (`CertificateFile`, `KeyFile`); None without any of them.

    The server's name is always checked. `secure`: TLS is spoken. Raises `DestinationError`.
    """
    names = ("CaFile", "CertificateFile", "KeyFile")
    ca, certificate, key = (_path(reader, name, context) for name in names)
    given = [name for name, path in zip(names, (ca, certificate, key), strict=True) if path]
    if not given:
        return None
    if not secure:
        raise reader.wrong(
            given[0], f"{given[0]} is for TLS, which is not used here", "use https:, or leave it out"
        )
    if key and not certificate:
        raise reader.wrong("KeyFile", "KeyFile has no certificate beside it", "name it with CertificateFile")
    tls = ssl.create_default_context()
    if ca:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        _load(reader, "CaFile", "no certificates in PEM", lambda: tls.load_verify_locations(ca))
    if certificate:
        what = "no certificate in PEM with its private key, unencrypted"
        _load(reader, given[-1], what, lambda: tls.load_cert_chain(certificate, key, password=_no_password))
    return tls


def _load(reader: Arguments, name: str, what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError, with OpenSSL's number
        words = None if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        cause = (
            f"the file of {name} cannot be read ({words.lower()})"
            if words
            else f"the file of {name} has {what}"
        )
        raise reader.wrong(name, cause, "name a file that the gateway's user may read, in PEM") from None


def _no_password() -> str:
    raise ValueError("nobody is there to type it")


def _path(reader: Arguments, name: str, context: DestinationContext) -> Path | None:
    text = reader.text(name)
    if not text:
        return None
    if "\0" in text:
        raise reader.wrong(name, f"{name} is no path", "name a file")
    path = context.base_dir / text
    try:
        return context.local_code.secret(path) if context.local_code else path
    except Outside as error:
        raise reader.wrong(name, error.cause, error.fix) from None


def _numeric(host: str) -> str | None:
    """The address that a host is, in any spelling that the system takes (`127.1`, `0x7f000001`); None for a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return "127.0.0.1" if f".{host}".rstrip(".").endswith(".localhost") else None
