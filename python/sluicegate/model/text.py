"""How addresses, lists of names, and words that strangers wrote, are shown to people."""

from collections.abc import Collection
from itertools import islice


def endpoint_text(host: str, port: object) -> str:
    """`127.0.0.1:2048` or `[::1]:2048` (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


SOME = 20
"""Names in one sentence."""


def some(names: Collection[str], between: str = ", ") -> str:
    """The first names, and how many more there are: `a, b and 998 more`. There may be thousands."""
    shown = between.join(islice(names, SOME))
    return f"{shown} and {len(names) - SOME} more" if len(names) > SOME else shown


def printable(text: str) -> str:
    """The text with everything that is not printable escaped: a stranger's words must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
