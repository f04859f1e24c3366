"""Documents of replies out of a stream of bytes: what is found, whatever the cuts, and in bounded memory."""

from __future__ import annotations

import doctest
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.destinations import framing
from sluicegate.destinations.framing import DEPTH_LIMIT, DOCUMENT_LIMIT, Found, Framing, Malformed


def found(*pieces: bytes) -> list[Found]:
    reader = Framing()
    answers = [one for piece in pieces for one in reader.feed(piece)]
    return answers + reader.end()


def test_the_example_runs() -> None:
    failed, attempted = doctest.testmod(framing)
    assert attempted
    assert failed == 0


PACKETS = st.fixed_dictionaries(
    {"Tag": st.text(max_size=8), "Data": st.none() | st.text(max_size=12)},
    optional={"GeneratedAt": st.text(max_size=4)},
)
DOCUMENTS = PACKETS | st.fixed_dictionaries(
    {"Replies": st.none() | st.lists(st.none() | PACKETS, max_size=3)}
)
ENCODED = st.tuples(
    DOCUMENTS,
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["", "\n", " ", "\r\n\n", "null", "\nnull\n"]),
)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.lists(ENCODED, max_size=6), st.data())
def test_any_split_of_any_documents_finds_them(
    documents: list[tuple[dict[str, object], bool, int | None, str]], data: st.DataObject
) -> None:
    stream = "".join(
        json.dumps(document, ensure_ascii=ascii_only, indent=indent) + behind
        for document, ascii_only, indent, behind in documents
    ).encode("utf-8", "surrogatepass")
    expected = [one if "Replies" in one else {"Replies": [one]} for one, *_ in documents]
    for pieces in (data.draw(cut(stream)), [stream[i : i + 1] for i in range(len(stream))], [stream]):
        assert [json.loads(one) if isinstance(one, bytes) else one for one in found(*pieces)] == expected


TOKENS = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b"\n",
        b" ",
        b"null",
        b"nul",
        b"\0",
        b"\xc3",
        b"\xa9",
        b'{"Tag":"a","Data":""}',
        b",",
    ]
)


@given(st.lists(TOKENS | st.binary(max_size=4), max_size=30).map(b"".join), st.data())
def test_any_split_of_any_bytes_finds_the_same(stream: bytes, data: st.DataObject) -> None:
    assert found(*data.draw(cut(stream))) == found(stream)


GOOD = b'{"Replies":[{"Tag":"a","Data":""}]}'


@pytest.mark.parametrize(
    ("stream", "offset", "detail"),
    [
        (b"oops\n", 0, "begins no document"),
        (b"  \n nul\n", 4, "begins no document"),
        (b"nulx\n", 0, "begins no document"),
        (b"\xff\n", 0, "begins no document"),
        (b'{"Tag": }\n', 0, "not JSON (line 1, column 9 of it)"),
        (b'{"Tag": "\xff"}\n', 0, "not JSON"),
        (b"{]\n", 0, "not JSON"),
        (b"[1]\n", 0, "a list"),
        (b'{"Tag": "a\n', 0, "ends inside a string"),
        (b'{"Tag": "a\\\n', 0, "ends inside a string"),
        (b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1), 0, "deeper than 64"),
    ],
)
def test_what_is_no_document_is_told_with_its_place_and_read_past(
    stream: bytes, offset: int, detail: str
) -> None:
    wrong, *after = found(GOOD, stream + GOOD)[1:]
    assert isinstance(wrong, Malformed)
    assert (wrong.offset, after) == (len(GOOD) + offset, [GOOD])
    assert detail in wrong.detail


def test_a_document_without_an_end_is_told_at_the_end() -> None:
    assert found(GOOD + b'\n{"Tag": ') == [
        GOOD,
        Malformed(len(GOOD) + 1, "a document without an end, 8 bytes long"),
    ]


def test_the_head_of_an_answer_for_http_is_no_reply() -> None:
    assert found(b'{"statusCode":200,"headers":{}}' + bytes(8) + GOOD) == [GOOD]


@pytest.mark.parametrize(
    "piece", [b'"' + b"x" * (1 << 20), b"{" * (1 << 20), b'{"a":"' + b"b" * 60_000, b"x" * (1 << 20)]
)
def test_a_stream_without_an_end_needs_no_memory(piece: bytes) -> None:
    reader = Framing()
    tracemalloc.start()
    try:
        reader.feed(b'{"Data":"x')
        for _ in range(16 * 1024 * 1024 // len(piece)):
            assert all(isinstance(one, Malformed) for one in reader.feed(piece))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * DOCUMENT_LIMIT
    assert reader.feed(b'"}\n') is not None
