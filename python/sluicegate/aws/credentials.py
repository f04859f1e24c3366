"""Credentials for signing, renewed before they expire and off the event loop."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluicegate.threads import Threads

CHECK_SECONDS = 60.0
"""So often botocore is asked whether its credentials want renewing; it begins 15 minutes before they expire."""
RETRY_SECONDS = 10.0
_SESSION_NAME_LIMIT = 64


@dataclass(frozen=True)
class Role:
    """A role that the gateway assumes, the name of its sessions (see `session_name`), and how long each lasts."""

    arn: str
    session_name: str
    seconds: int = 3600


def session_name(region: str, account: str, purpose: str) -> str:
    """The name of a session that a gateway opens with a role, e.g. `sluicegate-eu-west-1@123456789012-src-replies`.

    CloudTrail shows it to the role's owner. `purpose` is one word of ours and the name of what needs the role. STS
    takes 64 characters; the end of a longer name is left out, and `-` stands for what STS does not take.
    """
    return re.sub(
        r"[^\w+=,.@-]", "-", f"sluicegate-{region}@{account}-{purpose}"[:_SESSION_NAME_LIMIT], flags=re.A
    )


class Keys(NamedTuple):
    """What a signature needs. Never printed."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return f"Keys({self.access_key})"

    def hide_in(self, text: str) -> str:
        """`text` without these secrets."""
        for secret in (self.secret_key, self.token):
            if secret:
                text = text.replace(secret, "***")
        return text


class BadCredentials(Exception):
    """There are credentials, and they cannot be any."""


class Credentials:
    """The credentials of the gateway itself or of one role. `load` gives botocore's credentials object, in a thread."""

    def __init__(self, threads: Threads, load: Callable[[], Any]) -> None:
        self._threads = threads
        self._load_source = load
        self._source: Any = None
        self._keys: Keys | None = None
        self._check_at = 0.0
        self._loading: asyncio.Task[None] | None = None

    async def keys(self) -> Keys:
        """Valid ones; waits for new ones only when there are no others. Raises what loading raises."""
        if self._keys is not None and time.monotonic() < self._check_at:
            return self._keys
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(self._loaded)
        if self._keys is None or self._expired():
            await asyncio.shield(self._loading)
        assert self._keys is not None  # noqa: S101 loading sets it or raises
        return self._keys

    def forget(self, keys: Keys) -> None:
        """Load anew: the service says that `keys` have expired."""
        if self._keys == keys:
            self._keys = self._source = None

    async def close(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    async def _load(self) -> None:
        def load() -> tuple[Any, Keys]:
            source = self._source or self._load_source()
            frozen = source.get_frozen_credentials()  # may call the service that gives them
            keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
            # They go into headers; a line break at the end is what files and secret stores like to add.
            if any(text is not None and (not text.isprintable() or " " in text) for text in keys):
                raise BadCredentials(
                    f"the AWS credentials from {source.method} contain white space; check for a line break at the end"
                )
            return source, keys

        self._source, self._keys = await self._threads.call(load)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        failed = task.cancelled() or task.exception() is not None
        self._check_at = time.monotonic() + (RETRY_SECONDS if failed else CHECK_SECONDS)

    def _expired(self) -> bool:
        # Credentials that do not expire have no such method.
        check = getattr(self._source, "refresh_needed", None)
        return bool(check and check(0))
