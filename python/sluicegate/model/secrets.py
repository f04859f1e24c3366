"""Secrets of a resource, apart from what may be shown: `dump` leaves them out, the state keeps them sealed."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import SecretStr

from sluicegate.model.base import Path, Resource, pointer
from sluicegate.model.listener import Listener

_R = TypeVar("_R", bound=Resource)


def secrets_of(resource: Resource) -> dict[str, str]:
    """Every secret by its JSON pointer in the PascalCase document: `{"/Peers/0/SharedSecret": "…"}`."""
    return {pointer(type(resource), path): secret for path, secret in _secrets(resource, ())}


def with_secrets(document: dict[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """`document` with each secret at its place; it is changed."""
    for place, secret in secrets.items():
        *way, last = place.lstrip("/").split("/")
        inner: Any = document
        for part in way:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        inner[last] = secret
    return document


def keep_secrets(after: Listener, before: Listener) -> Listener:
    """`after` with the secrets of `before` that it does not mention: what was read has none and may be sent back. Null
    takes one away. A peer is the same if its public key is."""
    peers = {peer.public_key: peer for peer in before.peers}
    kept = [_with_secrets_of(peers.get(peer.public_key), peer) for peer in after.peers]
    return _with_secrets_of(before, after).model_copy(update={"peers": kept})


def _with_secrets_of(before: _R | None, after: _R) -> _R:
    if before is None:
        return after
    kept = {
        name: value
        for name in type(after).model_fields
        if isinstance(value := getattr(before, name), SecretStr) and name not in after.model_fields_set
    }
    return after.model_copy(update=kept)


def _secrets(resource: Resource, path: Path) -> Iterator[tuple[Path, str]]:
    for name in type(resource).model_fields:
        value = getattr(resource, name)
        if isinstance(value, SecretStr):
            yield (*path, name), value.get_secret_value()
        elif isinstance(value, Resource):
            yield from _secrets(value, (*path, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Resource):
                    yield from _secrets(item, (*path, name, index))
