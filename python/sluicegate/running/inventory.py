"""All declared resources, and who refers to whom.

A change is judged together with what it has to do with, and with nothing else: everything that is declared fits
together already. Example: a new Listener is judged with the Listeners on its port whose addresses overlap, with those
that declare a Destination that it names, and with the DestinationArns of its Destinations. So one more Listener costs
the same where there are ten others and where there are ten thousand.
"""

from collections.abc import Collection, Iterable, Iterator

from sluicegate.model import DestinationArn, DestinationSpec, Listener, PacketSource, Resource

Key = tuple[str, str]
"""`(kind, name)` of a resource."""
_Link = tuple[str, object]
"""What a resource has to do with, `("declares", "echo")`: resources with the same one are found together."""


class Inventory:
    """Declared resources by kind and name, the file's first, then the API's in the order of their creation."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self.resources: dict[Key, Resource] = {key_of(one): one for one in resources}
        self._order = {key: number for number, key in enumerate(self.resources)}
        self._next = len(self._order)
        linked: dict[_Link, list[Key]] = {}
        for key, one in self.resources.items():
            for link in _links(one):
                linked.setdefault(link, []).append(key)
        self._linked: dict[_Link, tuple[Key, ...]] = {link: tuple(keys) for link, keys in linked.items()}

    def copy(self) -> "Inventory":
        """One that may be changed, while this one stays."""
        other = Inventory()
        other.resources, other._linked = dict(self.resources), dict(self._linked)
        other._order, other._next = dict(self._order), self._next
        return other

    def put(self, resource: Resource) -> None:
        """Declare a resource, in place of what has its name."""
        key = key_of(resource)
        before = self.resources.get(key)
        if before is not None:
            self._unlink(key, before)
        else:
            self._order[key] = self._next = self._next + 1
        self.resources[key] = resource
        for link in _links(resource):
            self._linked[link] = (*self._linked.get(link, ()), key)

    def remove(self, key: Key) -> None:
        """Declare a resource no more, if it is there."""
        before = self.resources.pop(key, None)
        if before is not None:
            self._unlink(key, before)
            del self._order[key]

    def users(self, listener: Listener) -> list[Key]:
        """The resources that need a Listener: others that name its Destinations, its PacketSources, DestinationArns."""
        names = [destination.name for destination in listener.destination_specs]
        found = [*self._with("names", *names), *self._with("sends from", listener.name)]
        return [key for key in [*found, *self._with("binds", *names)] if key != key_of(listener)]

    def related(self, before: Collection[Resource], after: Collection[Resource]) -> list[Resource]:
        """What has to be judged again where resources were these before a change and are others after it, which is made
        here already. In the order of `resources`; those of `after` are among them."""
        found = dict.fromkeys(map(key_of, after))
        for one in [*before, *after]:
            found |= dict.fromkeys(self._near(one))
        gone = {key_of(one) for one in before} - {key_of(one) for one in after}
        for kind, name in gone:
            found |= dict.fromkeys(self._with("sends from", name) if kind == "Listener" else ())
        # What a Listener names must be among them, with everything that belongs to it.
        waiting = list(found)
        while waiting:
            needed = self._needs(self.resources[waiting.pop()])
            waiting += (fresh := [key for key in needed if key not in found])
            found |= dict.fromkeys(fresh)
        return [self.resources[key] for key in sorted(found, key=self._order.__getitem__)]

    def _near(self, resource: Resource) -> Iterator[Key]:
        """The resources that another form of this one, or its end, could no longer go with."""
        if isinstance(resource, Listener):
            names = [destination.name for destination in resource.destination_specs]
            yield from self._with("declares", *names)
            yield from self._with("names", *names)
            yield from self._with("binds", *names)
            yield from self._with("holds", *resource.bind_address().excluded())
        elif isinstance(resource, DestinationArn):
            yield from self._with("declares", resource.destination)
            yield from self._with("names", resource.destination)

    def _needs(self, resource: Resource) -> Iterator[Key]:
        """The resources without which this one cannot be judged."""
        if isinstance(resource, Listener):
            names = list(_destinations(resource))
            yield from self._with("declares", *names)
            yield from self._with("binds", *names)
        elif isinstance(resource, PacketSource):
            key = ("Listener", resource.listener_name)
            yield from [key] if key in self.resources else []

    def _with(self, what: str, *values: object) -> Iterator[Key]:
        for value in values:
            yield from self._linked.get((what, value), ())

    def _unlink(self, key: Key, resource: Resource) -> None:
        for link in _links(resource):
            left = tuple(other for other in self._linked.get(link, ()) if other != key)
            if left:
                self._linked[link] = left
            else:
                self._linked.pop(link, None)


def key_of(resource: Resource) -> Key:
    """`(kind, name)`."""
    return resource.kind(), resource.name  # type: ignore[attr-defined]  # every declared resource has a name


def _links(resource: Resource) -> set[_Link]:
    if isinstance(resource, Listener):
        return {
            *(
                ("declares", entry.name) if isinstance(entry, DestinationSpec) else ("names", entry)
                for entry in resource.destinations
            ),
            *(("holds", slot) for slot in resource.bind_address().held()),
        }
    if isinstance(resource, PacketSource):
        return {("sends from", resource.listener_name)}
    return {("binds", resource.destination)} if isinstance(resource, DestinationArn) else set()


def _destinations(listener: Listener) -> Iterator[str]:
    """The names of all Destinations of a Listener, its own and those of others."""
    for entry in listener.destinations:
        yield entry.name if isinstance(entry, DestinationSpec) else entry
