"""The sections of a template: parameters, mappings, conditions, resources in an order that can be made, outputs."""

import dataclasses
import graphlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sluicegate.cfn.reader import Items, Map, Place, read
from sluicegate.config.yamlfile import YamlError
from sluicegate.model import Finding, FindingsError

_SECTIONS = (
    "AWSTemplateFormatVersion",
    "Transform",
    "Description",
    "Metadata",
    "Globals",
    "Parameters",
    "Mappings",
    "Conditions",
    "Rules",
    "Hooks",
    "Resources",
    "Outputs",
    "Fn::Transform",
)
_LOGICAL_ID = re.compile(r"[A-Za-z0-9]{1,255}")
_SUBSTITUTED = re.compile(r"\$\{([A-Za-z0-9:.]+)\}")


class TemplateError(FindingsError):
    """The template cannot be used."""


@dataclasses.dataclass(frozen=True)
class Declared:
    """One entry of `Resources` as it stands there, nothing resolved."""

    logical_id: str
    type: str
    properties: Map
    place: Place
    condition: str | None
    depends_on: tuple[str, ...]
    metadata: Map
    implied: bool = False
    """Nobody wrote it: SAM makes it."""


class Template:
    """A template, read and checked for its form; `resolve.Resolver` gives its values."""

    def __init__(self, path: Path, root: Map) -> None:
        self.path = path
        self.file = str(path)
        self._check_sections(root)
        self.root = root
        self.parameters = self.section(root, "Parameters")
        self.mappings = self.section(root, "Mappings")
        self.conditions = self.section(root, "Conditions")
        self.globals = self.section(root, "Globals")
        self.outputs = self.section(root, "Outputs")
        self.resources = dict(self._resources(self.section(root, "Resources")))
        self.resources |= {role.logical_id: role for role in self._implied_roles()}

    @classmethod
    def load(cls, path: Path) -> "Template":
        """Read a file. Raises `TemplateError`."""
        try:
            return cls(path, read(path))
        except YamlError as error:
            raise TemplateError(*error.findings) from None

    def refused(self, place: Place, cause: str, fix: str) -> TemplateError:
        """To be raised for what stands at `place`."""
        return TemplateError(Finding.at(self.file, place.line, place.col, cause, fix))

    def section(self, owner: Map, name: str) -> Map:
        """The mapping under `name`, empty where there is none. `TemplateError` when something else stands there."""
        value = owner.get(name)
        if value is None:
            return Map(owner.place)
        if not isinstance(value, Map):
            raise self.refused(
                owner.places[name], f"`{name}` must be a mapping", "write `key: value` lines below it"
            )
        return value

    def order(self) -> list[Declared]:
        """The resources, each after those that it refers to or names in `DependsOn`; else as in the file."""
        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        for declared in self.resources.values():
            sorter.add(declared.logical_id, *sorted(self._needs(declared)))
        try:
            return [self.resources[name] for name in sorter.static_order()]
        except graphlib.CycleError as error:
            circle = error.args[1]
            place = self.resources[circle[0]].place
            cause = f"these resources wait for each other: {' → '.join(reversed(circle))}"
            raise self.refused(place, cause, "remove one of the references") from None

    def _needs(self, declared: Declared) -> set[str]:
        named = set(declared.depends_on) | set(references(declared.properties))
        return {name for name in named if name in self.resources}

    def _check_sections(self, root: Map) -> None:
        for name, place in root.places.items():
            if name not in _SECTIONS:
                cause = f"CloudFormation has no section `{name}`"
                raise self.refused(place, cause, f"use one of: {', '.join(_SECTIONS[:-1])}")
        if "Resources" not in root:
            raise self.refused(root.place, "the template has no `Resources`", "add what it makes")

    def _resources(self, section: Map) -> Iterator[tuple[str, Declared]]:
        for name, raw in section.items():
            place = section.keys_at[name]
            if name.startswith("Fn::"):
                fix = "write the resources out"
                raise self.refused(place, f"`{name}` cannot be used for resources here", fix)
            if not _LOGICAL_ID.fullmatch(name):
                raise self.refused(place, f'"{name}" cannot be a logical id', "use letters and digits")
            if not isinstance(raw, Map) or not isinstance(raw.get("Type"), str):
                raise self.refused(place, f"the resource {name} has no `Type`", "add one")
            yield name, self._declared(name, raw, place)

    def _implied_roles(self) -> list[Declared]:
        """SAM makes a role for each function that names none, and templates refer to it."""
        return [
            dataclasses.replace(
                one,
                logical_id=f"{name}Role",
                type="AWS::IAM::Role",
                properties=Map(one.place),
                depends_on=(),
                implied=True,
            )
            for name, one in self.resources.items()
            if one.type == "AWS::Serverless::Function" and "Role" not in one.properties
        ]

    def _declared(self, name: str, raw: Map, place: Place) -> Declared:
        condition = raw.get("Condition")
        if condition is not None and not isinstance(condition, str):
            fix = "define it under `Conditions` and name it here"
            raise self.refused(raw.places["Condition"], "a condition is named here", fix)
        depends_on = raw.get("DependsOn") or []
        listed = [depends_on] if isinstance(depends_on, str) else depends_on
        for other in listed:
            if other not in self.section(self.root, "Resources"):
                cause = f"{name} depends on {other}, which is not in this template"
                raise self.refused(raw.places["DependsOn"], cause, "correct the name")
        properties = self.section(raw, "Properties")
        metadata = self.section(raw, "Metadata")
        return Declared(name, raw["Type"], properties, place, condition, tuple(listed), metadata)


def references(raw: Any) -> Iterator[str]:
    """Every name that `raw` refers to by Ref, GetAtt or Sub: parameters and pseudo parameters too."""
    if isinstance(raw, Items):
        for item in raw:
            yield from references(item)
        return
    if not isinstance(raw, Mapping):
        return
    for key, value in raw.items():
        if key == "Ref" and isinstance(value, str):
            yield value.partition(".")[0]
        elif key == "Fn::GetAtt" and value:
            first = value[0] if isinstance(value, list) else value
            yield from [first.partition(".")[0]] if isinstance(first, str) else references(first)
        elif key == "Fn::Sub":
            text = value[0] if isinstance(value, list) and value else value
            if isinstance(text, str):
                yield from (name.partition(".")[0] for name in _SUBSTITUTED.findall(text))
        yield from references(value)
