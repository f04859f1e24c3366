"""WireGuard's public keys as texts: which are keys, which belong to somebody, and which are one key (RFC 7748)."""

import base64
import binascii
from collections.abc import Iterable

from sluicegate import _native
from sluicegate.model.base import Finding, Path

_PRIME = 2**255 - 19
_IGNORED = 2**255
"""The bit that X25519 leaves out."""


def is_key(text: str) -> bool:
    """True for 32 bytes in base64, as WireGuard's programs write keys."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    # A second spelling of the same bytes would be a second name of one peer.
    return len(raw) == 32 and base64.b64encode(raw).decode() == text


def canonical(key: object) -> object:
    """The key as `wg pubkey` prints it. What is no key, or belongs to nobody, stays as it is."""
    if not isinstance(key, str) or not is_key(key):
        return key
    return _native.canonical_public_key(key) or key


def spellings(key: str) -> list[str]:
    """All texts that X25519 reads as this key: two, or four of a very small number."""
    number = int.from_bytes(base64.b64decode(key), "little") % _IGNORED % _PRIME
    numbers = [one for one in (number, number + _PRIME) if one < _IGNORED]
    wide = [one + bit for one in numbers for bit in (0, _IGNORED)]
    return [base64.b64encode(one.to_bytes(32, "little")).decode() for one in wide]


def own_key_among(keys: Iterable[tuple[Path, object]], own: str) -> Finding | None:
    """What is wrong where one of these keys, each at its path, is the Listener's own; None where none is."""
    for path, key in keys:
        if canonical(key) == own:
            return Finding(
                path,
                "this is the public key of the Listener itself",
                "use the key that `wg pubkey` prints of the private key of the peer",
            )
    return None
