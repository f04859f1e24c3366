"""What a benchmark found: medians over rounds, ratios of each round's own pair, a table."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Sample:
    """One round of one system: packets a second, the part that was lost, processor microseconds a packet."""

    rate: float
    loss: float | None = None
    cpu: float | None = None


@dataclass(slots=True)
class Row:
    """A line of the table. `ratio` is the system's rate to the baseline's, `cpu_ratio` the baseline's processor time
    a packet to the system's; both the median of the rounds' own ratios. Of latencies it is the baseline's to the
    system's, so that more is better everywhere. `met` is "unclear" where the two disagree about the goal: a machine
    that others use moves rates more than processor time."""

    name: str
    rate: float | None = None
    unit: str = "/s"
    loss: float | None = None
    cpu: float | None = None
    baseline: str = ""
    baseline_rate: float | None = None
    ratio: float | None = None
    cpu_ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: str = ""
    met: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    name: str, system: Sequence[Sample], against: str, other: Sequence[Sample], goal: float | None = None
) -> Row:
    """The system's rounds next to the baseline's, round by round."""
    pairs = list(zip(system, other, strict=True))
    ratios = [one.rate / two.rate for one, two in pairs if two.rate]
    cpu_ratios = [two.cpu / one.cpu for one, two in pairs if one.cpu and two.cpu]
    ratio = median(ratios)
    return Row(
        name=name,
        rate=median([one.rate for one in system]),
        loss=median([one.loss for one in system if one.loss is not None]),
        cpu=median([one.cpu for one in system if one.cpu is not None]),
        baseline=against,
        baseline_rate=median([two.rate for two in other]),
        ratio=ratio,
        cpu_ratio=median(cpu_ratios),
        spread=(min(ratios), max(ratios)) if ratios else None,
        goal=f">= {goal:g}" if goal is not None else "",
        met=""
        if goal is None
        else verdict([one for one in (ratio, median(cpu_ratios)) if one is not None], goal),
    )


def verdict(ratios: Sequence[float], goal: float) -> str:
    """Whether every ratio, none, or only some reach the goal."""
    reached = [ratio >= goal for ratio in ratios]
    return yes_or_no(all(reached)) if all(reached) or not any(reached) else "unclear"


def yes_or_no(met: bool) -> str:
    return "yes" if met else "NO"


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


HEAD = (
    "benchmark",
    "rate",
    "loss",
    "CPU us",
    "baseline",
    "its rate",
    "ratio",
    "spread",
    "CPU ratio",
    "goal",
    "met",
)

WORDS = (0, 4)  # columns that are no numbers


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """The rows as text; with `markdown` for a document."""
    cells = [HEAD, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = ["  ".join(map(_pad, range(len(HEAD)), line, widths)) for line in cells]
    if not markdown:
        return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])
    bars = [f"| {' | '.join(line)} |" for line in cells]
    rule = "|" + "|".join("---" if i in WORDS else "--:" for i in range(len(HEAD))) + "|"
    return "\n".join([bars[0], rule, *bars[1:]])


def _pad(column: int, cell: str, width: int) -> str:
    return cell.ljust(width) if column in WORDS else cell.rjust(width)


def _cells(row: Row) -> tuple[str, ...]:
    spread = f"{row.spread[0]:.2f}-{row.spread[1]:.2f}" if row.spread else ""
    return (
        row.name,
        _number(row.rate) + ("" if row.rate is None else row.unit),
        "" if row.loss is None else f"{row.loss * 100:.1f}%",
        "" if row.cpu is None else f"{row.cpu:.2f}",
        row.baseline,
        _number(row.baseline_rate) + ("" if row.baseline_rate is None else row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        spread,
        "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}",
        row.goal,
        row.met,
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
