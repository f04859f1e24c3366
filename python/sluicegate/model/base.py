"""The ground every resource stands on: one definition, two spellings, strings for scalars (contract section
1).

A resource document comes from a YAML file (snake_case), from the REST API (PascalCase) or from CloudFormation
(PascalCase, every scalar a string, properties that we do not know). `Resource` makes the three one: keys are
brought to the field's own name before pydantic sees them, so that everything after speaks of fields only.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from sluicegate.model.described import descriptions

Path = tuple[str | int, ...]
"""Where in a document: field names in snake_case and list indexes, from the root."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong that a user can put right: the cause, the next step and the place.

    `path` leads from the root of a document to the place. The document is that of `resource` `name`, or the whole
    configuration while `resource` is None. `file`, `line` and `col` (both from 1) are known once the place was looked
    up in a file. `str()` is `file:line:col: cause, fix`, or names the API's resource and the place in it.
    """

    path: Path
    cause: str
    fix: str = ""
    on_key: bool = False
    """The key itself is wrong (an unknown one), not its value."""
    resource: "type[Resource] | None" = None
    name: str = ""
    conflict: bool = False
    """The document is right by itself, and does not go with something else that is there."""
    file: str = ""
    line: int = 0
    col: int = 0

    @classmethod
    def at(cls, file: str, line: int, col: int, cause: str, fix: str) -> "Finding":
        """One whose place in a file is known."""
        return cls((), cause, fix, file=file, line=line, col=col)

    def __str__(self) -> str:
        if self.file:
            return f"{self.file}:{self.line}:{self.col}: {self.sentence}"
        if self.resource is None:
            return self.sentence
        place = f" at {self.pointer}" if self.path else ""
        return f"the API's {self.kind} {self.name}{place}: {self.sentence}"

    @property
    def sentence(self) -> str:
        """`cause, fix`, without the place."""
        return f"{self.cause}, {self.fix}" if self.fix else self.cause

    @property
    def kind(self) -> str:
        """What users call the resource; "" for the configuration."""
        return self.resource.kind() if self.resource else ""

    @property
    def pointer(self) -> str:
        """The place in the PascalCase document (RFC 6901)."""
        return pointer(self.resource, self.path)

    def of(self, resource: "type[Resource]", name: str, path: Path | None = None) -> "Finding":
        """This finding, about the resource `name`; at `path` in it, if one is given."""
        return dataclasses.replace(
            self, resource=resource, name=name, path=self.path if path is None else path
        )

    def under(self, *path: str | int) -> "Finding":
        """This finding, about a larger document that holds the checked one at `path`."""
        return dataclasses.replace(self, path=(*path, *self.path))

    def document(self) -> dict[str, str | int]:
        """For programs: `File`, `Line`, `Column`, or `Resource` and `Pointer`; then `Cause` and `Fix`."""
        place: dict[str, str | int] = {"File": self.file, "Line": self.line, "Column": self.col}
        if not self.file:
            place = {"Resource": f"{self.kind} {self.name}".strip(), "Pointer": self.pointer}
        return {**place, "Cause": self.cause, "Fix": self.fix}


class FindingsError(Exception):
    """Something cannot be used or done: `findings` has the reasons, up to `most` of them, `str()` one line for each."""

    most: ClassVar[int] = 1000
    """Reasons that are listed. Whoever wrote more mistakes did not write them by hand."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = list(findings[: self.most])
        if len(findings) > self.most:
            cause = f"{len(findings) - self.most} more problems are not listed"
            last = dataclasses.replace(findings[self.most], cause=cause, fix="correct these first")
            self.findings.append(last)
        super().__init__("\n".join(map(str, self.findings)))


def invalid(cause: str, fix: str, on_key: bool = False) -> PydanticCustomError:
    """An error for a validator to raise: it reaches the user as `cause, fix`, never as pydantic's own
    text."""
    return PydanticCustomError("invalid", "{cause}, {fix}", {"cause": cause, "fix": fix, "on_key": on_key})


