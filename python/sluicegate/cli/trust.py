"""Whom a command trusts when the gateway's API speaks TLS, and sentences for what goes wrong there.

The system's authorities are trusted, or those in the file that `SSL_CERT_FILE` names. A gateway on this machine whose
configuration was found needs neither: it is trusted if it has the certificate that its configuration names, whatever
name that certificate is for.
"""

import os
import re
import socket
import ssl
from pathlib import Path

from sluicegate.cli.credentials import Api, own_certificate
from sluicegate.cli.errors import CliError, Exit
from sluicegate.regular import read_regular

NO_GATEWAY = "start one with `sluicegate dev` or name its API with --api"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def trusted(api: Api) -> ssl.SSLContext | bool:
    """For httpx's `verify`."""
    if not api.url.lower().startswith("https:"):
        return True
    file = own_certificate(api)
    pinned = _first_certificate(file) if file is not None else None
    try:
        if pinned is None:
            return ssl.create_default_context()
        context = ssl.create_default_context(cadata=pinned)
    except (ssl.SSLError, OSError):
        raise CliError(
            f"the authorities in {file or 'SSL_CERT_FILE'} cannot be read, name a PEM file"
        ) from None
    # The certificate itself is the authority, also if another one has signed it: nobody else is believed.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def cause(api: Api, error: Exception) -> tuple[str, str]:
    """Why there was no answer, and what to do. httpx's own words say neither."""
    text = str(error)
    is_tls = api.url.lower().startswith("https:")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        trust = "name its configuration with --config, or the file of its authority in SSL_CERT_FILE"
        return f"its certificate is not trusted: {reason}", trust
    if is_tls and ("WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text):
        return "it does not speak TLS", "begin the URL with http:"
    if not is_tls and type(error).__name__ in ("RemoteProtocolError", "ReadError"):
        return "it ended the connection", "begin the URL with https: if it speaks TLS, else look at its log"
    return _kernel_says(error), NO_GATEWAY


def unreachable(api: Api, why: str, step: str) -> CliError:
    """The error of a command that got no answer."""
    return CliError(f"no gateway answers at {api} ({why}), {step}", Exit.UNREACHABLE)


def _kernel_says(error: BaseException | None) -> str:
    """The kernel's reason beneath an error of httpx; of several addresses, that of the last."""
    found = "the connection failed"
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[-1]
        number = re.search(r"\[Errno (\d+)\]", str(error))
        if isinstance(error, socket.gaierror):
            return "its name is not known"
        if number is not None or (isinstance(error, OSError) and error.errno):
            found = os.strerror(int(number[1]) if number else error.errno).lower()  # type: ignore[union-attr]
        error = error.__cause__ or error.__context__
    return found


def _first_certificate(file: Path) -> str | None:
    """The server's own certificate of a chain; None if it cannot be read here."""
    try:
        found = _CERTIFICATE.search(read_regular(file).decode("ascii", "replace"))
    except OSError:
        return None
    return found[0] if found else None
