"""A server's certificate and key, read from files."""

import ssl
from pathlib import Path
from typing import Literal

from sluicegate.model import Finding
from sluicegate.regular import read_regular


class TlsError(Exception):
    """These files make no server. `finding` says why, and what to do; its path begins at `tls`."""

    def __init__(self, field: Literal["cert", "key"], cause: str, fix: str) -> None:
        self.finding = Finding((field,), cause, fix)
        super().__init__(self.finding.sentence)


class _Encrypted(Exception):
    """OpenSSL asks for the password of a key."""


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later with the chain in `cert` and the private key in `key`, both PEM. Raises `TlsError`."""
    _read("cert", "certificate", cert)
    _read("key", "private key", key)
    _check_certificates(cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Encrypted:
        fix = f"write it without one: `openssl pkey -in {key} -out FILE`, mode 0600"
        raise TlsError(
            "key", f"the private key {key} is encrypted, and nobody is there to type its password", fix
        ) from None
    except ssl.SSLError as error:
        raise _refused(cert, key, error) from None
    return context


def _read(field: Literal["cert", "key"], what: str, path: Path) -> None:
    try:
        read_regular(path, 1)
    except IsADirectoryError:
        raise TlsError(field, f"the {what} {path} is not a file", "name the file itself") from None
    except OSError as error:
        cause = f"the {what} {path} cannot be read ({error.strerror})"
        raise TlsError(field, cause, "name a file that the gateway's user may read") from None


def _check_certificates(cert: Path) -> None:
    """OpenSSL does not say which of the two files is wrong."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except ssl.SSLError:
        fix = "name a file that begins with the server's own certificate: -----BEGIN CERTIFICATE-----"
        raise TlsError("cert", f"{cert} has no certificate in PEM", fix) from None


def _refused(cert: Path, key: Path, error: ssl.SSLError) -> TlsError:
    match error.reason:
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH":
            fix = f"name the key with which {cert} was made; the server's own certificate stands first in that file"
            return TlsError("key", f"the private key {key} does not belong to the certificate {cert}", fix)
        case "EE_KEY_TOO_SMALL" | "CA_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK":
            return TlsError(
                "cert", f"the certificate {cert} is too weak for TLS today", "make one with RSA 2048 or P-256"
            )
        case _:
            fix = "name a file with -----BEGIN PRIVATE KEY-----"
            return TlsError("key", f"{key} has no private key in PEM", fix)


def _no_password() -> str:
    raise _Encrypted
