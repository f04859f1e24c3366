"""Sentences for validation errors: users read the cause and the next step, never pydantic's own text."""

import dataclasses
import datetime
import difflib
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sluicegate.model.base import Finding, Path, Resource
from sluicegate.model.support import LATER_VALUES
from sluicegate.model.text import some

LONGEST = 1200
"""Characters of one finding: what is longer was not written by hand."""
LONGEST_KEY = 100
"""Characters of a key that was meant as another one."""
SUGGESTIONS = 100
"""Findings of one document that say which key may have been meant: each takes about half a millisecond."""

_PLACEHOLDER = re.compile(r"\$\{?\w|\{\{")

_Sentence = Callable[[str, dict[str, Any], Any], tuple[str, str]]


def _must(what: str, fix: str) -> _Sentence:
    return lambda key, context, value: (f"{key} must be {what}{_instead(value)}", _written_out(fix, value))


def _written_out(fix: str, value: Any) -> str:
    """The next step, where a value was to be put in by something else."""
    if isinstance(value, str) and _PLACEHOLDER.search(value):
        return f"{fix}; placeholders such as ${{NAME}} are not replaced"
    return fix


def _bound(words: str, name: str) -> _Sentence:
    return lambda key, context, value: (
        f"{key} must be {words} {context[name]:g}{_instead(value)}",
        "change the number",
    )


_WHOLE = _must("a whole number", "write digits only, for example 10")
_NUMBER = _must("a number", "write it like 10 or 0.5")
_BOOLEAN = _must("true or false", "write true or false")
_SENTENCES: dict[str, _Sentence] = {
    "bool_parsing": _BOOLEAN,
    "bool_type": _BOOLEAN,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "int_type": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    # No value here: a secret is text too.
    "string_type": lambda key, context, value: (f"{key} must be text", "put the value in quotes"),
    "string_too_short": lambda key, context, value: (f"{key} is empty", "write a value or leave the key out"),
    "list_type": _must("a list", "write one item per line, each after `- `"),
    "literal_error": lambda key, context, value: (
        f"{key} cannot be {_shown(value)}",
        f"use one of: {', '.join(_offered(context['expected']))}",
    ),
}


def findings(error: ValidationError, model: type[Resource], written: Any = None) -> list[Finding]:
    """Every error of a document of class `model`, in pydantic's order (that of the fields). The sentences name fields
    as the document `written` does: in PascalCase if it does so."""
    found = [
        _shortened(_finding(details, model, suggest=number < SUGGESTIONS))
        for number, details in enumerate(error.errors(include_url=False))
    ]
    if isinstance(written, Mapping) and any(isinstance(key, str) and key[:1].isupper() for key in written):
        return [_in_pascal_case(one, model) for one in found]
    return found


def _in_pascal_case(found: Finding, model: type[Resource]) -> Finding:
    """The finding with the names of fields as the API and CloudFormation spell them."""
    names = _aliases(model)

    def written(match: re.Match[str]) -> str:
        return f"`{names.get(match[1], match[1])}{match[2]}"

    cause, fix = (re.sub(r"`([a-z_]+)(`|: )", written, text) for text in (found.cause, found.fix))
    return dataclasses.replace(found, cause=cause, fix=fix)


@cache
def _aliases(model: type[Resource]) -> Mapping[str, str]:
    """Every field of a resource and of the objects inside → its name in PascalCase."""
    found: dict[str, str] = {}
    waiting, seen = [model], {model}
    while waiting:
        one = waiting.pop()
        found |= {name: field.alias for name, field in one.model_fields.items() if field.alias}
        inside = {inner for name in one.model_fields if (inner := one.child(name)) is not None} - seen
        seen |= inside
        waiting += inside
    return found


