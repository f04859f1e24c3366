"""DNS names of clients, as users write them (RFC 1035, section 2.3.4; internationalised ones RFC 5891)."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from sluicegate.model.base import invalid

DOMAIN_LIMIT = 100
"""Names of one Listener. Each has its own look-ups, and each of its addresses is compared with a packet's."""

_NAME_LENGTH, _LABEL_LENGTH = 253, 63
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_ALL_DIGITS = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_EXAMPLE = "use an exact name such as device.example.com"


def _domain(text: str) -> str:
    """The name in lower case, as A-labels, without a trailing dot."""
    if "*" in text:
        raise invalid(
            f'"{text}" is a wildcard, and names are resolved to addresses one by one',
            "list each name, or use `networks`",
        )
    if _is_network(text):
        raise invalid(f'"{text}" is an address, not a name', "list it in `networks`")
    name = _ascii(text).removesuffix(".").lower()
    if len(name) > _NAME_LENGTH:
        raise invalid(f'"{name[:60]}…" has {len(name)} characters', f"a DNS name has at most {_NAME_LENGTH}")
    labels = name.split(".")
    for label in labels:
        if len(label) > _LABEL_LENGTH:
            cause = f'"{label[:60]}…" between two dots has {len(label)} characters'
            raise invalid(cause, f"a part of a DNS name has at most {_LABEL_LENGTH}")
        if not _LABEL.fullmatch(label):
            raise invalid(f'"{text}" is not a DNS name', _EXAMPLE)
    # What programs read as an IPv4 address in another spelling (RFC 3696, section 2: no such top-level domain).
    if _ALL_DIGITS.fullmatch(labels[-1]):
        raise invalid(f'"{text}" ends in a number, so it is no DNS name', "list addresses in `networks`")
    return name


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return False
    return True


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    import idna  # here: its tables are large, and few names need them

    try:
        return idna.encode(text, uts46=True).decode()
    except idna.IDNAError:
        raise invalid(f'"{text}" is not an internationalised DNS name', _EXAMPLE) from None


def _each_once(names: list[str]) -> list[str]:
    if len(names) > DOMAIN_LIMIT:
        raise invalid(
            f"{len(names)} names are listed", f"list at most {DOMAIN_LIMIT}, or use `networks` for the rest"
        )
    return list(dict.fromkeys(names))


Domains = Annotated[
    list[Annotated[str, AfterValidator(_domain)]],
    AfterValidator(_each_once),
    Field(json_schema_extra={"maxItems": DOMAIN_LIMIT}),
]
"""Exact names, each once, in the form that is looked up."""
