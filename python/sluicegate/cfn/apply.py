"""Brings a gateway to what a template says: create, update, replace, delete, or keep.

Resources are made one by one in the template's order, because what comes later may need what the gateway gave to what
came before (a port, names). What the template does not name any more goes last, in reverse order.
"""

import dataclasses
import json
import secrets
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, Protocol

from sluicegate.cfn.provider import PATHS, attributes, identity, pointed, resource_path
from sluicegate.cfn.record import Made, Record, digest
from sluicegate.cfn.stack import Item, Known, Stack
from sluicegate.model import Finding

Action = Literal["create", "update", "replace", "keep", "delete"]
_LENIENT = {"Prefer": "handling=lenient"}
"""Unknown properties are warnings, as for CloudFormation itself."""
LOCAL_CODE = "Sluicegate-Local-Code"
"""The header with the folders in which the code of a document may lie, as a JSON list."""


class ApplyError(Exception):
    """A step could not be done; what was done before stays, and is in the record."""


@dataclasses.dataclass(frozen=True)
class Step:
    """The work on one resource. `item` is None for a delete."""

    action: Action
    logical_id: str
    kind: str
    name: str
    item: Item | None = None
    in_place: bool = False
    """True if the resource exists and stays, changed or not."""
    version: str | None = None
    """The version that the resource must have to be changed; None if any may be overwritten."""


class Gateway(Protocol):
    """The gateway that is changed. `send` answers `(status, JSON)`; it leaves out the header `LOCAL_CODE` where the
    gateway would not take it from us."""

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]: ...

    def create_topic(self, name: str) -> str:
        """Make a local topic, or find it: its ARN. Raises `ApplyError`."""

    def delete_topic(self, arn: str) -> None:
        """Raises `ApplyError`."""


class Applying:
    """One template, one record, one gateway."""

    def __init__(
        self,
        stack: Stack,
        record: Record,
        gateway: Gateway,
        write_code: Callable[[], None],
        *,
        overwrite: bool,
    ) -> None:
        self._stack = stack
        self._record = record
        self._gateway = gateway
        self._write_code = write_code
        self._overwrite = overwrite

    def plan(self) -> Iterator[Step]:
        """The steps that `run` would take. Changes nothing."""
        named = set()
        for item in self._stack.items():
            named.add(item.logical_id)
            yield self._step(item)
        yield from self._deletions(named)

    def run(self) -> Iterator[Step]:
        """Apply the template. Yields each step once it is done. Raises `ApplyError`."""
        named = set()
        for item in self._stack.items():
            named.add(item.logical_id)
            self._write_code()
            step = self._step(item)
            self._do(step, item)
            yield step
        yield from self.remove(named)

    def planned_removal(self) -> Iterator[Step]:
        """The steps that `remove` would take. Changes nothing."""
        return self._deletions(())

    def remove(self, named: Collection[str] = ()) -> Iterator[Step]:
        """Delete what is in the record and not among `named`, newest first."""
        for made in list(self._record.leaving):
            delete(self._gateway, made, self._record.name)
            self._record.left(made)
        for step in self._deletions(named):
            delete(self._gateway, self._record.made[step.logical_id], self._record.name)
            self._record.forget(step.logical_id)
            yield step

    def _step(self, item: Item) -> Step:
        before = self._record.made.get(item.logical_id)
        action = self._action(item, before)
        in_place = action in ("update", "keep") or (action == "replace" and self._moves(item))
        if action == "replace" and not in_place and before and before.id == item.document.get("Name"):
            raise ApplyError(
                f"{item.logical_id}: this change replaces the {item.kind}, and its name {before.id} is taken by "
                "the one that it replaces: change its name too, or apply with --delete first"
            )
        if action in ("create", "replace") and item.kind != "Topic":
            self._refuse_taken(item)
        version = before.version if before and action in ("update", "replace") and in_place else None
        return Step(
            action,
            item.logical_id,
            item.kind,
            item.name,
            item,
            in_place,
            None if self._overwrite else version,
        )

    def _action(self, item: Item, before: Made | None) -> Action:
        if before is None or before.id is None:
            return "create"
        if before.kind != item.kind or dict(before.identity) != _identity(item):
            return "replace"
        if item.kind == "Topic":
            return "keep"
        if not self._exists(before):
            return "create"
        return "keep" if before.digest == digest(item.document) else "update"

    def _exists(self, made: Made) -> bool:
        status, answer = self._gateway.send("GET", resource_path(made.kind, str(made.id)))
        if status not in (200, 404):
            raise ApplyError(f"{made.kind} {made.id} cannot be looked up: {_reason(answer, status)}")
        return status == 200

    def _do(self, step: Step, item: Item) -> None:
        if step.action == "replace" and step.in_place:
            # One change of the gateway's: nothing that is published falls between the old one and the new one.
            self._update(item, step.version)
        elif step.action == "replace":
            self._record.leave(step.logical_id)
            self._create(item)
        elif step.action == "create":
            self._create(item)
        elif step.action == "update":
            self._update(item, step.version)
        made = self._record.made[item.logical_id]
        self._stack.known[item.logical_id] = Known(str(made.id), made.attributes)

    def _moves(self, item: Item) -> bool:
        """True for a PacketSource that goes to another Listener and keeps its name."""
        before = self._record.made[item.logical_id]
        same = before.kind == item.kind == "PacketSource" and before.id == item.document.get("Name")
        return same and self._exists(before)

    def _create(self, item: Item) -> None:
        if item.kind == "Topic":
            arn = self._gateway.create_topic(item.document["Name"])
            self._record.put(item.logical_id, Made("Topic", arn, _identity(item), digest(item.document)))
            return
        pending = self._record.made.get(item.logical_id)
        same = pending is not None and pending.id is None and pending.digest == digest(item.document)
        key = pending.key if pending is not None and same and pending.key else secrets.token_hex(16)
        # Before the request: should its answer be lost, the next apply repeats it under the same key.
        self._record.put(
            item.logical_id, Made(item.kind, None, _identity(item), digest(item.document), key=key)
        )
        status, answer = self._gateway.send(
            "POST",
            PATHS[item.kind],
            item.document,
            {"Idempotency-Key": key, **_LENIENT, **code_header(self._stack.folders)},
        )
        if status >= 400:
            self._record.forget(item.logical_id)
            raise ApplyError(self._refused(item, "create", answer, status))
        self._keep(item, answer)

    def _refuse_taken(self, item: Item) -> None:
        """What goes at the end may not be taken for what is made now."""
        for other, made in self._record.made.items():
            if (
                other != item.logical_id
                and made.kind == item.kind
                and made.id == item.document.get("Name", "")
            ):
                raise ApplyError(
                    f"{item.logical_id} cannot be made: {other} of this stack has the name {made.id}; choose another "
                    f"name, or apply without {item.logical_id} first"
                )

    def _update(self, item: Item, version: str | None) -> None:
        before = self._record.made[item.logical_id]
        headers = {**_LENIENT, **code_header(self._stack.folders)}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        status, answer = self._gateway.send(
            "PUT", resource_path(item.kind, str(before.id)), item.document, headers
        )
        if status == 412:
            raise ApplyError(
                f"{item.logical_id}: somebody changed {before.id} since the last apply; "
                "--overwrite takes the template's"
            )
        if status >= 400:
            raise ApplyError(self._refused(item, "update", answer, status))
        self._keep(item, answer)

    def _refused(self, item: Item, action: Action, answer: Any, status: int) -> str:
        step = Step(action, item.logical_id, item.kind, item.name, item)
        return refusals(self._stack, answer, status, {(item.kind, item.name): step}, step)

    def _keep(self, item: Item, answer: Any) -> None:
        if not isinstance(answer, dict) or "Id" not in answer:
            raise ApplyError(f"{item.logical_id}: the gateway answered, but not as one of this version")
        made = Made(
            item.kind,
            answer["Id"],
            _identity(item),
            digest(item.document),
            answer.get("Version"),
            attributes(item.kind, answer),
        )
        self._record.put(item.logical_id, made)
        if answer.get("State") == "PendingApproval":
            approve = shlex.join(["sluicegate", "sources", "approve", str(made.id)])
            text = f"it sends nothing until an operator approves it: {approve}"
            self._stack.warn(item.logical_id, text)
        for warning in answer.get("Warnings") or []:
            self._stack.warn(item.logical_id, warning)

    def _deletions(self, named: Collection[str]) -> Iterator[Step]:
        for logical_id, made in reversed(list(self._record.made.items())):
            if logical_id not in named:
                yield Step("delete", logical_id, made.kind, made.id or "")


