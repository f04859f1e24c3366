"""What a gateway would say to all steps of a plan, without making any: `sluicegate apply --dry-run`.

The gateway checks the documents as it would when they came one by one (`POST /v1/check`). Two things are not there yet,
and stand in for what will be: inline code lies in a scratch folder meanwhile, and what is known only after a resource
was made (another Listener's key) is left out.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluicegate.cfn.apply import ApplyError, Gateway, Step, code_header, refusals
from sluicegate.cfn.stack import LATER, Stack
from sluicegate.sources.local.topics import InvalidTopic, check_name


def check(gateway: Gateway, stack: Stack, steps: Sequence[Step]) -> None:
    """Raises `ApplyError` with everything that the gateway would refuse. Its warnings become the stack's."""
    for step in steps:
        if step.kind == "Topic" and step.action == "create":
            try:
                check_name(step.name)
            except InvalidTopic as error:
                raise ApplyError(f"CreateTopic was refused: Invalid parameter: {error}") from None
    asked = [step for step in steps if step.kind != "Topic" and step.action != "keep"]
    with tempfile.TemporaryDirectory(prefix="sluicegate-") as scratch:
        made = str(stack.made_dir)
        for file, text in stack.code.items():
            there = Path(str(file).replace(made, scratch, 1))
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(text)
        changes = json.dumps([_change(step) for step in asked])
        body = {"Changes": json.loads(changes.replace(json.dumps(made)[1:-1], json.dumps(scratch)[1:-1]))}
        headers = code_header([scratch, *stack.folders])
        status, answer = gateway.send("POST", "/v1/check", body, headers)
        answer = json.loads(json.dumps(answer).replace(scratch, made))
    if status == 404:
        raise ApplyError("this gateway is of an older version, which cannot check a plan: update it")
    if status >= 400:
        raise ApplyError(refusals(stack, answer, status, {(step.kind, step.name): step for step in asked}))
    for step, warnings in zip(asked, answer["Warnings"], strict=True):
        for warning in warnings if step.action != "delete" else ():
            stack.warn(step.logical_id, warning)


def _change(step: Step) -> dict[str, Any]:
    action = "Delete" if step.action == "delete" else "Replace" if step.in_place else "Create"
    change: dict[str, Any] = {"Action": action, "Kind": step.kind, "Name": step.name}
    if step.version is not None:
        change["Version"] = step.version
    if step.item is not None:
        change["Document"] = _known(step.item.document)
    return change


def _known(document: dict[str, Any]) -> dict[str, Any]:
    """A document without what is known later: a `Bind`, or the key of a peer."""
    known = {key: value for key, value in document.items() if not (isinstance(value, str) and LATER in value)}
    if isinstance(known.get("Peers"), list):
        known["Peers"] = [peer for peer in known["Peers"] if LATER not in json.dumps(peer)]
    return known
