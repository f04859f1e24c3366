"""The addresses of the DNS names that may send to Listeners (contract 1.1, `ClientRestrictions.Domains`).

Theory of operation. A name is followed while a running Listener, or a change under way, holds it. A task for each name
looks it up, calls the holders when its addresses change, sleeps for as long as the answer holds, and begins again.
Packets are compared with the addresses that the native side was given; no packet waits for a look-up.

An answer without addresses counts: whoever removes a name from the DNS removes the permission. If no answer comes, each
address family keeps its last good answer, without a limit, and the name is asked again after growing pauses.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from sluicegate import _native
from sluicegate.backoff import Backoff
from sluicegate.events import EventLog
from sluicegate.faults import log_fault
from sluicegate.model import Listener
from sluicegate.model.address import IPAddress
from sluicegate.running.lookup import FAMILIES, Answer, Family, LookupFailed, look_up

ADDRESS_LIMIT = 64
"""Most addresses of one name; the lowest are used."""
FIRST_SECONDS = 1.0
"""Seconds that a start or a change waits for the first answers."""
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 3600.0
"""Limits, in seconds, of the TTL for which an answer holds."""
LONGEST_NOTHING_SECONDS = 60.0
"""Most seconds for which an answer without addresses holds. So a device that has just got its name is soon admitted."""
PAUSES = Backoff(2 * SHORTEST_SECONDS, 60.0)
"""The pauses between look-ups while the DNS does not answer."""
AT_ONCE = 16
"""Listeners that get new addresses between two turns of the event loop."""
CONCURRENT = 16
"""Most names that are looked up at a time."""

log = structlog.get_logger("sluicegate.domains")


@dataclass(slots=True)
class DomainStats:
    """Look-ups of one name: one of A and one of AAAA each time. `addresses` is how many it has now."""

    lookups: int = 0
    failures: int = 0
    addresses: int = 0


@dataclass(slots=True, eq=False)
class _Followed:
    name: str
    holders: dict[object, "_Holder"] = field(default_factory=dict)
    answers: dict[Family, Answer] = field(default_factory=dict)
    """The last good answer of each address family."""
    addresses: tuple[IPAddress, ...] | None = None
    """None before the first answer."""
    problem: str = ""
    failures: int = 0
    """Times in a row that a family was not answered."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the first look-up has ended."""
    stats: DomainStats = field(default_factory=DomainStats)
    task: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class _Holder:
    listener: str
    changed: Callable[[], None]


