"""The journal of sent Ids: what a restart recalls."""

from pathlib import Path

from sluicegate.state.journal import Journal


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def journal(path: Path, clock: Clock, limit: int = 100) -> Journal:
    return Journal(path / "ids", seconds=10, limit=limit, clock=clock)


def test_a_restart_recalls_what_is_still_in_the_window(tmp_path: Path) -> None:
    clock = Clock()
    first = journal(tmp_path, clock)
    first.append([("s", "old")])
    clock.now += 9
    first.append([("s", "a"), ("t", 'b\n"')])
    first.append([])
    clock.now += 2
    # No close: the process just ended.
    assert journal(tmp_path, clock).recall() == [("s", "a", 2.0), ("t", 'b\n"', 2.0)]


def test_nothing_yet(tmp_path: Path) -> None:
    assert journal(tmp_path, Clock()).recall() == []


def test_a_cut_line_harms_neither_the_lines_before_nor_those_after(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock)
    one.append([("s", "a")])
    one.close()
    with one.path.open("ab") as file:
        file.write(b'[1000000.0,"s","cu')
    again = journal(tmp_path, clock)
    again.append([("s", "b")])
    assert [entry_id for _, entry_id, _ in again.recall()] == ["a", "b"]


def test_old_files_leave_but_never_a_line_of_the_window(tmp_path: Path) -> None:
    clock = Clock()
    one = journal(tmp_path, clock, limit=10)
    for number in range(1_000):
        one.append([("s", str(number))])
        clock.now += 0.5  # 20 lines in a window of 10 s, 10 in a file: the limit is the window here
        recalled = [entry_id for _, entry_id, _ in journal(tmp_path, clock, limit=10).recall()]
        assert recalled[-10:] == [str(n) for n in range(max(0, number - 9), number + 1)]
    assert sum(len(file.read_bytes().splitlines()) for file in tmp_path.iterdir()) <= 20


def test_a_clock_set_back_loses_nothing(tmp_path: Path) -> None:
    clock = Clock()
    journal(tmp_path, clock).append([("s", "a")])
    clock.now -= 3_600
    assert journal(tmp_path, clock).recall() == [("s", "a", 0.0)]
