"""The values of a template: parameters, conditions, mappings and intrinsic functions, as CloudFormation gives them.

A value is resolved when it is asked for. So a function that this machine cannot resolve is an error only where a
resource depends on it.
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from sluicegate.cfn.parameters import Parameters
from sluicegate.cfn.reader import Items, Map, Place
from sluicegate.cfn.template import Template, TemplateError
from sluicegate.config.yamlfile import YamlError

_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")
_DYNAMIC = re.compile(r"\{\{resolve:([a-z-]+):([^}]*)\}\}")


class Given(str):
    """Text that comes from resources of the template; `of` has their logical ids. Join, Sub and Select keep them."""

    __slots__ = ("of",)
    of: frozenset[str]

    def __new__(cls, text: str, of: Iterable[str]) -> "Given":
        new = super().__new__(cls, text)
        new.of = frozenset(of)
        return new


def origins(value: Any) -> frozenset[str]:
    """The resources of the template that a value comes from, anywhere inside of it."""
    if isinstance(value, Given):
        return value.of
    if isinstance(value, Mapping):
        return frozenset().union(*map(origins, value.values()))
    if isinstance(value, list):
        return frozenset().union(*map(origins, value))
    return frozenset()


class References(Protocol):
    """The values of resources. Both methods raise `LookupError` with cause and fix for a value that does not exist."""

    def ref(self, logical_id: str) -> str:
        """The value of `Ref` for a resource."""

    def attribute(self, logical_id: str, name: str) -> str | list[str]:
        """The value of `Fn::GetAtt` for an attribute of a resource."""


class _NoValue:
    """`AWS::NoValue`: a property or list item with this value is left out."""


NO_VALUE = _NoValue()

Include = Callable[[str], Map]
"""The content behind the location of an `AWS::Include`. Raises `LookupError` or `YamlError`."""


class Resolver:
    """Resolves the values of one template. Raises `TemplateError`, with the place, for one that this machine lacks."""

    def __init__(
        self,
        template: Template,
        parameters: Parameters,
        pseudo: Mapping[str, str],
        references: References,
        include: Include,
    ) -> None:
        self._template = template
        self._parameters = parameters
        self._pseudo = pseudo
        self._references = references
        self._include = include
        self._conditions: dict[str, bool | None] = {}
        self._functions: dict[str, Callable[[Any, Place], Any]] = {
            "Ref": self._ref,
            "Fn::Base64": self._base64,
            "Fn::FindInMap": self._find_in_map,
            "Fn::GetAtt": self._get_att,
            "Fn::If": self._if,
            "Fn::Join": self._join,
            "Fn::Select": self._select,
            "Fn::Split": self._split,
            "Fn::Sub": self._sub,
        }

    def value(self, raw: Any, place: Place) -> Any:
        """`raw` with everything in it resolved: text, a list or a mapping. `NO_VALUE` if it is to be left out."""
        if isinstance(raw, Items):
            items = (self.value(item, at) for item, at in zip(raw, raw.places, strict=True))
            return [item for item in items if item is not NO_VALUE and item is not None]
        if isinstance(raw, Map):
            return self._mapping(raw)
        if isinstance(raw, str) and (dynamic := _DYNAMIC.search(raw)):
            cause = f"{dynamic[0]} is read from AWS ({dynamic[1]})"
            raise self._refused(place, cause, "use a parameter, and give its value with --parameter")
        return raw

    def chosen(self, raw: Any) -> Any:
        """`raw`, or the branch that an Fn::If in its place chooses, unresolved. `NO_VALUE` if it is to be left out."""
        while isinstance(raw, Map) and len(raw) == 1 and "Fn::If" in raw:
            branches = raw["Fn::If"]
            raw = branches[self._branch(branches, raw.places["Fn::If"])]
        is_none = isinstance(raw, Map) and raw.get("Ref") == "AWS::NoValue"
        return NO_VALUE if is_none else raw

    def properties(self, raw: Map) -> dict[str, Any]:
        """The properties of a resource, resolved."""
        resolved = self._mapping(raw)
        if not isinstance(resolved, dict):
            raise self._refused(raw.place, "properties are not a mapping", "write `key: value` lines")
        return resolved

    def holds(self, name: str | None, place: Place) -> bool:
        """True if the condition `name` is true, or if there is none (None)."""
        if name is None:
            return True
        known = self._conditions.get(name)
        if known is not None:
            return known
        if name not in self._template.conditions:
            raise self._refused(place, f"there is no condition {name}", "define it under `Conditions`")
        if name in self._conditions:
            raise self._refused(place, f"the condition {name} depends on itself", "correct it")
        self._conditions[name] = None
        result = self._truth(self._template.conditions[name], self._template.conditions.places[name])
        self._conditions[name] = result
        return result

    # Mappings and functions

    def _mapping(self, raw: Map) -> Any:
        if len(raw) == 1:
            name = next(iter(raw))
            function = self._functions.get(name)
            if function is not None:
                return function(raw[name], raw.places[name])
            if name.startswith("Fn::") and name != "Fn::Transform":
                raise self._refused(raw.place, *_elsewhere(name))
        raw = self._included(raw)
        values = {key: self.value(value, raw.places[key]) for key, value in raw.items()}
        return {key: value for key, value in values.items() if value is not NO_VALUE and value is not None}

    def _included(self, raw: Map) -> Map:
        """`raw` with what its `Fn::Transform` includes; its own keys win."""
        transform = raw.get("Fn::Transform")
        if transform is None:
            return raw
        place = raw.places["Fn::Transform"]
        resolved = self.value(transform, place)
        name = resolved.get("Name") if isinstance(resolved, dict) else None
        if name != "AWS::Include":
            raise self._refused(place, f"the transform {name} runs in AWS only", "write out what it makes")
        location = (resolved.get("Parameters") or {}).get("Location")
        if not isinstance(location, str):
            raise self._refused(place, "AWS::Include has no Location", "add `Parameters: { Location: … }`")
        try:
            included = self._include(location)
        except LookupError as error:
            raise self._refused(place, *error.args) from None
        except YamlError as error:
            raise TemplateError(*error.findings) from None
        merged = Map(raw.place)
        for source in (included, raw):
            for key, value in source.items():
                if key != "Fn::Transform":
                    merged.put(key, value, source.places[key])
        return merged

    def _ref(self, raw: Any, place: Place) -> Any:
        name = self._text(raw, place, "Ref")
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._template.parameters:
            return self._parameters.value(name, place)
        if name.partition(".")[0] not in self._template.resources:
            raise self._refused(place, f"there is no {name} in this template", "correct the name")
        return self._of(name, place, lambda: self._references.ref(name))

    def _get_att(self, raw: Any, place: Place) -> Any:
        if isinstance(raw, str):
            raw = [*raw.split(".", 1)]
        parts = [self._text(part, place, "Fn::GetAtt") for part in raw] if isinstance(raw, list) else []
        if len(parts) != 2 or not all(parts):
            raise self._refused(
                place, "Fn::GetAtt takes a resource and an attribute", "write `!GetAtt Name.Attribute`"
            )
        name, attribute = parts
        if name not in self._template.resources:
            raise self._refused(place, f"there is no resource {name} in this template", "correct the name")
        return self._of(name, place, lambda: self._references.attribute(name, attribute))

    def _of(self, name: str, place: Place, look: Callable[[], Any]) -> Any:
        logical_id = name.partition(".")[0]
        declared = self._template.resources[logical_id]
        if not self.holds(declared.condition, declared.place):
            cause = f"{logical_id} is not made, because its condition {declared.condition} is false"
            raise self._refused(place, cause, "use Fn::If here")
        try:
            found = look()
        except LookupError as error:
            raise self._refused(place, *error.args) from None
        if isinstance(found, list):
            return [Given(item, [logical_id]) for item in found]
        return found if isinstance(found, Given) else Given(found, [logical_id])

    def _sub(self, raw: Any, place: Place) -> Any:
        text, given = raw, {}
        if isinstance(raw, Items):
            if len(raw) != 2 or not isinstance(raw[1], Map):
                raise self._refused(
                    place, "Fn::Sub takes text and a mapping", "write `!Sub [text, { Name: value }]`"
                )
            text = raw[0]
            given = {key: self.value(value, raw[1].places[key]) for key, value in raw[1].items()}
        if not isinstance(text, str):
            raise self._refused(place, "Fn::Sub takes text", "write it out")
        used: list[Any] = []

        def replace(match: re.Match[str]) -> str:
            literal, name = match[1], match[2].strip()
            if literal:
                return "${" + name + "}"
            if name in given:
                value = given[name]
            elif "." in name:
                value = self._get_att(name, place)
            else:
                value = self._ref(name, place)
            used.append(value)
            return self._text(value, place, f"${{{name}}} in Fn::Sub")

        return _made(_VARIABLE.sub(replace, self.value(text, place)), used)

    def _join(self, raw: Any, place: Place) -> Any:
        separator, parts = self._arguments(raw, place, "Fn::Join", 2)
        if not isinstance(parts, list):
            raise self._refused(place, "Fn::Join takes a separator and a list", 'write `!Join [",", [a, b]]`')
        texts = [self._text(part, place, "Fn::Join") for part in parts]
        return _made(self._text(separator, place, "Fn::Join").join(texts), parts)

    def _split(self, raw: Any, place: Place) -> Any:
        separator, text = self._arguments(raw, place, "Fn::Split", 2)
        separator, text = self._text(separator, place, "Fn::Split"), self._text(text, place, "Fn::Split")
        if not separator:
            raise self._refused(place, "Fn::Split has an empty separator", "write one")
        return [_made(part, [text]) for part in text.split(separator)]

    def _select(self, raw: Any, place: Place) -> Any:
        index, parts = self._arguments(raw, place, "Fn::Select", 2)
        if not isinstance(parts, list) or not str(index).isdecimal():
            raise self._refused(place, "Fn::Select takes an index and a list", "write `!Select [0, list]`")
        if int(index) >= len(parts):
            raise self._refused(
                place, f"the list has {len(parts)} items, not one at {index}", "correct the index"
            )
        return parts[int(index)]

    def _if(self, raw: Any, place: Place) -> Any:
        chosen = self._branch(raw, place)
        return self.value(raw[chosen], raw.places[chosen])

    def _branch(self, raw: Any, place: Place) -> int:
        """The index of the branch that an Fn::If chooses: 1 (then) or 2 (else)."""
        if not isinstance(raw, Items) or len(raw) != 3:
            cause = "Fn::If takes a condition and two values"
            raise self._refused(place, cause, "write `!If [Name, then, else]`")
        return 1 if self.holds(self._text(raw[0], place, "Fn::If"), place) else 2

    def _base64(self, raw: Any, place: Place) -> Any:
        text = self._text(self.value(raw, place), place, "Fn::Base64")
        return _made(base64.b64encode(text.encode()).decode(), [text])

    def _find_in_map(self, raw: Any, place: Place) -> Any:
        if not isinstance(raw, Items) or len(raw) not in (3, 4):
            raise self._refused(
                place, "Fn::FindInMap takes a map and two keys", "write `!FindInMap [Map, key, key]`"
            )
        keys = [self._text(self.value(raw[at], raw.places[at]), place, "Fn::FindInMap") for at in range(3)]
        found: Any = self._included(self._template.mappings)
        for depth, key in enumerate(keys):
            step = self._included(found) if isinstance(found, Map) else None
            if step is None or key not in step:
                if len(raw) == 4 and isinstance(raw[3], Map) and "DefaultValue" in raw[3]:
                    return self.value(raw[3]["DefaultValue"], raw[3].places["DefaultValue"])
                where = ".".join(keys[:depth]) or "Mappings"
                has = f"it has: {', '.join(step)}" if step else "it is empty"
                raise self._refused(place, f"{where} has no {key}", has)
            found = step[key]
        return self.value(found, place)

    # Conditions

    def _truth(self, raw: Any, place: Place) -> bool:
        if not isinstance(raw, Map) or len(raw) != 1:
            raise self._refused(
                place, "this is not a condition", "use Fn::Equals, Fn::And, Fn::Or or Fn::Not"
            )
        name, argument = next(iter(raw.items()))
        at = raw.places[name]
        if name == "Condition":
            return self.holds(self._text(argument, at, "Condition"), at)
        if name == "Fn::Equals":
            one, other = self._arguments(argument, at, name, 2)
            return bool(one == other)
        if not isinstance(argument, Items):
            raise self._refused(at, f"{name} takes a list of conditions", "write one")
        inner = (self._truth(item, where) for item, where in zip(argument, argument.places, strict=True))
        match name:
            case "Fn::And":
                return all(list(inner))
            case "Fn::Or":
                return any(list(inner))
            case "Fn::Not" if len(argument) == 1:
                return not next(inner)
        raise self._refused(
            place, f"{name} cannot be used in a condition", "use Fn::Equals, Fn::And, Fn::Or or Fn::Not"
        )

    # Arguments

    def _arguments(self, raw: Any, place: Place, function: str, count: int) -> list[Any]:
        if not isinstance(raw, Items) or len(raw) != count:
            raise self._refused(place, f"{function} takes {count} values", "write them as a list")
        # Not `value(raw)`: it leaves NO_VALUE out, and the arguments behind it would move.
        return [self.value(item, at) for item, at in zip(raw, raw.places, strict=True)]

    def _text(self, value: Any, place: Place, function: str) -> str:
        if isinstance(value, Map):
            value = self.value(value, place)
        if not isinstance(value, str):
            kind = (
                "a list"
                if isinstance(value, list)
                else "a mapping"
                if isinstance(value, dict)
                else "no value"
            )
            raise self._refused(place, f"{function} needs text and got {kind}", "correct it")
        return value

    def _refused(self, place: Place, cause: str, fix: str = "correct it") -> TemplateError:
        return self._template.refused(place, cause, fix)


def _made(text: str, used: Iterable[Any]) -> str:
    of = origins(list(used))
    return Given(text, of) if of else text


def _elsewhere(name: str) -> tuple[str, str]:
    if name == "Fn::ImportValue":
        cause = "Fn::ImportValue reads the exports of another stack, which this machine does not have"
        return cause, "use a parameter with a default, and give its value with --parameter"
    return f"{name} is not resolved locally", "use a parameter, and give its value with --parameter"