class Domains:
    """Follows the names that Listeners hold. Belongs to the event loop; nothing here fails because of the DNS."""

    def __init__(
        self,
        events: EventLog,
        *,
        look_up: Callable[[str, Family], Awaitable[Answer]] = look_up,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        pauses: Backoff = PAUSES,
    ) -> None:
        self._events = events
        self._look_up = look_up
        self._sleep = sleep
        self._pauses = pauses
        self._followed: dict[str, _Followed] = {}
        self._held: dict[object, set[str]] = {}
        """The names that each owner holds; only of owners that hold some."""
        self._turns = asyncio.Semaphore(CONCURRENT)

    def hold(self, owner: object, listener: Listener, changed: Callable[[], None]) -> None:
        """Follow the names of `listener` for `owner`, in place of those that it held before. `changed` is called when
        addresses of these names change."""
        wanted = listener.client_restrictions.domains
        left = self._held.pop(owner, set()) - set(wanted)
        if wanted:
            self._held[owner] = set(wanted)
        for name in wanted:
            one = self._followed.get(name)
            if one is None:
                one = self._followed[name] = _Followed(name)
                one.task = asyncio.create_task(self._follow(one), name=f"domain {name}")
            one.holders[owner] = _Holder(listener.name, changed)
        self._let_go(owner, left)

    def drop(self, owner: object) -> None:
        """Follow no names for `owner` any more."""
        self._let_go(owner, self._held.pop(owner, ()))

    @asynccontextmanager
    async def ahead(self, listeners: Iterable[Listener]) -> AsyncIterator[None]:
        """Hold the names of `listeners` that are going to run, and begin with what is known after `FIRST_SECONDS`."""
        owners = [(object(), listener) for listener in listeners]
        try:
            for owner, listener in owners:
                self.hold(owner, listener, _nothing)
            names = {name for _, listener in owners for name in listener.client_restrictions.domains}
            waiting = [self._followed[name].settled.wait() for name in names]
            try:
                async with asyncio.timeout(FIRST_SECONDS):
                    await asyncio.gather(*waiting)
            except TimeoutError:
                pass
            yield
        finally:
            for owner, _ in owners:
                self.drop(owner)

    def networks(self, listener: Listener) -> list[str]:
        """The present addresses of a Listener's names, each as a network."""
        found = {
            address
            for name in listener.client_restrictions.domains
            if name in self._followed
            for address in self._followed[name].addresses or ()
        }
        return [f"{address}/{address.max_prefixlen}" for address in sorted(found, key=_order)]

    def addresses(self, listener: Listener) -> dict[str, list[str]]:
        """The present addresses of a Listener's names, by name, for people."""
        return {
            name: [str(address) for address in self._followed[name].addresses or ()]
            for name in listener.client_restrictions.domains
            if name in self._followed
        }

    def problems(self, listener: Listener) -> dict[str, str]:
        """The problems of a Listener's names, by name, in words."""
        followed = [self._followed.get(name) for name in listener.client_restrictions.domains]
        return {one.name: one.problem for one in followed if one is not None and one.problem}

    def stats(self) -> list[tuple[str, DomainStats]]:
        """The counters of each name."""
        return [(one.name, one.stats) for one in self._followed.values()]

    async def close(self) -> None:
        """Follow no name any more. The known addresses stay."""
        tasks = [one.task for one in self._followed.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self, owner: object, names: Iterable[str]) -> None:
        for name in names:
            one = self._followed[name]
            one.holders.pop(owner, None)
            if not one.holders:
                del self._followed[name]
                if one.task is not None:
                    one.task.cancel()

    # One name

    async def _follow(self, one: _Followed) -> None:
        while True:
            try:
                seconds = await self._refresh(one)
            except Exception as error:
                log_fault(log, "a name is followed on after a fault", error, domain=one.name)
                seconds = self._pauses.longest
            finally:
                one.settled.set()
            await self._sleep(seconds)

    async def _refresh(self, one: _Followed) -> float:
        """Look a name up and report what is new. Returns the seconds until the next look-up."""
        async with self._turns:
            found = await asyncio.gather(
                *(self._look_up(one.name, family) for family in FAMILIES), return_exceptions=True
            )
        failed: LookupFailed | None = None
        holds = LONGEST_SECONDS
        for family, answer in zip(FAMILIES, found, strict=True):
            one.stats.lookups += 1
            if isinstance(answer, LookupFailed):
                one.stats.failures += 1
                failed = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                one.answers[family] = answer
                holds = min(holds, answer.seconds)
        if len(one.answers) == len(FAMILIES) or any(answer.addresses for answer in one.answers.values()):
            await self._admit(one)
        self._judge(one, failed)
        if not one.addresses:
            holds = min(holds, LONGEST_NOTHING_SECONDS)
        # Never before the answer's time, and not for all names of one start together.
        seconds = self._pauses.spread(max(SHORTEST_SECONDS, holds))
        return seconds if failed is None else min(seconds, self._pauses.pause(one.failures))

    async def _admit(self, one: _Followed) -> None:
        """Use the addresses of the answers, and call the holders if they have changed."""
        given = set().union(*(answer.addresses for answer in one.answers.values()))
        refused = {address for address in given if _never(address)}
        addresses = tuple(sorted(given - refused, key=_order)[:ADDRESS_LIMIT])
        if addresses == one.addresses:
            return
        one.addresses = addresses
        one.stats.addresses = len(addresses)
        for number, (owner, holder) in enumerate(list(one.holders.items()), 1):
            if one.holders.get(owner) is holder:
                holder.changed()
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._tell(
            "DomainResolved",
            one,
            Addresses=[str(address) for address in addresses],
            Detail="; ".join(_left_out(one, refused, len(given) - len(refused) - len(addresses))) or None,
        )

    def _judge(self, one: _Followed, failed: LookupFailed | None) -> None:
        """Report that the DNS fails for a name, or answers again."""
        if failed is not None:
            one.failures += 1
            one.problem = str(failed)
            if one.failures == 1:
                kept = (
                    "what it answered last stays admitted"
                    if one.addresses
                    else "nobody is admitted by this name"
                )
                self._tell("DomainFailed", one, Reason=failed.reason, Detail=f"{failed}; {kept}")
            return
        if one.failures:
            self._tell("DomainRecovered", one)
        one.failures = 0
        one.problem = "" if one.addresses else _why_nobody(one)

    def _tell(self, event: str, one: _Followed, **fields: object) -> None:
        for listener in dict.fromkeys(holder.listener for holder in one.holders.values()):
            self._events.emit(event, Listener=listener, Domain=one.name, **fields)


def _left_out(one: _Followed, refused: set[IPAddress], surplus: int) -> list[str]:
    said = []
    if not one.addresses and not refused:
        said.append(_why_nobody(one))
    if refused:
        listed = ", ".join(str(address) for address in sorted(refused, key=_order)[:5])
        said.append(f"{listed} cannot be admitted by a name, list a network in `networks` if it is meant")
    if surplus:
        said.append(f"{surplus} more are left out: a name gives at most {ADDRESS_LIMIT}")
    return said


def _why_nobody(one: _Followed) -> str:
    found = {answer.nothing for answer in one.answers.values() if answer.nothing}
    return " and ".join(sorted(found)) or "none of its addresses can be admitted by a name"


def _never(address: IPAddress) -> bool:
    """True for an address that no name admits, whoever answers for it: only the machine's own surroundings (metadata
    services) send from there, and answers to it need a network of `networks` that names it (contract 4.4)."""
    special = _native.special_purpose(address)
    return special is not None and not special[1]


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)


def _nothing() -> None:
    pass
