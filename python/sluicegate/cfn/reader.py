"""A CloudFormation template as plain data that knows its lines.

JSON and YAML are read the same way. Scalars are kept as the text that stands there: CloudFormation hands every scalar
to a custom resource as a string, and `0123` or `1.10` must not lose a digit. Short forms (`!Ref X`) become the long
ones (`{"Ref": "X"}`), so that nothing after this knows of two spellings.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from sluicegate.config.nodes import Absurd, check
from sluicegate.config.yamlfile import YamlError, read_text, syntax_finding
from sluicegate.model import Finding

SIZE_LIMIT = 1 << 20
"""Of a template, as in CloudFormation (from S3)."""

VALUES_LIMIT = 200_000
"""Of a template: keys and values, each alias counted as often as it is used."""

_CORE = "tag:yaml.org,2002:"
_BARE = ("Ref", "Condition")
"""Intrinsic functions whose long form has no `Fn::`."""


class Place(NamedTuple):
    """Where something stands in the file; both count from 1."""

    line: int
    col: int


class Map(dict[str, Any]):
    """A mapping; `places` has the place of each value, `keys_at` of each key."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, Place] = {}
        self.keys_at: dict[str, Place] = {}

    def put(self, key: str, value: Any, place: Place, key_at: Place | None = None) -> None:
        self[key] = value
        self.places[key] = place
        self.keys_at[key] = key_at or place


class Items(list[Any]):
    """A list; `places` has the place of each item."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.places: list[Place] = []

    def put(self, value: Any, place: Place) -> None:
        self.append(value)
        self.places.append(place)


def read(path: Path) -> Map:
    """The mapping in a JSON or YAML file. `YamlError` with every place when it is not one."""
    return parse(str(path), read_text(path))


def parse(file: str, text: str) -> Map:
    """The mapping in JSON or YAML text; `file` is its name in findings. `YamlError` with every place if it is none."""
    if len(text) > SIZE_LIMIT:
        fix = "split it into several templates"
        raise YamlError(Finding.at(file, 1, 1, f"the template is larger than {SIZE_LIMIT} characters", fix))
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(_without_tabs(text))
        if root is not None:
            check(root, VALUES_LIMIT)
    except Absurd as error:
        raise YamlError(replace(error.finding, file=file)) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise YamlError(syntax_finding(file, text, error)) from None
    if not isinstance(root, MappingNode):
        cause = "this is not a template"
        raise YamlError(Finding.at(file, 1, 1, cause, "begin with `Resources:`"))
    made = _Builder(file).build(root)
    assert isinstance(made, Map)  # noqa: S101  (the root is a mapping without a tag)
    return made


def _without_tabs(text: str) -> str:
    """JSON may be indented with tabs, YAML may not; valid JSON has raw tabs between its tokens only."""
    if "\t" not in text or not text.lstrip().startswith("{"):
        return text
    try:
        json.loads(text)
    except ValueError:
        return text
    return text.replace("\t", " ")


class _Builder:
    """Nodes → `Map`, `Items` and text."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: set[int] = set()  # what is being built: an alias may lead back into it

    def build(self, node: Node) -> Any:
        tag = str(node.tag or "")
        if not tag.startswith("!"):
            return self._plain(node)
        place = _place(node)
        name = tag[1:]
        function = name if name in _BARE else f"Fn::{name}"
        made = Map(place)
        value = self._plain(node)
        if name == "GetAtt" and isinstance(value, str):
            owner, _, attribute = value.partition(".")
            pair = Items(place)
            pair.put(owner, place)
            pair.put(attribute, place)
            value = pair
        made.put(function, value, place)
        return made

    def _plain(self, node: Node) -> Any:
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if id(node) in self._open:
            raise self._refused(node, "an alias leads back to itself", "write the value out")
        self._open.add(id(node))
        if isinstance(node, MappingNode):
            made: Map | Items = self._map(node)
        else:
            made = self._items(node)
        self._open.discard(id(node))
        return made

    def _map(self, node: MappingNode) -> Map:
        made = Map(_place(node))
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise self._refused(key, "a list or mapping cannot be a key", "put the key in quotes")
            if key.value == "<<":
                raise self._refused(key, "CloudFormation has no merge keys", "write the keys out")
            if key.value in made:
                raise self._refused(key, f"the key `{key.value}` stands here twice", "keep one of the two")
            made.put(_joined(key.value), self.build(value), _place(value), _place(key))
        return made

    def _items(self, node: Node) -> Items:
        made = Items(_place(node))
        for item in node.value:
            made.put(self.build(item), _place(item))
        return made

    def _refused(self, node: Node, cause: str, fix: str) -> YamlError:
        return YamlError(Finding.at(self._file, *_place(node), cause, fix))


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(node: ScalarNode) -> str | None:
    tag = str(node.tag)
    if tag == _CORE + "null":
        return None
    if tag == _CORE + "bool":
        return str(node.value).lower()
    return _joined(node.value)


def _joined(text: str) -> str:
    r"""JSON writes characters beyond U+FFFF as two escapes (`\ud83d\ude00`), which YAML reads one by one."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
