"""Replaying a file of dead letters.

Each letter is moved once. The file is renamed to FILE.replay first, so that the gateway goes on with a new FILE; then
letter by letter either goes to the gateway or back into FILE. FILE.replay.done says how far that has come, so that a
replay which was interrupted goes on where it was: at most the last request is then sent twice, and not even that where
entries have an `Id`.
"""

import errno
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from sluicegate.cli.client import call
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError
from sluicegate.cli.replay.letters import Choice, Counts, Letter, Pace, fitting, keeping, parse, send
from sluicegate.linefile import append_locked, locked
from sluicegate.regular import open_regular, read_regular, require_regular


def count_file(file: Path, choice: Choice) -> Counts:
    """What `replay_file` would do."""
    counts = Counts()
    for path in (_moved(file), file):
        if path.exists():
            counts.update(choice.disposition(letter) for letter in _read(path, 0))
    return counts


def replay_file(file: Path, api: Api, choice: Choice, rate: float | None) -> Counts:
    """Send what is asked for; how many letters ended how. Raises `CliError`."""
    moved, counts, pace = _moved(file), Counts(), Pace(rate)
    if not moved.exists():
        _take(file, moved)
    keeps = keeping(call(api, "GET", "/v1/packet-sources")["Items"])
    progress = moved.with_name(moved.name + ".done")
    done = int(read_regular(progress) or 0) if progress.exists() else 0
    letters = _read(moved, done)
    for (disposition, source), group in itertools.groupby(
        letters, key=lambda one: (choice.disposition(one), one.source)
    ):
        for batch in _batches(group, pace.batch):
            if disposition == "Replayed":
                time.sleep(pace.seconds(sum(letter.packets for letter in batch)))
                sent = send(api, source, batch, choice.ignore_expiry)
                counts.add(sent, len(batch))
                # The gateway keeps what fails again, if the PacketSource has a place for it; else it goes back.
                kept = source in keeps and sent.settled
                back = (
                    []
                    if kept
                    else [
                        batch[place].only(sent.failed[place], sent.remotes.get(place, ()))
                        for place in sorted(sent.failed)
                    ]
                )
            else:
                counts[disposition] += len(batch)
                back = [letter.raw for letter in batch]
            if back:
                _put_back(file, b"".join(back))
            done += len(batch)
            progress.write_text(str(done))
    moved.unlink()
    progress.unlink(missing_ok=True)
    return counts


def _moved(file: Path) -> Path:
    return file.with_name(file.name + ".replay")


def _take(file: Path, moved: Path) -> None:
    """Move the file away, while nobody writes to it."""
    if not file.exists():
        raise CliError(
            f"{file} does not exist: no entry has failed, or `dead_letter_queue_arn` names another file"
        )
    try:
        require_regular(file.stat(), file)
        with locked(file):
            file.rename(moved)
    except OSError as refused:
        raise CliError(f"{file} cannot be moved: {refused.strerror}, {_fix(refused)}") from None


def _put_back(file: Path, lines: bytes) -> None:
    try:
        append_locked(file, lines)
    except OSError as refused:
        cause = f"letters cannot be put back into {file}: {refused.strerror}"
        raise CliError(f"{cause}, {_fix(refused)} and run this again") from None


def _fix(refused: OSError) -> str:
    if refused.errno == errno.EAGAIN:
        return "end the program that holds it (`lsof` names it)"
    return "check the file, and the permissions of its directory"


def _batches(letters: Iterator[Letter], limit: int) -> Iterator[list[Letter]]:
    waiting: list[Letter] = []
    while waiting := waiting + list(itertools.islice(letters, limit - len(waiting))):
        count = fitting(waiting, limit)
        yield waiting[:count]
        waiting = waiting[count:]


def _read(path: Path, done: int) -> Iterator[Letter]:
    try:
        opened = open_regular(path)
    except OSError as refused:
        raise CliError(f"{path} cannot be read: {refused.strerror}") from None
    with os.fdopen(opened, "rb") as lines:
        for line in itertools.islice((line for line in lines if line.strip()), done, None):
            yield parse(line if line.endswith(b"\n") else line + b"\n")
