"""`sluicegate replay FILE`: send dead letters again (contract section 4.5).

Each letter is moved once. The file is renamed to FILE.replay first, so that the gateway goes on with a new FILE; then
letter by letter either goes to the gateway or back into FILE. FILE.replay.done says how far that has come, so that a
replay which was interrupted goes on where it was: at most the last request is then sent twice, and not even that where
entries have an `Id`.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import orjson

from ..deadletters import append_lines, locked
from .client import api_option, call
from .errors import CliError, Exit
from .options import output_option

BATCH = 100  # entries in one request


@dataclass(slots=True)
class _Letter:
    line: bytes
    source: str = ""
    reason: str = ""
    entry: dict[str, Any] | None = None
    """None: nothing that could be sent."""


@click.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--reason", "reasons", multiple=True, metavar="REASON", help="Only letters that failed so; repeatable."
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Only letters of this PacketSource; repeatable.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N entries a second."
)
@click.option("--ignore-expiry", is_flag=True, help="Send entries although their ExpiresAt has passed.")
@click.option("--dry-run", is_flag=True, help="Count what would be sent; change nothing.")
@api_option
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    file: Path,
    reasons: tuple[str, ...],
    sources: tuple[str, ...],
    rate: float | None,
    ignore_expiry: bool,
    dry_run: bool,
    api: str,
    output: str,
) -> None:
    """Send the dead letters in FILE again, through the gateway that runs.

    A letter that fails again comes back into FILE with its new reason. What is not asked for, has expired or cannot be
    sent stays in FILE. TtlSeconds starts anew.
    """

    def choose(letter: _Letter) -> str:
        """What to do with a letter, by the name under which it is counted."""
        if letter.entry is None:
            return "Unusable"
        if (reasons and letter.reason not in reasons) or (sources and letter.source not in sources):
            return "NotAsked"
        if not ignore_expiry and _expired(letter.entry):
            return "Expired"
        return "Replayed"

    moved = file.with_name(file.name + ".replay")
    counts: Counter[str] = Counter()
    if dry_run:
        for path in (moved, file):
            counts.update(choose(letter) for letter in _read(path, 0)) if path.exists() else None
    else:
        if not moved.exists():
            _take(file, moved)
        _replay(file, moved, choose, counts, rate, ignore_expiry, api)
    _show(counts, file, dry_run, output)
    ctx.exit(Exit.FAILED if counts["Failed"] else Exit.OK)


def _replay(
    file: Path,
    moved: Path,
    choose: Any,
    counts: Counter[str],
    rate: float | None,
    ignore_expiry: bool,
    api: str,
) -> None:
    keeps = _keeping_sources(api)
    progress = moved.with_name(moved.name + ".done")
    done = int(progress.read_text() or 0) if progress.exists() else 0
    letters = _read(moved, done)
    batch_size = BATCH if rate is None else max(1, min(BATCH, int(rate / 10)))
    begun, sent = time.monotonic(), 0
    for verdict, group in itertools.groupby(letters, key=lambda one: (choose(one), one.source)):
        while batch := list(itertools.islice(group, batch_size)):
            if verdict[0] == "Replayed":
                if rate is not None:
                    time.sleep(max(0.0, begun + sent / rate - time.monotonic()))
                sent += len(batch)
                failed = _send(api, verdict[1], batch, ignore_expiry)
                counts["Failed"] += len(failed)
                counts["Replayed"] += len(batch) - len(failed)
                # The gateway keeps what fails again, if the PacketSource has a place for it; else it goes back.
                back = [] if verdict[1] in keeps else [batch[index].line for index in failed]
            else:
                counts[verdict[0]] += len(batch)
                back = [letter.line for letter in batch]
            if back:
                append_lines(file, b"".join(back))
            done += len(batch)
            progress.write_text(str(done))
    moved.unlink()
    progress.unlink(missing_ok=True)


def _take(file: Path, moved: Path) -> None:
    """Move the file away, while nobody writes to it."""
    if not file.exists():
        raise CliError(
            f"{file} does not exist: no entry has failed, or `dead_letter_queue_arn` names another file"
        )
    try:
        with locked(file):
            file.rename(moved)
    except OSError as refused:
        raise CliError(
            f"{file} cannot be moved: {refused.strerror}, check the directory's permissions"
        ) from None


def _read(path: Path, done: int) -> Iterator[_Letter]:
    with path.open("rb") as lines:
        for line in itertools.islice((line for line in lines if line.strip()), done, None):
            yield _parse(line if line.endswith(b"\n") else line + b"\n")


def _parse(line: bytes) -> _Letter:
    try:
        document = orjson.loads(line)
        source, reason, entry = document["PacketSource"], document["Reason"], document["Entry"]
    except (ValueError, KeyError, TypeError):
        return _Letter(line)
    return _Letter(line, str(source), str(reason), entry if isinstance(entry, dict) else None)


def _expired(entry: dict[str, Any]) -> bool:
    try:
        return datetime.fromisoformat(entry["ExpiresAt"]) <= datetime.now(UTC)
    except (KeyError, TypeError, ValueError):
        return False


def _send(api: str, source: str, batch: list[_Letter], ignore_expiry: bool) -> list[int]:
    """Indices of the entries that failed again."""
    entries = [dict(letter.entry or {}) for letter in batch]
    for entry in entries:
        if ignore_expiry:
            entry.pop("ExpiresAt", None)
    answer = call(api, "POST", f"/v1/packet-sources/{quote(source, safe='')}/messages", {"Messages": entries})
    return sorted({failure["Index"] for failure in answer["Failures"] if failure["Index"] is not None})


def _keeping_sources(api: str) -> set[str]:
    items = call(api, "GET", "/v1/packet-sources")["Items"]
    return {item["Name"] for item in items if str(item.get("DeadLetterQueueArn", "")).startswith("file:")}


def _show(counts: Counter[str], file: Path, dry_run: bool, output: str) -> None:
    names = ("Replayed", "Failed", "Expired", "NotAsked", "Unusable")
    if output == "json":
        click.echo(json.dumps({name: counts[name] for name in names}))
        return
    verb = "would be sent" if dry_run else "sent"
    click.echo(f"{counts['Replayed']} {verb}")
    stay = {
        "Failed": "failed again",
        "Expired": f"stay in {file}: their ExpiresAt has passed (--ignore-expiry sends them)",
        "NotAsked": f"stay in {file}: not asked for",
        "Unusable": f"stay in {file}: not an entry that could be sent",
    }
    for name, what in stay.items():
        if counts[name]:
            click.echo(f"{counts[name]} {what}")
