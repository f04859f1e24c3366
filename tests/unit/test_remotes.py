"""One payload, many remotes (contract sections 4.1 and 4.5): what is told and kept of those that failed."""

import json
from typing import Any

import pytest

from sluicegate.cli.replay.letters import BATCH, BATCH_PACKETS, fitting, parse
from sluicegate.deadletters.failures import Failure, Failures
from sluicegate.deadletters.letter import LETTER_BYTES, FailedMessage
from sluicegate.events.entries import Entries

AT = "2026-06-09T10:00:00.123Z"
UNREACHABLE = "the kernel says: Network is unreachable"


def remote(number: int) -> dict[str, Any]:
    return {"IP": f"198.51.{100 + number // 250}.{1 + number % 250}", "Port": 5683}


def failed(body: object, failures: list[tuple[int, int | None, str]]) -> FailedMessage:
    given = [(index, reason, UNREACHABLE) for index, _, reason in failures]
    places = [place for _, place, _ in failures]
    return FailedMessage("replies", "decoder", "m1", AT, json.dumps(body).encode(), Failures(given, places))


def test_failures_know_their_remote() -> None:
    failures = Failures([(1, "Expired", "late"), (None, "SendFailed", "x")], [7, None])
    assert list(failures) == [Failure(1, "Expired", "late", 7), Failure(None, "SendFailed", "x")]
    assert failures[0].remote_index == 7
    assert list(failures.alike(0)) == [[failures[0]], [failures[1]]]


def test_remotes_that_fail_for_one_reason_share_a_letter() -> None:
    entry = {"Data": "AQ==", "Id": "fw", "Remotes": [remote(number) for number in range(6)]}
    body = {"Messages": [{"Data": "", "Remote": remote(9)}, entry]}
    message = failed(
        body,
        [(1, 5, "Expired"), (0, None, "Expired"), (1, 0, "RemoteDenied"), (1, 2, "Expired")],
    )
    letters = [json.loads(letter.line()) for letter in message.letters()]
    assert [(one["Index"], one.get("RemoteIndexes"), one["Reason"]) for one in letters] == [
        (0, None, "Expired"),
        (1, [5, 2], "Expired"),
        (1, [0], "RemoteDenied"),
    ]
    assert letters[1]["Entry"] == entry | {"Remotes": [remote(5), remote(2)]}
    lines = list(message.lines())
    assert sum(line.entries for line in lines) == 4
    assert sorted(line.data for line in lines) == sorted(letter.line() for letter in message.letters())


@pytest.mark.attack
@pytest.mark.parametrize("data", ["x" * 1_600, "x" * 150_000, "\uffff" * 30_000])
def test_letters_of_remotes_pass_no_limit(data: str) -> None:
    count = 5_000
    body = {"Data": data, "Remotes": [remote(number) for number in range(count)]}
    message = failed(body, [(0, place, "RemoteUnreachable") for place in range(count)])
    letters = list(message.letters())
    texts = [letter.text(LETTER_BYTES) for letter in letters]
    assert all(len(text.encode()) <= LETTER_BYTES for text in texts)
    assert sum(map(len, texts)) < 1 << 20
    assert sum(letter.failures for letter in letters) == count
    assert sum(map(len, (line.data for line in message.lines()))) < 2 << 20
    found = [place for text in texts for place in json.loads(text).get("RemoteIndexes", [])]
    assert found == list(range(count))
    for letter in letters:
        assert len(letter.text(1_024).encode()) <= 1_024


def test_all_remotes_of_a_large_message_fail_in_less_than_a_mebibyte() -> None:
    count = 5_000
    data = "A" * 1_600
    body = {"Data": data, "Remotes": [remote(number) for number in range(count)]}
    message = failed(body, [(0, place, "RemoteUnreachable") for place in range(count)])
    lines = list(message.lines())
    assert sum(len(line.data) for line in lines) < 1 << 20
    entries = [entry for line in lines for entry in parse(line.data).entries or ()]
    assert [one for entry in entries for one in entry["Remotes"]] == body["Remotes"]
    assert {entry["Data"] for entry in entries} == {data}


def test_a_letter_goes_back_with_the_remotes_that_failed_again() -> None:
    body = {"Data": "", "Remotes": [remote(number) for number in range(10)]}
    message = failed(body, [(0, place, "Expired") for place in (1, 3, 5, 7)])
    (letter,) = [parse(letter.line()) for letter in message.letters()]
    assert letter.packets == 4
    back = parse(letter.only([0], {3, 1}))
    assert json.loads(back.raw)["RemoteIndexes"] == [3, 7]
    assert (back.entries or [])[0]["Remotes"] == [remote(3), remote(7)]
    assert letter.only([0]) == letter.raw


def test_a_replay_asks_for_no_more_packets_than_a_message_may() -> None:
    entry = {"Data": "", "Remotes": [{}] * (BATCH_PACKETS // 3)}
    line = json.dumps({"PacketSource": "replies", "Reason": "Expired", "Entry": entry}).encode()
    assert fitting([parse(line)] * 10, BATCH) == 3


def test_events_name_the_remote_that_failed() -> None:
    remotes = [remote(0), {"Tag": "abc"}, None, 5]
    entries = Entries(json.dumps({"Messages": [{"Data": "AQID", "Id": "fw", "Remotes": remotes}]}).encode())
    assert entries.fields(0, 0) == {"Id": "fw", "Remote": remote(0), "Bytes": 3}
    assert entries.fields(0, 1) == {"Id": "fw", "Tag": "abc", "Bytes": 3}
    for place in (2, 3, 4):
        assert entries.fields(0, place) == {"Id": "fw", "Bytes": 3}
    assert entries.fields(0) == {"Id": "fw", "Bytes": 3}
