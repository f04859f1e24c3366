"""The resources that are declared, as long as they are declared."""

import pytest

from sluicegate.model import Listener, PacketSource, Resource
from sluicegate.running.inventory import Inventory, key_of


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
