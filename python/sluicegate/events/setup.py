"""The sinks that a configuration asks for."""

from pathlib import Path

from sluicegate.events.file import FileSink
from sluicegate.events.sinks import Sink
from sluicegate.model import Events


def open_sinks(settings: Events, base_dir: Path, output: Sink) -> list[Sink]:
    """Standard output, which is `output`, and the file, as far as they are wanted. `file` is relative to `base_dir`.

    Raises `OSError` (with its `filename`) when the file cannot be opened.
    """
    sinks: list[Sink] = []
    if settings.file is not None:
        path = base_dir / settings.file
        sinks.append(FileSink(path, rotate_bytes=settings.rotate_mb << 20, keep=settings.keep))
    if settings.stdout:
        sinks.append(output)
    return sinks
