"""Who may do what at the SNS endpoint on loopback, where publishers sign with whatever they have (contract 8)."""

import shlex
from collections.abc import Callable

from starlette.types import Scope

from sluicegate.http.auth import Access, allows
from sluicegate.sources.local.endpoint import Authorize
from sluicegate.sources.local.signature import action_scope
from sluicegate.sources.local.xml import SnsError
from sluicegate.state.keys import KeyScope

_NOBODYS = ("IncompleteSignature", "InvalidClientTokenId", "MissingAuthenticationToken")
"""SNS's errors for a request without an access key of this gateway."""


class LocalAccess:
    """What `access` includes is done without a look at the signature; the rest needs one that `signed` takes.

    `file` is the configuration, for the advice in a refusal.
    """

    def __init__(self, access: Access, signed: Authorize, file: str) -> None:
        self._access = access
        self._signed = signed
        self._file = file

    def __call__(self, scope: Scope) -> Callable[[bytes], Callable[[str], bool]]:
        """Who sent this request? The answer, given the body, tells of each action whether they may do it. Raises
        `SnsError`: at once where nothing is done without a signature."""
        if self._access != "none":
            return lambda body: lambda action: self._includes(action) or self._signs(scope, body, action)
        try:
            return self._signed(scope)
        except SnsError as error:
            if error.code not in _NOBODYS:
                raise
            raise self._refused("any action", "publish") from None

    def _includes(self, action: str) -> bool:
        # Whoever may publish may make a topic: publishers of SNS do so at their start.
        needed: KeyScope = "publish" if action == "CreateTopic" else action_scope(action)
        return allows(self._access, needed)

    def _signs(self, scope: Scope, body: bytes, action: str) -> bool:
        try:
            return self._signed(scope)(body)(action)
        except SnsError as error:
            if error.code not in _NOBODYS:
                raise
            raise self._refused(f"SNS:{action}", action_scope(action)) from None

    def _refused(self, what: str, scope: KeyScope) -> SnsError:
        create = shlex.join(["sluicegate", "keys", "create", self._file, "--name", "NAME", "--scope", scope])
        message = (
            f"{what} needs an access key of this gateway (sns.local_access: {self._access}): sign with one of "
            f"`{create} --sns`"
        )
        return SnsError("AuthorizationError", message, 403)
