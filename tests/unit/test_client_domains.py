"""Names of clients are followed: what they admit, when they are asked again, and what is said. Time is simulated."""

import asyncio
import heapq
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from sluicegate.backoff import Backoff
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import Listener
from sluicegate.running import domains as module
from sluicegate.running.domains import Domains
from sluicegate.running.lookup import Answer, Family, LookupFailed

NAME = "device.example.com"
SILENT = LookupFailed("Timeout", "no answer in 5 s from 192.0.2.53 (Timeout)")


class Time:
    """A clock that goes where the test puts it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), future))
        await future

    async def to(self, moment: float) -> None:
        """Everything that is due until then happens, in its order."""
        await settle()
        while self._sleepers and self._sleepers[0][0] <= moment:
            self.now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self.now = moment


async def settle() -> None:
    """What needs no time is done: a look-up takes a few turns of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


class Dns:
    """Answers as it is told; `asked` are the moments and questions."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self.says: dict[tuple[str, Family], Answer | LookupFailed | BaseException] = {}
        self.asked: list[tuple[float, str, Family]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    def set(self, *addresses: str, ttl: float = 60, name: str = NAME) -> None:
        families: Sequence[tuple[Family, int]] = (("A", 4), ("AAAA", 6))
        for family, version in families:
            found = frozenset(ip for one in addresses if (ip := ip_address(one)).version == version)
            self.says[name, family] = Answer(found, ttl, "" if found else "it has no address")

    def gone(self, ttl: float = 3600) -> None:
        for family in module.FAMILIES:
            self.says[NAME, family] = Answer(frozenset(), ttl, "there is no such name")

    def fail(self, *families: Family, name: str = NAME) -> None:
        for family in families or module.FAMILIES:
            self.says[name, family] = SILENT

    async def look_up(self, name: str, family: Family) -> Answer:
        self.asked.append((self._time.now, name, family))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        said = self.says[name, family]
        if isinstance(said, BaseException):
            raise said
        return said

    def moments(self) -> list[float]:
        return [moment for moment, _, family in self.asked if family == "A"]


class Rig:
    def __init__(self) -> None:
        self.time = Time()
        self.dns = Dns(self.time)
        self.sink = MemorySink()
        # Pauses as they are at their longest, answers held for exactly their time.
        self.chance = 0.0
        self.domains = Domains(
            EventLog(self.sink),
            look_up=self.dns.look_up,
            sleep=self.time.sleep,
            pauses=Backoff(10, 60, lambda: self.chance),
        )
        self.changes = 0

    def hold(self, *names: str, owner: object = "one", listener: str = "decoder") -> Listener:
        made = Listener.model_validate({"name": listener, "client_restrictions": {"domains": list(names)}})
        self.domains.hold(owner, made, self._changed)
        return made

    def _changed(self) -> None:
        self.changes += 1

    def told(self, event: str) -> list[dict[str, Any]]:
        return self.sink.named(event)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.domains.close()


async def test_both_families_are_admitted_and_followed_as_their_ttl_says(rig: Rig) -> None:
    rig.dns.set("192.0.2.7", "2001:db8::7", ttl=60)
    listener = rig.hold(NAME)
    assert rig.domains.networks(listener) == []
    await rig.time.to(0)
    assert rig.domains.networks(listener) == ["192.0.2.7/32", "2001:db8::7/128"]
    assert rig.domains.addresses(listener) == {NAME: ["192.0.2.7", "2001:db8::7"]}
    assert rig.domains.problems(listener) == {}
    assert rig.changes == 1
    rig.dns.set("192.0.2.8", ttl=60)
    await rig.time.to(59)
    assert rig.domains.networks(listener) == ["192.0.2.7/32", "2001:db8::7/128"]
    await rig.time.to(60)
    assert rig.domains.networks(listener) == ["192.0.2.8/32"]
    assert rig.changes == 2
    # The same again is no change, in whatever order it comes.
    await rig.time.to(1000)
    assert rig.changes == 2
    first, second = rig.told("DomainResolved")
    assert (first["Listener"], first["Domain"]) == ("decoder", NAME)
    assert first["Addresses"] == ["192.0.2.7", "2001:db8::7"]
    assert second["Addresses"] == ["192.0.2.8"]


async def test_the_last_good_answer_stays_while_the_dns_fails(rig: Rig) -> None:
    rig.dns.set("192.0.2.7", ttl=60)
    listener = rig.hold(NAME)
    await rig.time.to(1)
    rig.dns.fail()
    await rig.time.to(86_400)
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
    (failed,) = rig.told("DomainFailed")
    assert failed["Reason"] == "Timeout"
    assert failed["Detail"].endswith("what it answered last stays admitted")
    assert rig.domains.problems(listener) == {NAME: str(SILENT)}
    # Growing pauses, and never more than a minute.
    first = rig.dns.moments()[1:6]
    assert [b - a for a, b in itertools.pairwise(first)] == [5, 10, 20, 30]
    ((_, stats),) = rig.domains.stats()
    assert stats.failures == stats.lookups - 2 > 0
    rig.dns.set("192.0.2.9", ttl=60)
    await rig.time.to(86_500)
    assert rig.domains.networks(listener) == ["192.0.2.9/32"]
    assert len(rig.told("DomainRecovered")) == 1
    assert rig.domains.problems(listener) == {}
    assert stats.addresses == 1


async def test_one_family_that_fails_keeps_its_own(rig: Rig) -> None:
    rig.dns.set("192.0.2.7", "2001:db8::7", ttl=60)
    listener = rig.hold(NAME)
    await rig.time.to(1)
    rig.dns.set("192.0.2.8", ttl=60)
    rig.dns.fail("AAAA")
    await rig.time.to(61)
    assert rig.domains.networks(listener) == ["192.0.2.8/32", "2001:db8::7/128"]
    assert len(rig.told("DomainFailed")) == 1


async def test_an_answer_is_used_though_the_other_family_never_came(rig: Rig) -> None:
    rig.dns.set("192.0.2.7", ttl=5)
    rig.dns.fail("AAAA")
    listener = rig.hold(NAME)
    await rig.time.to(0)
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
    # The growing pauses of the one that fails do not keep the other from its TTL.
    rig.dns.set("192.0.2.8", ttl=5)
    rig.dns.fail("AAAA")
    await rig.time.to(200)
    assert rig.dns.moments() == [5 * n for n in range(41)]
    assert rig.domains.networks(listener) == ["192.0.2.8/32"]


async def test_a_name_that_is_taken_out_of_the_dns_admits_nobody(rig: Rig) -> None:
    rig.dns.set("192.0.2.7", ttl=60)
    listener = rig.hold(NAME)
    await rig.time.to(1)
    rig.dns.gone()
    await rig.time.to(61)
    assert rig.domains.networks(listener) == []
    assert rig.told("DomainResolved")[-1]["Addresses"] == []
    assert rig.told("DomainResolved")[-1]["Detail"] == "there is no such name"
    assert rig.domains.problems(listener) == {NAME: "there is no such name"}
    assert rig.told("DomainFailed") == []


async def test_a_name_that_comes_later_is_found_within_a_minute(rig: Rig) -> None:
    rig.dns.gone(ttl=3600)
    listener = rig.hold(NAME)
    await rig.time.to(30)
    assert rig.told("DomainResolved")[0]["Addresses"] == []
    rig.dns.set("192.0.2.7")
    await rig.time.to(60)
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
    assert rig.domains.problems(listener) == {}


async def test_a_dns_that_is_silent_from_the_start_admits_nobody(rig: Rig) -> None:
    rig.dns.fail()
    listener = rig.hold(NAME)
    await rig.time.to(3)
    assert rig.domains.networks(listener) == []
    assert rig.changes == 0
    assert rig.told("DomainFailed")[0]["Detail"].endswith("nobody is admitted by this name")
    rig.dns.set("192.0.2.7")
    await rig.time.to(5)
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]


@pytest.mark.parametrize(("ttl", "pause"), [(0, 5), (1, 5), (7, 7), (10_000_000, 3600)])
async def test_ttls_have_a_floor_and_a_ceiling(rig: Rig, ttl: float, pause: float) -> None:
    rig.dns.set("192.0.2.7", ttl=ttl)
    rig.hold(NAME)
    await rig.time.to(pause * 3)
    assert rig.dns.moments() == [0, pause, pause * 2, pause * 3]


async def test_names_of_one_start_do_not_stay_together(rig: Rig) -> None:
    rig.chance = 0.5
    rig.dns.set("192.0.2.7", ttl=60)
    rig.hold(NAME)
    await rig.time.to(64)
    assert rig.dns.moments() == [0, pytest.approx(63)]


async def test_what_no_name_may_admit(rig: Rig) -> None:
    rig.dns.set(
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "10.0.0.7",
        "fd00:ec2::254",
        "ff02::1",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00::7",
        "::1",
    )
    listener = rig.hold(NAME)
    await rig.time.to(0)
    assert rig.domains.networks(listener) == ["10.0.0.7/32", "::1/128", "fd00::7/128"]
    assert "cannot be admitted by a name, list a network" in rig.told("DomainResolved")[0]["Detail"]


async def test_only_so_many_addresses(rig: Rig) -> None:
    rig.dns.set(*(f"192.0.2.{n}" for n in range(1, 101)))
    listener = rig.hold(NAME)
    await rig.time.to(0)
    assert rig.domains.networks(listener) == [f"192.0.2.{n}/32" for n in range(1, 65)]
    assert "36 more are left out" in rig.told("DomainResolved")[0]["Detail"]


async def test_a_name_of_two_listeners_is_looked_up_once_and_told_to_both(rig: Rig) -> None:
    rig.dns.set("192.0.2.7", ttl=60)
    first = rig.hold(NAME)
    second = rig.hold(NAME, owner="two", listener="other")
    await rig.time.to(0)
    assert rig.dns.moments() == [0]
    assert rig.changes == 2
    assert rig.domains.networks(first) == rig.domains.networks(second) == ["192.0.2.7/32"]
    assert [event["Listener"] for event in rig.told("DomainResolved")] == ["decoder", "other"]
    rig.domains.drop("one")
    rig.dns.set("192.0.2.8", ttl=60)
    await rig.time.to(60)
    assert rig.changes == 3


async def test_what_nobody_holds_is_not_looked_up(rig: Rig) -> None:
    other = "other.example.com"
    for name in (NAME, other):
        rig.dns.set("192.0.2.7", ttl=60, name=name)
    rig.hold(NAME, other)
    await rig.time.to(0)
    rig.hold(other)
    await rig.time.to(120)
    assert {name for moment, name, _ in rig.dns.asked if moment > 0} == {other}
    rig.domains.drop("one")
    await rig.time.to(600)
    assert max(moment for moment, _, _ in rig.dns.asked) == 120
    assert rig.domains.stats() == []


async def test_a_change_begins_with_the_first_answers(rig: Rig) -> None:
    rig.dns.set("192.0.2.7")
    listener = Listener.model_validate({"name": "decoder", "client_restrictions": {"domains": [NAME]}})
    async with rig.domains.ahead([listener]):
        assert rig.domains.networks(listener) == ["192.0.2.7/32"]
        rig.hold(NAME)
    # Held on without a new look-up.
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
    assert rig.dns.moments() == [0]
    rig.domains.drop("one")
    with pytest.raises(RuntimeError):
        async with rig.domains.ahead([listener]):
            raise RuntimeError("the change is refused")
    assert rig.domains.stats() == []


async def test_a_change_does_not_wait_long_for_the_dns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.01)
    rig.dns.gate.clear()
    rig.dns.set("192.0.2.7")
    listener = Listener.model_validate({"name": "decoder", "client_restrictions": {"domains": [NAME]}})
    async with rig.domains.ahead([listener]):
        assert rig.domains.networks(listener) == []
        rig.hold(NAME)
    rig.dns.gate.set()
    await rig.time.to(0)
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
    assert rig.changes == 1


async def test_many_names_are_looked_up_a_few_at_a_time(rig: Rig) -> None:
    names = [f"device-{n}.example.com" for n in range(100)]
    for name in names:
        rig.dns.set("192.0.2.7", name=name)
    rig.dns.gate.clear()
    listener = rig.hold(*names)
    await rig.time.to(0)
    rig.dns.gate.set()
    for _ in range(20):
        await rig.time.to(0)
    assert rig.dns.most_at_once == 2 * module.CONCURRENT
    assert len(rig.domains.addresses(listener)) == 100
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
    assert rig.dns.moments() == [0] * 100


def test_who_names_no_client_loads_no_resolver() -> None:
    check = "import sys, sluicegate.gateway; print([name for name in sys.modules if name.startswith('dns.')])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=True).stdout == b"[]\n"


async def test_a_fault_of_ours_ends_no_name(rig: Rig) -> None:
    rig.dns.says = {(NAME, family): ZeroDivisionError() for family in module.FAMILIES}
    listener = rig.hold(NAME)
    await rig.time.to(0)
    rig.dns.set("192.0.2.7")
    await rig.time.to(60)
    assert rig.domains.networks(listener) == ["192.0.2.7/32"]
