"""How addresses, lists of names, and words that strangers wrote, are shown to people."""

import difflib
from collections.abc import Collection
from itertools import islice


def endpoint_text(host: str, port: object) -> str:
    """`127.0.0.1:2048` or `[::1]:2048` (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_LONGEST = 300
"""Characters of a name that is compared with others."""
_COMPARED = 1000
"""Names that are compared: each takes some microseconds."""
SOME = 20
"""Names in one sentence."""


def some(names: Collection[str], between: str = ", ") -> str:
    """The first names, and how many more there are: `a, b and 998 more`. There may be thousands."""
    shown = between.join(islice(names, SOME))
    return f"{shown} and {len(names) - SOME} more" if len(names) > SOME else shown


def absent(kind: str, name: str, names: Collection[str]) -> str:
    """A sentence for a name that nothing has: `there is no Listener 'a', did you mean 'b'? There are: b, c`."""
    near = difflib.get_close_matches(name[:_LONGEST], islice(names, _COMPARED), n=1)
    meant = f", did you mean {near[0]!r}? There are: " if near else ", there are: "
    return f"there is no {kind} {name!r}{f'{meant}{some(names)}' if names else f', and no {kind} at all'}"


def printable(text: str) -> str:
    """The text with everything that is not printable escaped: a stranger's words must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def without_secrets(target: str) -> str:
    """A target as messages may show it: of a URL its beginning alone, which may hold a password or a token further on.

    >>> without_secrets("htps://user:password@example.com"), without_secrets("fil:packets.ndjson")
    ('htps://…', 'fil:packets.ndjson')
    """
    scheme, slashes, _ = target.partition("/")
    return f"{scheme}//…" if slashes and scheme.endswith(":") else target
