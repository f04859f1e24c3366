"""A change that is judged by its part only, against the same change judged as a whole."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from sluicegate.config import Config, load
from sluicegate.model import DestinationArn, Listener, PacketSource, Resource
from sluicegate.model.address import BindAddress, BoundAddresses, parse_bind
from sluicegate.running.documents import Desired, Refused, desire
from sluicegate.running.inventory import Inventory, key_of

TOPIC = {"TopicArn": "arn:aws:sns:us-east-1:000000000000:t"}
HOSTS = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::]", "[::1]", "[::2]"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "gateway.yaml").write_text("region: us-east-1\n")
    return load(tmp_path / "gateway.yaml")


def test_slots_say_what_overlaps_says() -> None:
    addresses = [parse_bind(f"{host}{port}") for host in HOSTS for port in (":1", ":2", "")]
    addresses += [BindAddress(None, port, True) for port in (1, 2, None)]
    for mine, theirs in itertools.product(addresses, addresses):
        assert bool(set(mine.excluded()) & set(theirs.held())) == mine.overlaps(theirs), (mine, theirs)
    bound = BoundAddresses[int]()
    for number, address in enumerate(addresses):
        bound.add(address, number)
    for address in addresses:
        expected = [number for number, other in enumerate(addresses) if address.overlaps(other)]
        assert bound.holders(address) == expected
        assert bound.holder(address) == (expected[0] if expected else None)


class Dice:
    """Small resources that often have to do with each other, and often do not go together."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one_of(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def resource(self) -> Resource:
        match self.one_of("Listener", "Listener", "PacketSource", "DestinationArn"):
            case "Listener":
                named = [self.one_of("d1", "d2", "d3") for _ in range(self.one_of(0, 1, 2))]
                own = {"name": self.one_of("d1", "d2", "d3", "d4"), "destination_arn": "console:"}
                bind = f"{self.one_of(*HOSTS)}{self.one_of('', ':1', ':2')}"
                listed = [*dict.fromkeys(named), *self.one_of([], [own])]
                document = {"name": self.one_of(*"abcdef"), "bind": bind, "destinations": listed}
                return Listener.model_validate(document)
            case "PacketSource":
                document = {"name": self.one_of(*"stu"), "listener_name": self.one_of(*"abcdef")}
                return PacketSource.model_validate(document | {"sns_topic_source": TOPIC})
            case _:
                document = {
                    "destination": self.one_of("d1", "d2"),
                    "ingress_region_key": self.one_of("*", "a"),
                }
                return DestinationArn.model_validate(document | {"arn": self.one_of("console:", "file:x")})


@pytest.mark.parametrize("seed", range(30))
def test_a_part_is_judged_as_the_whole(config: Config, seed: int) -> None:
    dice = Dice(seed)
    inventory, desired = Inventory(), Desired()
    taken = refused = 0
    for _ in range(150):
        changed, wanted = inventory.copy(), desired.copy()
        new = dice.resource()
        key = key_of(new)
        before = [inventory.resources[key]] if key in inventory.resources else []
        after: list[Resource] = []
        if before and dice.one_of(True, False):
            changed.remove(key)
            wanted.remove(*key)
        else:
            changed.put(new)
            after = [new]
        try:
            whole: Desired | None = desire(config, list(changed.resources.values()), {})
        except Refused:
            whole = None
        try:
            part: Desired | None = desire(config, changed.related(before, after), {})
        except Refused:
            part = None
        assert (part is None) == (whole is None)
        if part is None or whole is None:
            refused += 1
            continue
        taken += 1
        wanted.put(part)
        assert wanted == whole
        assert [*wanted.listeners] == [*whole.listeners]
        inventory, desired = changed, wanted
    assert taken > 10
    assert refused > 10


def many(count: int) -> list[Resource]:
    """Listeners on one port, each with a Destination of its own and one of all, and a PacketSource."""
    first = {
        "name": "l0",
        "bind": "127.0.0.1:1",
        "destinations": [{"name": "shared", "destination_arn": "console:"}],
    }
    found: list[Resource] = [Listener.model_validate(first)]
    for number in range(1, count):
        own = {"name": f"d{number}", "destination_arn": "console:"}
        document = {"name": f"l{number}", "bind": address(number), "destinations": ["shared", own]}
        found.append(Listener.model_validate(document))
        source = {"name": f"s{number}", "listener_name": f"l{number % 7}", "sns_topic_source": TOPIC}
        found.append(PacketSource.model_validate(source))
    return found


def address(number: int) -> str:
    return f"127.0.{1 + number // 250}.{1 + number % 250}:1"


@pytest.mark.attack
def test_one_more_has_to_do_with_as_many_where_there_are_a_thousand() -> None:
    sizes = []
    for count in (10, 1000):
        inventory = Inventory(many(count))
        own = {"name": "more-d", "destination_arn": "console:"}
        listener = {"name": "more", "bind": address(count), "destinations": ["shared", own]}
        source = {"name": "more", "listener_name": "l1", "sns_topic_source": TOPIC}
        bound = {"destination": "d3", "ingress_region_key": "*", "arn": "console:"}
        size = []
        for one in (
            Listener.model_validate(listener),
            PacketSource.model_validate(source),
            DestinationArn.model_validate(bound),
        ):
            inventory.put(one)
            size.append(len(inventory.related([], [one])))
        sizes.append(size)
    assert sizes == [[2, 3, 3], [2, 3, 3]]


def entries(inventory: Inventory) -> int:
    return sum(len(held) for held in vars(inventory).values() if isinstance(held, dict))


@pytest.mark.attack
def test_an_inventory_keeps_nothing_of_what_was_removed() -> None:
    inventory = Inventory([Listener.model_validate({"name": "stays"})])
    before = entries(inventory)
    for number in range(100):
        listener = Listener.model_validate({"name": f"l{number}", "destinations": [{"name": f"d{number}"}]})
        topic = {"topic_arn": f"arn:aws:sns:us-east-1:000000000000:t{number}"}
        source = PacketSource.model_validate(
            {"name": f"s{number}", "listener_name": listener.name, "sns_topic_source": topic}
        )
        resources: list[Resource] = [listener, source]
        for one in resources:
            inventory.put(one)
        for one in reversed(resources):
            inventory.remove(key_of(one))
        inventory = inventory.copy()
    assert entries(inventory) == before