def invalid_at(
    title: str, findings: Iterable[Finding], others: ValidationError | None = None
) -> ValidationError:
    """Several errors at their own places, after those of `others`: every error of a document is shown at
    once."""
    details: list[InitErrorDetails] = []
    for error in others.errors(include_url=False) if others else ():
        context = error.get("ctx", {})
        custom = error["type"] == "invalid"
        kind = invalid(**context) if custom else error["type"]
        details.append(InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=context))
    for found in findings:
        kind = invalid(found.cause, found.fix, found.on_key)
        details.append(InitErrorDetails(type=kind, loc=found.path, input=None))
    return ValidationError.from_exception_data(title, details, hide_input=True)


def pascal_case(name: str) -> str:
    """`size_in_mb` → `SizeInMb`: the spelling of CloudFormation and the REST API."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def pointer(resource: "type[Resource] | None", path: Path) -> str:
    """A path of fields and indexes as a JSON pointer (RFC 6901) in the PascalCase document; "" for the root."""
    parts: list[str] = []
    for part in path:
        if isinstance(part, str) and resource is not None:
            field = resource.model_fields.get(part)
            parts.append((field.alias or pascal_case(part)) if field else part)
            resource = resource.child(part)
        else:
            parts.append(str(part))
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


class Resource(BaseModel):
    """Base of every resource and of the objects inside one.

    Subclasses declare snake_case fields; the PascalCase alias is derived (or given, where it is irregular as
    in `AllowedIPs`). `synonyms` are further keys for a field, e.g. `ListenerName` for a Listener's `name`.

    >>> from sluicegate import Resource
    >>> class Settings(Resource):
    ...     poll_seconds: float = 1.0
    >>> Settings.model_validate({"PollSeconds": "2.5"}).poll_seconds
    2.5
    """

    model_config = ConfigDict(
        alias_generator=pascal_case,
        validate_by_name=True,
        validate_by_alias=True,
        loc_by_alias=False,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )
    synonyms: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def kind(cls) -> str:
        """What users call such a resource: `Listener`, `Destination`."""
        return cls.model_config.get("title") or cls.__name__

    @classmethod
    def spellings(cls) -> Mapping[str, str]:
        """Every accepted key → the field that it means."""
        return _spellings(cls)

    @classmethod
    def child(cls, field: str) -> "type[Resource] | None":
        """The resource class inside `field` (through lists and options), None where there is none."""
        return _child(cls, field) if field in cls.model_fields else None

    @classmethod
    def peek(cls, data: Any, field: str) -> Any:
        """The raw value of `field` in a document that may not be valid, in either spelling; None if
        absent."""
        if isinstance(data, cls):
            return getattr(data, field)
        if not isinstance(data, Mapping):
            return None
        spellings = cls.spellings()
        return next((value for key, value in data.items() if spellings.get(key) == field), None)

    @classmethod
    def respell(cls, data: Any, context: Any = None) -> tuple[Any, list[Finding]]:
        """`(data, findings)`: each known key brought to its field's name; anything but a mapping stays as it
        is.

        A null counts as absent unless null is a value of that field. With the context `{"unknown": "ignore"}`
        unknown keys are left out and named in `context["warnings"]`. A field given twice is a finding.
        """
        if not isinstance(data, Mapping):
            return data, []
        spellings = cls.spellings()
        lenient = isinstance(context, dict) and context.get("unknown") == "ignore"
        out: dict[Any, Any] = {}
        written: dict[str, Any] = {}
        twice: list[Finding] = []
        for key, value in data.items():
            field = spellings.get(key) if isinstance(key, str) else None
            if field is None:
                if lenient:
                    warning = f"{cls.kind()}: unknown property {key} is ignored"
                    context.setdefault("warnings", []).append(warning)
                else:
                    out[key] = value
                continue
            if field in written:
                cause = f"`{written[field]}` and `{key}` mean the same"
                twice.append(Finding((key,), cause, "keep one of the two"))
            written[field] = key
            if value is not None or type(None) in get_args(cls.model_fields[field].annotation):
                out[field] = value
        return out, twice

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        described = handler(schema)
        properties = handler.resolve_ref_schema(described).get("properties", {})
        for name, text in descriptions(cls).items():
            if name in cls.model_fields:
                for key in properties.keys() & {name, cls.model_fields[name].alias}:
                    properties[key].setdefault("description", text)
        return described

    @model_validator(mode="wrap")
    @classmethod
    def _one_spelling(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        data, twice = cls.respell(data, info.context)
        check: Check | None = (info.context or {}).get("check")

        def checked(data: Any) -> Any:
            try:
                resource = handler(data)
            except ValidationError as error:
                found = cls._check_the_rest(data, handler, error, check) if check else []
                raise (invalid_at(cls.__name__, found, error) if found else error) from None
            found = check(resource) if check else []
            if found:
                raise invalid_at(cls.__name__, found)
            return resource

        return cls._with_findings(data, checked, twice)

    @classmethod
    def _check_the_rest(
        cls, data: Any, handler: Callable[[Any], Self], error: ValidationError, check: "Check"
    ) -> list[Finding]:
        """What `check` says of the well-formed fields: a mistake in one field hides none in another."""
        wrong = {details["loc"][0] for details in error.errors(include_url=False) if details["loc"]}
        if not wrong or not isinstance(data, Mapping):
            return []
        try:
            rest = handler({key: value for key, value in data.items() if key not in wrong})
        except ValidationError:
            return []
        return [one for one in check(rest) if not wrong.intersection(one.path[:1])]

    @classmethod
    def _with_findings(cls, data: Any, handler: Callable[[Any], Self], found: list[Finding]) -> Self:
        """Validate `data` and report `found` together with pydantic's own errors, neither hiding the
        other."""
        try:
            resource = handler(data)
        except ValidationError as error:
            if not found:
                raise
            raise invalid_at(cls.__name__, found, error) from None
        if found:
            raise invalid_at(cls.__name__, found)
        return resource

    @classmethod
    def parse_lenient(cls, document: Any, context: Mapping[str, Any] | None = None) -> tuple[Self, list[str]]:
        """For CloudFormation: `(resource, warnings)`, where each unknown property is a warning and not an
        error.

        Raises `pydantic.ValidationError`; `sluicegate.model.findings` turns it into sentences.
        """
        lenient: dict[str, Any] = {**(context or {}), "unknown": "ignore", "warnings": []}
        return cls.model_validate(document, context=lenient), lenient["warnings"]

    def dump(self) -> dict[str, Any]:
        """JSON-ready, in PascalCase, without what is not set. Secrets are left out, masked ones could be sent
        back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Check = Callable[[Resource], list[Finding]]
"""Finds mistakes that the model cannot know. With the context `{"check": …}` it is called for each resource, and each
object inside one, that is well formed. The findings' paths begin there, and they are shown with those about the form.
"""


@cache
def _spellings(model: type[Resource]) -> Mapping[str, str]:
    names = {name: name for name in model.model_fields}
    names |= {field.alias: name for name, field in model.model_fields.items() if field.alias}
    return MappingProxyType(names | dict(model.synonyms))


@cache
def _child(model: type[Resource], field: str) -> type[Resource] | None:
    return _resource_in(model.model_fields[field].annotation)


def _resource_in(annotation: Any) -> type[Resource] | None:
    if isinstance(annotation, type) and issubclass(annotation, Resource):
        return annotation
    return next((found for part in get_args(annotation) if (found := _resource_in(part))), None)


def role_arn(value: Any) -> Any:
    """A role as `{"Arn": "…"}` or as the string itself: the string."""
    if isinstance(value, Mapping):
        if len(value) != 1 or next(iter(value)) not in ("Arn", "arn"):
            raise invalid("a role object has exactly the key `Arn`", "write the role's ARN as text")
        return next(iter(value.values()))
    return value
