"""Whether a change goes with what is declared: as a whole at a start or a reload, else by its part.

Everything here blocks and changes nothing but what it is given, so that it runs beside the event loop.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sluicegate.config import Config
from sluicegate.model import PacketSource
from sluicegate.running.documents import Desired, Refused, check_bound, declared, desire, local_code, restored
from sluicegate.running.inventory import Inventory, Key
from sluicegate.state import Commit, Decision, Stored, changed


@dataclass(slots=True)
class Judged:
    """What a change leads to, where nothing refuses it. `touched`: the Listeners that it may concern."""

    stored: dict[Key, Stored]
    inventory: Inventory
    desired: Desired
    touched: set[str] | None = None
    """None: all of them."""


def judge_whole(
    config: Config,
    before: Config,
    stored: Mapping[Key, Stored],
    decisions: Mapping[str, Decision],
    commit: Commit,
) -> Judged:
    """What is to run by this file and what is `stored`, after `commit`, which gets the decisions that come with it;
    `before` is the file in force. Raises `Refused`."""
    after = {(one.kind, one.name): one for one in changed(stored.values(), commit)}
    resources = declared(config, after.values())
    sources = {one.name: one for one in resources if isinstance(one, PacketSource)}
    _settle(sources, set(decisions) - set(sources), config, decisions, commit)
    desired = desire(config, resources, decided(decisions, commit))
    # Other `local_code` or `local_networks`: what was declared before must lie in them too.
    same = local_code(config) == local_code(before)
    fresh = commit.put if same else after.values()
    check_bound(config, desired, [restored(one, config) for one in fresh])
    return Judged(after, Inventory(resources), desired)


def judge_part(
    config: Config,
    inventory: Inventory,
    desired: Desired,
    decisions: Mapping[str, Decision],
    commit: Commit,
) -> set[str]:
    """Make a change in `inventory` and `desired`, if it goes with what is there; `commit` gets the decisions that come
    with it. Returns the names of the Listeners that it may concern. Raises `Refused`, and both are of no use then."""
    keys = [*commit.delete, *((one.kind, one.name) for one in commit.put)]
    before = [inventory.resources[key] for key in keys if key in inventory.resources]
    put = [restored(one, config) for one in commit.put]
    for key in commit.delete:
        inventory.remove(key)
        desired.remove(*key)
    for one in put:
        inventory.put(one)
    sources = {one.name: one for one in put if isinstance(one, PacketSource)}
    gone = {name for kind, name in commit.delete if kind == "PacketSource"}
    _settle(sources, gone, config, decisions, commit)
    judged_anew = [inventory.resources["PacketSource", name] for name in commit.decide if name not in gone]
    part = inventory.related(before, [*put, *judged_anew])
    after = decided(decisions, commit)
    try:
        judged = desire(config, part, after)
    except Refused:
        # Judged as a whole, it is refused in words that know all names.
        desire(config, list(inventory.resources.values()), after)
        raise
    check_bound(config, judged, put)
    desired.put(judged)
    left = {one.listener_name for one in before if isinstance(one, PacketSource)}
    return {*judged.listeners, *left, *(name for kind, name in commit.delete if kind == "Listener")}


def decided(decisions: Mapping[str, Decision], commit: Commit) -> dict[str, Decision]:
    """The decisions after `commit`."""
    both = {**decisions, **commit.decide}
    return {name: decision for name, decision in both.items() if decision is not None}


def _settle(
    sources: Mapping[str, PacketSource],
    gone: Collection[str],
    config: Config,
    decisions: Mapping[str, Decision],
    commit: Commit,
) -> None:
    """Approve PacketSources while `require_approval` is off, so that only new ones must ask once it is set; and forget
    what was decided about those that are gone."""
    after = decided(decisions, commit)
    for name, source in sources.items():
        decision = after.get(name)
        listener = source.listener_name
        if not config.gateway.require_approval and (decision is None or decision.listener != listener):
            commit.decide[name] = Decision(listener, "Approved", "require_approval: false")
    commit.decide |= {name: None for name in gone if name in after}
