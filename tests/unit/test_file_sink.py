"""Events in a file: bounded in size and number, found again after logrotate, never in the way when the disk is full."""

import json
from pathlib import Path

import pytest

from sluicegate.events import MemorySink
from sluicegate.events import file as file_module
from sluicegate.events.file import FileSink
from sluicegate.events.setup import open_sinks
from sluicegate.model import Events, GatewayConfig
from waiting import wait_until as until


def line(number: int) -> bytes:
    return b'{"Event":"E","Number":%6d}\n' % number


LINE = len(line(0))


def numbers(path: Path) -> list[int]:
    return [json.loads(one)["Number"] for one in path.read_bytes().splitlines()]


def test_lines_arrive_in_order_and_in_missing_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "events.log"
    sink = FileSink(path)
    for number in range(1000):
        sink.write(line(number))
    sink.close(10)
    assert numbers(path) == list(range(1000))
    assert sink.dropped == 0


def test_size_and_number_of_files_are_bounded_and_lines_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    sink = FileSink(path, rotate_bytes=10 * LINE + 3, keep=2)
    for number in range(95):
        sink.write(line(number))
    sink.close(10)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["events.log", "events.log.1", "events.log.2"]
    assert numbers(path) == list(range(90, 95))
    assert numbers(tmp_path / "events.log.1") == list(range(80, 90))
    assert numbers(tmp_path / "events.log.2") == list(range(70, 80))


def test_a_line_larger_than_a_file_gets_one_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    sink = FileSink(path, rotate_bytes=LINE, keep=3)
    long = b"[" + b" " * LINE + b"]\n"
    for one in (line(1), long, line(2)):
        sink.write(one)
    sink.close(10)
    contents = [path.read_bytes(), *((tmp_path / f"events.log.{n}").read_bytes() for n in (1, 2))]
    assert contents == [line(2), long, line(1)]


def test_a_restart_goes_on_in_the_same_file_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    path.write_bytes(line(1) + b'{"Event":"E","Num')
    sink = FileSink(path, rotate_bytes=100 * LINE)
    sink.write(line(2))
    sink.close(10)
    assert path.read_bytes() == line(1) + b'{"Event":"E","Num\n' + line(2)


@pytest.mark.parametrize("how", ["moved", "deleted", "directory deleted"])
def test_a_file_that_is_gone_is_opened_anew(how: str, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.log"
    sink = FileSink(path)
    sink.write(line(1))
    until(lambda: path.stat().st_size == LINE, "the line is written")
    if how == "moved":
        path.rename(tmp_path / "old")
    else:
        path.unlink()
        if how == "directory deleted":
            path.parent.rmdir()
    sink.write(line(2))
    sink.close(10)
    assert numbers(path) == [2]
    assert sink.dropped == 0
    if how == "moved":
        assert numbers(tmp_path / "old") == [1]


def test_a_full_disk_costs_lines_with_a_count_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "RETRY_SECONDS", 0.01)
    path = tmp_path / "events.log"
    path.symlink_to("/dev/full")  # writes fail with ENOSPC
    sink = FileSink(path, limit_bytes=10 * LINE)
    for number in range(50):
        sink.write(line(number))
    assert sink.dropped == 40
    path.unlink()  # there is room again
    until(lambda: path.exists() and b"EventsDropped" in path.read_bytes(), "the count is told")
    until(lambda: not sink._queued, "what was written has made room")
    sink.write(line(50))
    sink.close(10)
    events = [json.loads(one) for one in path.read_bytes().splitlines()]
    kept = [event["Number"] for event in events if event["Event"] == "E"]
    told = sum(event["Suppressed"] for event in events if event["Event"] == "EventsDropped")
    assert kept == [*range(10), 50]
    assert told == sink.dropped == 40


def test_a_disk_that_stays_full_does_not_hold_up_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    path.symlink_to("/dev/full")
    sink = FileSink(path)
    for number in range(3):
        sink.write(line(number))
    sink.close(60)
    assert sink.dropped == 3


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as refused:
        FileSink(tmp_path)
    assert refused.value.filename == str(tmp_path)


def test_the_configuration_chooses_the_sinks(tmp_path: Path) -> None:
    config = GatewayConfig.model_validate(
        {"events": {"stdout": False, "file": "logs/e.ndjson", "rotate_mb": 1}}
    )
    output = MemorySink()
    [sink] = open_sinks(config.events, tmp_path, output)
    assert isinstance(sink, FileSink)
    sink.write(line(1))
    sink.close(10)
    assert numbers(tmp_path / "logs" / "e.ndjson") == [1]
    assert open_sinks(Events(), tmp_path, output) == [output]
