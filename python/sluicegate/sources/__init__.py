"""Where messages come in (contract section 4.2): MessageSources, found by the source kind of a PacketSource."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from sluicegate.entrypoints import NotLoadable, Registry
from sluicegate.faults import failure
from sluicegate.localcode import LocalCode, Outside
from sluicegate.model import Finding, PacketSource, findings
from sluicegate.sources.base import MessageSource, Sender, SourceContext, SourceError

__all__ = ["MessageSource", "Sender", "SourceContext", "SourceError", "check", "create", "kinds"]

_REGISTRY: Registry[MessageSource] = Registry(
    "sluicegate.sources",
    MessageSource,  # type: ignore[type-abstract]  # of which there are subclasses
    {"SnsTopicSource": "sluicegate.sources.topic.source:SnsSource"},
)


def create(resource: PacketSource, context: SourceContext) -> MessageSource | None:
    """Make what takes the messages of a PacketSource; None if nothing is to be taken in its state. No side effects.

    `context.settings` is filled in here. Raises `SourceError`.
    """
    if context.local_code is not None:
        try:
            context.local_code.check_strings(resource.message_source or {}, context.base_dir)
        except Outside as error:
            raise SourceError(error.cause, error.fix) from None
    found = _settings(resource)
    if isinstance(found, list):
        raise SourceError(found[0].cause, found[0].fix)
    kind, settings = found
    made = kind.create(resource, replace(context, settings=settings))
    if made is not None and not isinstance(made, MessageSource):
        raise TypeError(f"create returned {type(made).__name__}, not a MessageSource")
    return made


def check(
    resource: PacketSource, base_dir: Path = Path(), local_code: LocalCode | None = None
) -> list[Finding]:
    """What keeps the source of a PacketSource from being made, with places in the PacketSource; empty if nothing does.

    Without side effects: for every place where a configuration is checked. Paths in the settings begin at `base_dir`,
    and must observe `local_code`.
    """
    if not resource.message_source:
        return []  # an SNS topic is the model's to judge
    if local_code is not None:
        try:
            local_code.check_strings(resource.message_source, base_dir)
        except Outside as error:
            return [Finding(("message_source", resource.source[0]), error.cause, error.fix)]
    found = _settings(resource)
    return found if isinstance(found, list) else []


def kinds() -> list[str]:
    """The source kinds that this installation knows, in PascalCase, sorted."""
    return _REGISTRY.names()


def _settings(resource: PacketSource) -> tuple[type[MessageSource], object] | list[Finding]:
    name, written = resource.source
    path = ("message_source", name)
    if resource.sns_topic_source is not None:
        return _REGISTRY.load(name), written
    known = name.replace("_", "")
    if known not in _REGISTRY:
        cause = f'there is no source kind "{name}" in this installation'
        fix = f"known are {', '.join(kinds())}; install the package that provides it, or correct the name"
        return [Finding(path, cause, fix, on_key=True)]
    try:
        kind = _REGISTRY.load(known)
        return kind, kind.Settings.model_validate(written)
    except NotLoadable as error:
        return [Finding(path, error.cause, error.fix, on_key=True)]
    except ValidationError as error:
        return [one.under(*path) for one in findings(error, kind.Settings)]
    except (Exception, SystemExit) as error:  # code of others, which may raise whatever it likes
        cause = f"the MessageSource for {name!r}, {_REGISTRY.origin(known)}, failed to read this ({failure(error)})"
        return [Finding(path, cause, "report it to those who provide it")]
