"""From text to YAML nodes, which know their places: fast for what is well-formed, with words for what is not.

Theory of operation. libyaml (through PyYAML) reads a file ten times as fast as ruamel, and its errors say less. So
libyaml reads first, with ruamel's rules for YAML 1.2 (`yes` is text, `010` is ten), and what it refuses is read again
by ruamel, which finds the words. Files with tabs or a byte order mark inside go to ruamel at once: libyaml takes some
that YAML forbids. The nodes of both are alike, but for their classes.

A file can be absurd in ways that take minutes, or all memory, after it was read: the limits are below.
"""

from typing import Any, ClassVar

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.resolver import implicit_resolvers

from sluicegate.model import Finding

MOST_BYTES = 64 << 20
"""Of a file; a hundred thousand peers are about 15 MB."""
SLOW_CHARACTERS = 1 << 20
"""Of a file that ruamel reads: some seconds."""
MOST_VALUES = 3_000_000
"""Keys and values, each alias counted as often as it is used."""
DEEPEST = 50
"""Lists and mappings inside each other."""
LONGEST_NUMBER = 100
"""Characters. A longer one is text, of which no number can be made."""

_TEXT, _LIST, _MAP, _MERGE, _INTEGER, _FLOAT = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map", "merge", "int", "float")
)


class Absurd(Exception):
    """The file is well-formed YAML beyond a limit. `finding` has the place in it, but no file."""

    def __init__(self, node: Any, cause: str, fix: str) -> None:
        mark = node.start_mark
        super().__init__(cause)
        self.finding = Finding((), cause, fix, line=mark.line + 1, col=mark.column + 1)


class Malformed(Exception):
    """The file is no YAML, and too large to be read by ruamel. `line` and `column` from 0."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(problem)
        self.problem, self.line, self.column = problem, line, column


def compose(text: str) -> Any:
    """The root of the one document in `text`; None where it is empty. Raises ruamel's `YAMLError`, `RecursionError`,
    `Malformed` and `Absurd`."""
    root: Any = None
    failed = _tabbed(text)
    if failed is None:
        try:
            root = _compose(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            place = (mark.line, mark.column) if mark else (0, 0)
            failed = Malformed(str(getattr(error, "problem", None) or ""), *place)
    if failed is not None:
        if len(text) > SLOW_CHARACTERS:
            raise failed
        root = _ruamel().compose(text)
    if root is not None:
        check(root)
    return root


def construct(root: Any) -> Any:
    """The plain data of a document. Raises ruamel's `YAMLError` and `ValueError`."""
    try:
        return _plain(root, {}, {})
    except _Special:
        # Of a copy: keys that are merged (`<<`) are moved to where they count.
        return _ruamel().constructor.construct_document(_copied(root, {}))


def is_mapping(node: Any) -> bool:
    """True for a mapping of either library."""
    return isinstance(node, yaml.MappingNode | MappingNode)


def is_list(node: Any) -> bool:
    """True for a list of either library."""
    return isinstance(node, yaml.SequenceNode | SequenceNode)


def is_scalar(node: Any) -> bool:
    """True for a single value of either library."""
    return isinstance(node.value, str)


def _ruamel() -> Any:
    # Pure: the C loader has no node tree that keeps places. Safe: no tag of a file may build an object.
    reader = YAML(typ="safe", pure=True)
    reader.allow_duplicate_keys = True
    return reader


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml with the scalars of YAML 1.2, as ruamel knows them."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {}


for _versions, _tag, _pattern, _first in implicit_resolvers:
    if (1, 2) in _versions:
        _Loader.add_implicit_resolver(_tag, _pattern, _first)


def _compose(text: str) -> Any:
    """As `yaml.compose`, which would follow nesting as deep as it goes, until the stack of this process ends. Raises
    `yaml.YAMLError` and `Absurd`."""
    loader = _Loader(text)
    root: Any = None
    anchors: dict[str, Any] = {}
    around: list[Any] = []
    keys: list[Any] = []  # of each mapping in `around`, the key whose value is next; None for a list
    try:
        for _ in range(MOST_VALUES * 2):
            event = loader.get_event()
            if isinstance(event, yaml.CollectionEndEvent):
                around.pop()
                keys.pop()
            elif isinstance(event, yaml.NodeEvent):
                if root is not None and not around:
                    break
                node = _node(loader, event, anchors)
                root = root or node
                if around:
                    keys[-1] = _attach(around[-1], keys[-1], node)
                if isinstance(event, yaml.CollectionStartEvent):
                    around.append(node)
                    keys.append(None)
                    _limit(node, 0, len(around), MOST_VALUES)
            elif event is None:
                return root
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise yaml.composer.ComposerError(None, None, "found another document", event.start_mark)
        raise Absurd(root, f"the file has more than {MOST_VALUES:,} values", "write less")
    finally:
        loader.dispose()


