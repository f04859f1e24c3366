"""The entries of a kept body: each is found and shown by itself, whatever the others are."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.events.entries import Entries, writable

GOOD = {"Id": 'a, ]"\\', "Data": "AA==", "Remote": {"Address": "198.51.100.7", "Port": 1}}
DEEP, DEEPER = ("[" * depth + "]" * depth for depth in (300, 1_100))
POISON = [DEEP, DEEPER, '"\\ud800"', "1e999"]


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("name", ['"Messages"', '"Mess\\u0061ges"', '"Replies"'])
def test_what_cannot_be_read_or_written_again_is_its_own_text_and_spoils_no_other(
    poison: str, name: str
) -> None:
    entry = f'{{"Data":"!!","X":{poison}}}'
    entries = Entries(f'{{"A":"Messages",{name} : [ {entry} , 1,{json.dumps(GOOD)}, null ]}}'.encode())
    assert [entries.entry(index) for index in range(5)] == [entry, 1, GOOD, None, None]
    assert entries.fields(2)["Id"] == GOOD["Id"]


@pytest.mark.parametrize("poison", POISON)
def test_one_flat_entry_that_cannot_be_written_again_is_the_body_s_text(poison: str) -> None:
    body = f'{{"Data":"AA==","X":{poison}}}'
    assert Entries(body.encode()).entry(0) == body


@pytest.mark.parametrize("body", [b"\xff{", b"[1]", b'{"Messages":{"0":1}}', b"", b"]]]", b'"'])
def test_what_is_no_message_is_the_body_s_text(body: bytes) -> None:
    assert Entries(body).entry(None) == body.decode("utf-8", "replace")
    assert Entries(body).entry(7) is None


def test_letters_of_a_body_that_cannot_be_read_are_not_each_as_long_as_the_body() -> None:
    entries = Entries(b'{"Messages":[' + b"1," * 10_000 + b'"\\ud800"]}')
    assert sum(len(str(entries.entry(index))) for index in range(10_001)) < 20_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.lists(json_values, max_size=6),
    st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    st.sampled_from(["Messages", "Replies"]),
    st.sampled_from([None, 2]),
)
def test_entries_are_cut_where_a_parser_would(
    listed: list[Any], around: dict[str, Any], name: str, indent: int | None
) -> None:
    document = {**around, name: [*listed, json.loads(DEEP)]}
    body = json.dumps(document, indent=indent).encode()
    entries = Entries(body)
    assert [entries.entry(index) for index in range(len(listed))] == listed
    text = entries.entry(len(listed))
    assert isinstance(text, str)
    assert orjson.loads(text) == json.loads(DEEP)


def test_what_is_writable_is_so_inside_of_a_letter_and_of_a_request() -> None:
    deepest = next(depth for depth in range(300, 0, -1) if writable(json.loads("[" * depth + "]" * depth)))
    orjson.dumps({"Messages": [json.loads("[" * deepest + "]" * deepest)]})
