"""`Parameters` of a template: defaults, given values, and what a value must be."""

import re
from collections.abc import Mapping
from typing import Any

from sluicegate.cfn.reader import Items, Map, Place
from sluicegate.cfn.template import Template, TemplateError

_LISTS = re.compile(r"CommaDelimitedList|List<.+>")
_NUMBERS = ("Number", "List<Number>")


class Parameters:
    """The parameters of a template with the values that the user gave. `TemplateError` for names it does not have."""

    def __init__(self, template: Template, given: Mapping[str, str]) -> None:
        self._template = template
        self._given = given
        unknown = [name for name in given if name not in template.parameters]
        if unknown:
            has = ", ".join(template.parameters) or "it has none"
            place = template.parameters.place
            cause = f"the template has no parameter {', '.join(unknown)}"
            raise template.refused(place, cause, f"its parameters are: {has}")
        for name in given:
            self.value(name, template.parameters.places[name])

    def value(self, name: str, place: Place) -> str | list[str]:
        """The value of a parameter that is used at `place`; a list for the types that are lists."""
        declared = self._template.section(self._template.parameters, name)
        kind = str(declared.get("Type", "String"))
        text = self._given.get(name)
        if text is None:
            if kind.startswith("AWS::SSM::Parameter::Value<"):
                cause = f"the parameter {name} is read from the Parameter Store of an account"
                raise self._refused(place, cause, f"give its value with --parameter {name}=VALUE")
            default = declared.get("Default")
            if default is None:
                cause = f"the parameter {name} has no value"
                raise self._refused(place, cause, f"give it one with --parameter {name}=VALUE")
            text = ",".join(default) if isinstance(default, Items) else str(default)
        kind = kind.removeprefix("AWS::SSM::Parameter::Value<")
        items = [part.strip() for part in text.split(",")] if _LISTS.match(kind) else [text]
        for item in items:
            self._check(name, declared, item, at=self._template.parameters.places[name])
        return items if _LISTS.match(kind) else text

    def _check(self, name: str, declared: Map, text: str, at: Place) -> None:
        problem = _wrong(declared, text)
        if problem is None:
            return
        shown = "its value" if declared.get("NoEcho") == "true" else f'"{text[:60]}"'
        hint = declared.get("ConstraintDescription")
        fix = f"{hint}" if isinstance(hint, str) else "choose another value with --parameter"
        raise self._refused(at, f"the parameter {name} cannot be {shown}: {problem}", fix)

    def _refused(self, place: Place, cause: str, fix: str) -> TemplateError:
        return self._template.refused(place, cause, fix)


def _wrong(declared: Map, text: str) -> str | None:
    """Why `text` is refused; None if it is fine."""
    allowed = declared.get("AllowedValues")
    if isinstance(allowed, Items) and text not in allowed:
        return f"the allowed values are {', '.join(map(str, allowed))}"
    pattern = declared.get("AllowedPattern")
    if isinstance(pattern, str) and not _matches(pattern, text):
        return f"it must match {pattern}"
    if declared.get("Type") in _NUMBERS:
        number = _number(text)
        if number is None:
            return "it is not a number"
        low, high = _number(declared.get("MinValue")), _number(declared.get("MaxValue"))
        if (low is not None and number < low) or (high is not None and number > high):
            return f"it must be {_bounds(low, high)}"
        return None
    low, high = _number(declared.get("MinLength")), _number(declared.get("MaxLength"))
    if (low is not None and len(text) < low) or (high is not None and len(text) > high):
        return f"its length must be {_bounds(low, high)}"
    return None


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:
        return True  # Java's patterns are CloudFormation's; what Python cannot read is left to AWS


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _bounds(low: float | None, high: float | None) -> str:
    parts = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    return " and ".join(filter(None, parts))