def _node(loader: Any, event: Any, anchors: dict[str, Any]) -> Any:
    """The node that begins with an event, or that an alias stands for."""
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            raise yaml.composer.ComposerError(None, None, "found undefined alias", event.start_mark)
        return anchors[event.anchor]
    given, marks = None if event.tag == "!" else event.tag, (event.start_mark, event.end_mark)
    if isinstance(event, yaml.ScalarEvent):
        tag = given or loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        node: Any = yaml.ScalarNode(tag, event.value, *marks, style=event.style)
    elif isinstance(event, yaml.MappingStartEvent):
        node = yaml.MappingNode(given or _MAP, [], *marks)
    else:
        node = yaml.SequenceNode(given or _LIST, [], *marks)
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _attach(parent: Any, key: Any, node: Any) -> Any:
    """Put a node into a list, or as key or value into a mapping. Returns the key whose value is next."""
    if not is_mapping(parent):
        parent.value.append(node)
        return None
    if key is None:
        return node
    parent.value.append((key, node))
    return None


def _tabbed(text: str) -> Malformed | None:
    """What keeps libyaml from reading this text."""
    for character, name in (("\t", "a tab"), ("\ufeff", "a byte order mark")):
        at = text.find(character)
        if at >= 0:
            problem = f"a file of more than 1 MB cannot have {name} in it"
            return Malformed(problem, text.count("\n", 0, at), at - (text.rfind("\n", 0, at) + 1))
    return None


# Limits


def check(root: Any, most_values: int = MOST_VALUES) -> None:
    """Raise `Absurd` for a document beyond a limit, or with an alias for what it stands in. Each list and mapping is
    looked at once, wherever aliases show it."""
    sizes: dict[int, tuple[int, int]] = {}
    around: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, seen = waiting.pop()
        key = id(node)
        if is_scalar(node) or key in sizes:
            continue
        inside = [one for one in _children(node) if not is_scalar(one)]
        if seen:
            around.discard(key)
            counted = [sizes[id(one)] for one in inside]
            size = 1 + len(node.value) * 2 + sum(one for one, _ in counted)
            depth = 1 + max((one for _, one in counted), default=0)
            _limit(node, size, depth, most_values)
            sizes[key] = size, depth
        elif key in around:
            raise Absurd(node, "an alias leads back to itself", "write the value out")
        else:
            around.add(key)
            waiting += [(node, True), *((one, False) for one in inside)]


def _limit(node: Any, size: int, depth: int, most_values: int) -> None:
    if size > most_values:
        cause = f"these are more than {most_values:,} values, those of aliases included"
        raise Absurd(node, cause, "write less, or use fewer aliases")
    if depth > DEEPEST:
        cause = f"lists and mappings lie in each other here, more than {DEEPEST} deep"
        raise Absurd(node, cause, "remove what is too deep")


def _children(node: Any) -> list[Any]:
    return [one for pair in node.value for one in pair] if is_mapping(node) else node.value


# Data


class _Special(Exception):
    """The document has merged keys, or tags: ruamel knows what they mean."""


def _plain(node: Any, made: dict[int, Any], scalars: dict[tuple[str, str], Any]) -> Any:
    """The data of a node. `made` has that of lists and mappings, which aliases share, `scalars` that of
    single values."""
    value, tag = node.value, str(node.tag)
    if isinstance(value, str):
        return value if tag == _TEXT else _scalar(node, tag, scalars)
    if id(node) in made:
        return made[id(node)]
    if tag == _LIST:
        made[id(node)] = data = [_plain(one, made, scalars) for one in value]
        return data
    if tag != _MAP or not all(is_scalar(key) and str(key.tag) != _MERGE for key, _ in value):
        raise _Special
    pairs = ((_plain(key, made, scalars), _plain(one, made, scalars)) for key, one in value)
    made[id(node)] = mapping = dict(pairs)
    return mapping


def _scalar(node: Any, tag: str, scalars: dict[tuple[str, str], Any]) -> Any:
    key = tag, node.value
    if key not in scalars:
        scalars[key] = _ruamel().constructor.construct_document(_copied(node, {}))
    return scalars[key]


def _copied(node: Any, made: dict[int, Node]) -> Node:
    """A node of either library as one of ruamel; `made` has those that are made already, by the ids of theirs."""
    if id(node) not in made:
        made[id(node)] = _copy(node, made)
    return made[id(node)]


def _copy(node: Any, made: dict[int, Node]) -> Node:
    tag, marks = str(node.tag), (node.start_mark, node.end_mark)
    if is_scalar(node):
        if tag in (_INTEGER, _FLOAT) and len(node.value) > LONGEST_NUMBER:
            tag = _TEXT
        return ScalarNode(tag, node.value, *marks, style=node.style)
    if is_mapping(node):
        pairs = [(_copied(key, made), _copied(value, made)) for key, value in node.value]
        return MappingNode(tag, pairs, *marks)
    return SequenceNode(tag, [_copied(one, made) for one in node.value], *marks)
