"""Lists for people: columns as wide as their widest cell, the last one as it is."""

from collections.abc import Sequence

import click


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equally many cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]))