def _shortened(found: Finding) -> Finding:
    """A value may be megabytes long."""
    if len(found.cause) + len(found.fix) <= LONGEST:
        return found
    cause, fix = _cut(found.cause, LONGEST // 2), _cut(found.fix, LONGEST // 2)
    return dataclasses.replace(found, cause=cause, fix=fix)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def _finding(details: ErrorDetails, model: type[Resource], suggest: bool) -> Finding:
    path: Path = details["loc"]
    context = details.get("ctx", {})
    kind = details["type"]
    if kind == "invalid":
        return Finding(path, **{**context, "fix": _written_out(context["fix"], details["input"])})
    if kind == "extra_forbidden":
        return _unknown_key(path, model, suggest)
    if kind == "invalid_key":
        return Finding(path, "this key is not text", "put it in quotes or remove it", on_key=True)
    if kind == "missing":
        return Finding(path, f"`{path[-1]}` is missing", f"add `{path[-1]}: …`")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Finding(path, *_mapping_expected(path, model, details["input"]))
    sentence = _SENTENCES.get(kind)
    if sentence is None:
        return Finding(path, f"{_key(path)} is not valid here", "compare with `sluicegate schema`")
    return Finding(path, *sentence(_key(path), context, details["input"]))


def _mapping_expected(path: Path, model: type[Resource], value: Any) -> tuple[str, str]:
    """A value stands where the keys of a resource were to come."""
    owner = _inside(path, model)
    names = [f"`{name}`" for name in owner.model_fields] if owner is not None else []
    below = (
        f"write its keys below it, indented: {some(names[:8])}"
        if names
        else "write `key: value` lines below it"
    )
    optional = value is False and owner is not None
    fix = f"{below}; or leave it out" if optional else below
    return f"{_key(path)} must be a mapping{_instead(value)}", fix


def _inside(path: Path, model: type[Resource]) -> type[Resource] | None:
    """The class of the resource at `path`; None where there is none."""
    found: type[Resource] | None = model
    for part in path:
        if isinstance(part, str) and found is not None:
            found = found.child(part)
    return found


def _offered(expected: str) -> list[str]:
    """The values of a choice that this version can do, as pydantic lists them: `'udp', 'wg' or 'dtls'`."""
    return [one for one in re.findall(r"'([^']*)'", expected) if one not in LATER_VALUES]


def _unknown_key(path: Path, model: type[Resource], suggest: bool) -> Finding:
    owner = _owner(path[:-1], model)
    key = str(path[-1])
    cause = f"unknown key `{key}`"
    if not suggest or len(key) > LONGEST_KEY:
        return Finding(
            path, _cut(cause, LONGEST // 2), "remove it, or compare with `sluicegate schema`", on_key=True
        )
    # Suggested as the user writes: `ListenerNme` was to be `ListenerName`, and `listener_nme` `listener_name`.
    spellings = [one for one in owner.spellings() if one[:1].isupper() == key[:1].isupper()]
    lowered = {spelling.lower(): spelling for spelling in reversed(spellings)}
    near = difflib.get_close_matches(key.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return Finding(path, cause, f"did you mean `{lowered[near[0]]}`?", on_key=True)
    names = [field.alias or name if key[:1].isupper() else name for name, field in owner.model_fields.items()]
    return Finding(path, cause, f"the keys here are: {', '.join(names)}", on_key=True)


def _owner(path: Path, model: type[Resource]) -> type[Resource]:
    for part in path:
        if isinstance(part, str):
            model = model.child(part) or model
    return model


def _key(path: Path) -> str:
    """The last field name of a path; an item of a list is named by its list."""
    if not path:
        return "the document"
    if isinstance(path[-1], int):
        names = [part for part in path if isinstance(part, str)]
        return f"item {path[-1] + 1} of `{names[-1]}`" if names else f"item {path[-1] + 1}"
    return f"`{path[-1]}`"


def _shown(value: Any) -> str:
    """A value as it may be written in YAML."""
    if isinstance(value, str):
        return f'"{value[:60]}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    return str(value) if isinstance(value, int | float) else f"a {_kind(value)}"


def _instead(value: Any) -> str:
    return f", not {_shown(value)}"


def _kind(value: Any) -> str:
    kinds = {dict: "mapping", list: "list", datetime.date: "date", datetime.datetime: "time"}
    return kinds.get(type(value), "value of another kind")
