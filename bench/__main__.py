"""`python -m bench [--quick] [--only NAME]... [--json FILE]`: runs the benchmarks and prints a table."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from . import (
    batching,
    cycles,
    echo,
    egress,
    expressions,
    handler,
    idle,
    ingress,
    languages,
    latency,
    listeners,
    many,
    offload,
    overload,
    publish,
    services,
    sns,
    sqs,
    wireguard,
)
from .plan import FULL, QUICK, Plan
from .processes import CORES, LOAD_CORE, TESTED_CORE, BenchError, commit
from .results import Row, table

BENCHMARKS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "ingress": ingress.run,
    "expressions": expressions.run,
    "egress": egress.run,
    "offload": offload.run,
    "sns": sns.run,
    "publish": publish.run,
    "sqs": sqs.run,
    "services": services.run,
    "echo": echo.run,
    "handler": handler.run,
    "batching": batching.run,
    "overload": overload.run,
    "latency": latency.run,
    "languages": languages.run,
    "idle": idle.run,
    "listeners": listeners.run,
    "cycles": cycles.run,
    "many": many.run,
    "wireguard": wireguard.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure Sluicegate against its baselines."
    )
    parser.add_argument("--quick", action="store_true", help="one short round each: shows that it runs")
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--rounds", type=int, help="rounds of each pair (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    given = parser.parse_args()
    plan = QUICK if given.quick else FULL
    if given.rounds:
        plan = Plan(**{name: getattr(plan, name) for name in Plan.__slots__} | {"rounds": given.rounds})
    if len(CORES) < 2:
        print("warning: one core for load and system: the numbers mean nothing", file=sys.stderr)
    rows: list[Row] = []
    failed: list[str] = []
    for name in given.only or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            for row in BENCHMARKS[name](plan):
                rows.append(row)
                print(f"  {table([row]).splitlines()[-1]}", file=sys.stderr, flush=True)
        except BenchError as error:
            failed.append(name)
            print(f"  failed: {error}", file=sys.stderr, flush=True)
    print(table(rows, markdown=given.markdown))
    if given.json:
        given.json.write_text(
            json.dumps({**_machine(), "quick": given.quick, "rows": [r.to_json() for r in rows]}, indent=1)
        )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _machine() -> dict[str, object]:
    return {
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": len(CORES),
        "load_core": LOAD_CORE,
        "tested_core": TESTED_CORE,
        "load_average": os.getloadavg(),
    }


if __name__ == "__main__":
    sys.exit(main())
