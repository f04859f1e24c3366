"""A look-up in the DNS: the addresses of a name, and for how long they hold (RFC 1035).

`dnspython` is imported with the first look-up: only a Listener with `Domains` needs it. It asks over TCP where an
answer was cut, and takes the shortest TTL of a chain of CNAMEs (RFC 1034, section 3.6.2) and of what is not there
(RFC 2308, section 5).
"""

import asyncio
import importlib
import ipaddress
import sys
from dataclasses import dataclass
from typing import Any, Literal

from sluicegate.model.address import IPAddress

Family = Literal["A", "AAAA"]
FAMILIES: tuple[Family, ...] = ("A", "AAAA")

LOOKUP_SECONDS = 5.0
"""For all name servers and repeats of one look-up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the DNS, which holds for `seconds`. Without addresses `nothing` says why; otherwise it is empty."""

    addresses: frozenset[IPAddress]
    seconds: float
    nothing: str = ""


class LookupFailed(Exception):
    """The DNS has not answered: nothing is known about the name. `reason` is of an event, the message for people."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason


async def look_up(name: str, family: Family) -> Answer:
    """Ask the name servers of `/etc/resolv.conf`, as it is now. Raises `LookupFailed`.

    `name` is a whole name: search lists and `/etc/hosts` say nothing about it.
    """
    if "dns.asyncresolver" not in sys.modules:
        await asyncio.to_thread(importlib.import_module, "dns.asyncresolver")
    from dns.exception import DNSException
    from dns.resolver import NXDOMAIN, LifetimeTimeout, NoNameservers, NoResolverConfiguration

    try:
        return await _ask(name, family)
    except NXDOMAIN as error:
        (response,) = error.kwargs["responses"].values()
        seconds = response.resolve_chaining().minimum_ttl
        return Answer(frozenset(), seconds, "there is no such name")
    except NoResolverConfiguration:
        cause = "/etc/resolv.conf names no name server: add a `nameserver` line"
        raise LookupFailed("NoNameServer", cause) from None
    except LifetimeTimeout as error:
        cause = f"no answer in {LOOKUP_SECONDS:g} s from {_servers(error)}"
        raise LookupFailed("Timeout", cause) from None
    except NoNameservers as error:
        raise LookupFailed("ServerFailure", f"no usable answer from {_servers(error)}") from None
    except (OSError, DNSException) as error:
        raise LookupFailed("ServerFailure", f"the answer cannot be used ({type(error).__name__})") from None


async def _ask(name: str, family: Family) -> Answer:
    from dns.asyncresolver import Resolver

    # Made each time: the file is read then, and a machine may come to other name servers.
    resolver = Resolver()
    answer = await resolver.resolve(
        f"{name}.", family, search=False, raise_on_no_answer=False, lifetime=LOOKUP_SECONDS
    )
    chain = answer.chaining_result
    addresses = frozenset(_canonical(record.address) for record in chain.answer or ())
    return Answer(addresses, chain.minimum_ttl, "" if addresses else "it has no address")


def _canonical(text: str) -> IPAddress:
    """As the packets of such a client show it: IPv4 in IPv6 (RFC 4291, section 2.5.5.2) is IPv4."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _servers(error: Any) -> str:
    """Whom a look-up has asked, with what they said: `192.0.2.53 (SERVFAIL)`."""
    asked: dict[str, None] = {}
    for server, _, _, said, response in error.kwargs.get("errors", ()):
        # As the library writes it: `Do53:192.0.2.53@53`.
        asked[f"{str(server).removeprefix('Do53:').removesuffix('@53')} ({_said(said, response)})"] = None
    return ", ".join(asked) or "the name servers of /etc/resolv.conf"


def _said(said: object, response: Any) -> str:
    if response is None:
        return type(said).__name__
    import dns.rcode

    return dns.rcode.to_text(response.rcode())