def code_header(folders: Collection[str]) -> dict[str, str]:
    """The header that lets the code of a document lie in these folders."""
    return {LOCAL_CODE: json.dumps(list(folders))}


_CANNOT = {"create": "made", "replace": "made", "update": "changed", "keep": "changed", "delete": "deleted"}


def refusals(
    stack: Stack,
    answer: Any,
    status: int,
    steps: Mapping[tuple[str, str], Step],
    only: Step | None = None,
) -> str:
    """What a gateway refused, one line for each reason, with the place in the template.

    `steps` by `(kind, name)` says what is meant; `only` is meant where nothing in `steps` is.
    """
    errors = answer.get("Errors") if isinstance(answer, dict) else None
    lines = []
    for error in errors or [{"Cause": _reason(answer, status)}]:
        kind, _, name = str(error.get("Resource", "")).partition(" ")
        step = steps.get((kind, name), only)
        cause = str(error["Cause"])
        pointer = str(error.get("Pointer", ""))
        if step is not None:
            what = pointed(step.item.document, pointer) if step.item is not None else ""
            cause = f"{step.logical_id} cannot be {_CANNOT[step.action]}: {what}{cause}"
        found = Finding((), cause, _fix(str(error.get("Fix", "")), step, pointer, stack.name))
        if step is not None and step.action != "delete":
            found = stack.located(found, step.logical_id, pointer)
        lines.append(str(found))
    return "\n".join(lines)


def _fix(fix: str, step: Step | None, pointer: str, stack: str) -> str:
    """The next step; for a name that was made of the stack's and is taken, also another name of the stack."""
    taken = step is not None and step.action in ("create", "replace") and pointer == "/Name"
    if step is None or not taken or not step.name.startswith(f"{stack}-"):
        return fix
    return f"{fix}; or, if another stack called {stack} made it, name this one with --stack NAME"


def delete(gateway: Gateway, made: Made, stack: str) -> None:
    """Delete one resource; one that is gone already is fine. Raises `ApplyError`."""
    if made.kind == "Topic":
        gateway.delete_topic(str(made.id))
        return
    if made.id is None:
        # Perhaps it was made, perhaps not: what has a name that is no other's is looked for.
        name = made.identity.get("Name")
        if not isinstance(name, str) or not name.startswith(f"{stack}-"):
            return
        made = dataclasses.replace(made, id=name)
    status, answer = gateway.send("DELETE", resource_path(made.kind, str(made.id)))
    if status >= 400 and status != 404:
        raise ApplyError(f"the {made.kind} {made.id} cannot be deleted: {_reason(answer, status)}")


def _identity(item: Item) -> dict[str, Any]:
    return {"Name": item.document["Name"]} if item.kind == "Topic" else identity(item.kind, item.document)


def _reason(answer: Any, status: int) -> str:
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return detail if isinstance(detail, str) else f"HTTP {status}"
