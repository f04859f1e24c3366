"""How addresses, and words that strangers wrote, are shown to people."""


def endpoint_text(host: str, port: object) -> str:
    """`127.0.0.1:2048` or `[::1]:2048` (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """The text with everything that is not printable escaped: a stranger's words must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
