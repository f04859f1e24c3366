"""Ids are UUIDs of version 4, each a new one, in children too."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from sluicegate import ids


def test_each_is_a_new_random_uuid() -> None:
    made = [ids.new_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    for one in made:
        parsed = uuid.UUID(one)
        assert (str(parsed), parsed.version, parsed.variant) == (one, 4, uuid.RFC_4122)
    for place in (*range(8), *range(9, 13), *range(15, 18), *range(20, 23), *range(24, 36)):
        assert len({one[place] for one in made}) == 16, "a digit is any digit"
    assert {one[19] for one in made} == set("89ab")


def test_threads_get_different_ones() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: ids.new_id(), range(5_000)))
    assert len(set(made)) == 5_000


def test_random_bytes_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_ready", [])
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(256)) * (size // 256))
    assert ids.new_id() == "f0f1f2f3-f4f5-46f7-b8f9-fafbfcfdfeff"


def test_a_child_has_none_of_its_parents() -> None:
    ids.new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(len(ids._ready)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"0"
    os.close(read)
    os.close(write)
