"""Configuration files that nobody wrote by hand: refused at once, with the place and in a few words."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sluicegate.cfn.reader import parse as parse_template
from sluicegate.config import ConfigError, load, nodes
from sluicegate.config.yamlfile import YamlError
from sluicegate.model import errors

pytestmark = pytest.mark.attack


def refused(path: Path, text: str) -> ConfigError:
    file = path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    return caught.value


def doubling(how: Callable[[int], str], first: str, times: int = 30) -> str:
    return "".join(f"x{n}: &x{n} {how(n - 1) if n else first}\n" for n in range(times))


DEEP = [
    "region: " + "[" * 100_000,
    "region: " + "{a: " * 100_000,
    "region:\n" + "- " * 100_000 + "x\n",
    "".join(" " * depth + "a:\n" for depth in range(3000)),
    "a:\tb\nregion: " + "[" * 5000 + "]" * 5000,  # the tab: not by libyaml
    "region: " + '[ "]" , ' * 5000,
]


@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_what_lies_too_deep_is_refused_where_it_begins_to(tmp_path: Path, text: str) -> None:
    (found,) = refused(tmp_path, text).findings
    assert "more than 50 deep" in str(found) or "tab" in str(found)


BOMBS = {
    "lists": doubling(lambda n: f"[*x{n}, *x{n}]", "[a, a]"),
    "mappings": doubling(lambda n: f"{{a: *x{n}, b: *x{n}}}", "{a: b}"),
    "merged keys": doubling(lambda n: f"{{<<: [*x{n}, *x{n}], b{n}: 1}}", "{a: 1}"),
    "itself": "a: &a [*a]\n",
    "itself in a mapping": "a: &a {b: {c: *a}}\n",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path, text: str) -> None:
    (found,) = refused(tmp_path, text).findings
    assert "alias" in str(found)
    assert (found.line, found.file) != (0, "")


@pytest.mark.parametrize("text", [BOMBS["lists"], BOMBS["mappings"], BOMBS["itself"]])
def test_a_template_has_the_same_limits(text: str) -> None:
    with pytest.raises(YamlError, match="alias"):
        parse_template("template.yaml", f"Resources:\n  {text.replace(chr(10), chr(10) + '  ')}\n")


HUGE = {
    "a plain value": f"region: {'X' * 2_000_000}\n",
    "a quoted value": f'region: "{"X" * 2_000_000}"\n',
    "a folded value": "region: >\n" + "  XXXXXXXXXXX\n" * 150_000,
    "a number": f"node: {'9' * 2_000_000}\n",
    "a name": f"listeners: [{{name: '?{'x' * 2_000_000}'}}]\n",
    "an address": f"listeners: [{{bind: '{'1.' * 1_000_000}'}}]\n",
    "a network": f"listeners: [{{client_restrictions: {{networks: ['{'1' * 2_000_000}']}}}}]\n",
    "a key of a Listener": f"listeners: [{{? '{'k' * 2_000_000}' : 1}}]\n",
    "a key": f"? {'k' * 2_000_000}\n: 1\n",
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
def test_a_huge_value_makes_no_huge_message(tmp_path: Path, text: str) -> None:
    (found,) = refused(tmp_path, text).findings
    assert len(str(found)) < 2000
    assert found.line >= 1


def test_a_huge_value_is_not_read_by_the_slow_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "YAML", None)
    assert "characters)" in str(refused(tmp_path, HUGE["a quoted value"]))


MANY = {
    "unknown keys": "".join(f"kei{n}: 1\n" for n in range(20_000)),
    "unknown keys of a Listener": "listeners:\n  - name: a\n"
    + "".join(f"    kei{n}: 1\n" for n in range(20_000)),
    "one key": "region: a\n" * 20_000,
    "Listeners that are numbers": "listeners:\n" + "  - 1\n" * 20_000,
    "Listeners of one name": "listeners:\n" + "  - {name: a}\n" * 5000,
    "Listeners on one port": "listeners:\n"
    + "".join(f"  - {{name: l{n}, bind: '[::]:1'}}\n" for n in range(5000)),
    "names of nothing": "listeners:\n"
    + "".join(f"  - {{name: l{n}, destinations: [x{n}]}}\n" for n in range(5000)),
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_of_many_mistakes_some_are_listed(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guesses = []
    real = errors.difflib.get_close_matches
    monkeypatch.setattr(
        errors.difflib, "get_close_matches", lambda *given, **more: guesses.append(1) or real(*given, **more)
    )
    error = refused(tmp_path, text)
    assert len(error.findings) == ConfigError.most + 1
    assert "more problems are not listed" in str(error.findings[-1])
    assert len(guesses) <= errors.SUGGESTIONS


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicegate.config.yamlfile.MOST_BYTES", 1000)
    assert "larger than" in str(refused(tmp_path, "# comment\n" * 200))


@pytest.mark.parametrize("text", ["a: 'b\n", "a:\tb\n", "a: [b\n", "a: \x07\n"])
def test_a_large_file_that_is_no_yaml_is_refused_without_the_slow_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(nodes, "SLOW_CHARACTERS", 100)
    monkeypatch.setattr(nodes, "YAML", None)
    (found,) = refused(tmp_path, "# comment\n" * 20 + text).findings
    assert found.line >= 1


# Both parsers


def texts() -> Iterator[str]:
    scalars = "yes no on ~ null True false 010 0o10 0x1F 1_000 +1 .5 1. 1e3 .inf 12:30 2001-01-01 << ="
    for scalar in [
        *scalars.split(),
        "'it''s'",
        '"\\x41\\n"',
        "x y",
        "http://x:80/",
        "x#y",
        "!!str 1",
        "!!int '1'",
    ]:
        yield f"a: {scalar}\n"
        yield f"a: [{scalar}, {{b: {scalar}}}]\n"
    yield "a: &x {b: c}\nd: *x\ne:\n  <<: *x\n  f: g\n"
    yield "a: |\n  x\n  y\nb: >-\n  x\n\n  y\n? c\n: d\n"
    yield "- - a\n  - b\n-\n  c: d\n"
    yield "%YAML 1.2\n---\na: b\n...\n"
    yield "a:\nb:\n"
    yield "# only a comment\n"


def shape(node: Any) -> Any:
    if node is None or nodes.is_scalar(node):
        return node and (str(node.tag), node.value)
    inside = [shape(one) for entry in node.value for one in (entry if isinstance(entry, tuple) else [entry])]
    return (str(node.tag), inside, node.start_mark.line, node.start_mark.column)


@pytest.mark.parametrize("text", [*texts()])
def test_both_parsers_read_the_same(text: str) -> None:
    slow = YAML(typ="safe", pure=True)
    slow.allow_duplicate_keys = True
    root = nodes.compose(text)
    assert shape(root) == shape(slow.compose(text))
    try:
        data = slow.load(text)
    except YAMLError as error:
        with pytest.raises(type(error)):
            nodes.construct(root)
    else:
        assert data is None or nodes.construct(root) == data
