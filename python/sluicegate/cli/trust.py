"""Whom a command trusts when the gateway's API speaks TLS, and sentences for what goes wrong there.

The system's authorities are trusted, or those in the file that `SSL_CERT_FILE` names. A gateway on this machine whose
configuration was found needs neither: it is trusted if it has the certificate that its configuration names, whatever
name that certificate is for.
"""

import re
import ssl
from pathlib import Path

from sluicegate.cli.credentials import Api, own_certificate
from sluicegate.cli.errors import CliError

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


def cause(api: Api, error: Exception) -> str:
    """Why there was no answer, with what to do where TLS is the cause."""
    text = str(error) or type(error).__name__
    is_tls = api.url.lower().startswith("https:")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return f"its certificate is not trusted: {reason}; SSL_CERT_FILE may name the file of its authority"
    if is_tls and ("WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text):
        return "it does not speak TLS: begin the URL with http:"
    if not is_tls and type(error).__name__ in ("RemoteProtocolError", "ReadError"):
        return f"{text}; if it speaks TLS, begin the URL with https:"
    return text


def _first_certificate(file: Path) -> str | None:
    """The server's own certificate of a chain; None if it cannot be read here."""
    try:
        found = _CERTIFICATE.search(file.read_text("ascii", "replace"))
    except OSError:
        return None
    return found[0] if found else None
