"""The Lambda functions of a template: which one an ARN names, and what it is on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sluicegate.cfn.assets import code_asset
from sluicegate.cfn.local_function import (
    LocalFunction,
    NotLocal,
    environment_of,
    local_function,
    placeholders,
)
from sluicegate.cfn.reader import Map
from sluicegate.cfn.resolve import Resolver
from sluicegate.cfn.template import Declared, Template

FUNCTIONS = ("AWS::Lambda::Function", "AWS::Serverless::Function")


class Lambdas:
    """The functions of one template. `name` gives a resource's physical name, `is_made` whether it is made here."""

    def __init__(
        self,
        template: Template,
        resolver: Resolver,
        made_dir: Path,
        environment: Mapping[str, str],
        *,
        name: Callable[[Declared], str],
        is_made: Callable[[Declared], bool],
        note: Callable[[Declared, str], None],
    ) -> None:
        self._template = template
        self._resolver = resolver
        self._made_dir = made_dir
        self._environment = environment
        self._name = name
        self._is_made = is_made
        self._note = note
        self._found: dict[str, LocalFunction | NotLocal] = {}
        self.code: dict[Path, str] = {}
        """Inline code to be written: file → text."""

    @property
    def invoked(self) -> set[str]:
        """The logical ids of those that a Destination delivers to."""
        return set(self._found)

    @property
    def folders(self) -> list[Path]:
        """The roots of the code of those that a Destination delivers to."""
        found = (one.folder for one in self._found.values() if isinstance(one, LocalFunction))
        return list(dict.fromkeys(found))

    def named(self, arn: str) -> str | None:
        """The function of the template that an ARN names, with or without a qualifier."""
        if ":lambda:" not in arn or ":function:" not in arn:
            return None
        name = arn.partition(":function:")[2].partition(":")[0]
        for declared in self._template.resources.values():
            if declared.type in FUNCTIONS and self._name(declared) == name:
                return declared.logical_id
        return None

    def aliased(self, declared: Declared) -> str:
        """The name of the function that an alias or a version stands for."""
        function: str = self._resolver.properties(declared.properties).get("FunctionName", "")
        return function.partition(":function:")[2] or function

    def used(self, logical_id: str) -> LocalFunction | NotLocal:
        """The local function in place of one of the template. Raises `TemplateError` for code that may not be named."""
        if logical_id not in self._found:
            declared = self._template.resources[logical_id]
            directory = self._template.path.absolute().parent
            try:
                properties = self._properties(declared)
                asset = code_asset(self._template, declared)
                if asset is not None:
                    properties = {**properties, "Code": asset}
                function = local_function(
                    logical_id, properties, directory, self._made_dir, self._environment
                )
            except NotLocal as reason:
                self._found[logical_id] = reason
                return reason
            self._found[logical_id] = function
            if function.inline is not None:
                self.code[function.inline[0]] = function.inline[1]
            for note in function.notes:
                self._note(declared, note)
            self._note_placeholders(declared, properties)
        return self._found[logical_id]

    def _properties(self, declared: Declared) -> dict[str, Any]:
        """A function's own properties, over those that SAM's `Globals` give to all."""
        own = self._resolver.properties(declared.properties)
        raw = self._template.globals.get("Function")
        if declared.type != "AWS::Serverless::Function" or not isinstance(raw, Map):
            return own
        shared = self._resolver.properties(raw)
        variables = {**environment_of(shared), **environment_of(own)}
        return {**shared, **own, "Environment": {"Variables": variables}}

    def _note_placeholders(self, declared: Declared, properties: Mapping[str, Any]) -> None:
        for variable, of in placeholders(properties).items():
            unmade = [name for name in sorted(of) if not self._is_made(self._template.resources[name])]
            if unmade:
                text = f"{variable} in its environment is a placeholder: {', '.join(unmade)} is not made here"
                self._note(declared, text)
