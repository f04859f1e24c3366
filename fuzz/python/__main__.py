"""`python fuzz/python TARGET [libFuzzer's arguments]`: feeds a target's `check` from atheris."""

import importlib
import sys

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]


def main() -> None:
    """The target's module and ours are imported with coverage, or libFuzzer would be blind."""
    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=["sluicegate", "ruamel", target]):
        module = importlib.import_module(target)
    atheris.Setup(sys.argv, module.check)
    atheris.Fuzz()


main()
