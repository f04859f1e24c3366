"""`sluicegate validate` and `sluicegate schema` as a user or an editor sees them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sluicegate.cli import main

VALID = "listeners:\n  - name: a\n    destinations: [{ name: d, destination_arn: 'console:' }]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def test_a_valid_file(file: Path) -> None:
    file.write_text(VALID)
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert (result.exit_code, result.stdout) == (0, f"{file}: valid, 1 Listener, 0 PacketSources\n")


def test_problems_are_lines_and_exit_1(file: Path) -> None:
    file.write_text("regio: x\nnode: 0\n")
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert result.exit_code == 1
    assert result.stdout == (
        f"{file}:1:1: unknown key `regio`, did you mean `region`?\n"
        f"{file}:2:7: `node` must be at least 1, not 0, change the number\n"
    )


def test_a_missing_file_is_a_problem_like_any_other(file: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert (result.exit_code, result.stdout) == (
        1,
        f"{file}:1:1: the file does not exist, correct the path\n",
    )


def test_what_this_version_cannot_run_is_refused(file: Path) -> None:
    file.write_text(VALID + "    protocol: dtls\n")
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{file}:4:15: the protocol dtls: this version cannot")


def test_warnings_do_not_fail(file: Path) -> None:
    file.write_text("listeners:\n  - name: a\n")
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert result.exit_code == 0
    assert f"{file}:2:5: warning: " in result.stdout


def test_json_for_programs(file: Path) -> None:
    file.write_text("node: 0\n")
    result = CliRunner().invoke(main, ["validate", str(file), "--output", "json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "Valid": False,
        "Problems": [
            {
                "File": str(file),
                "Line": 1,
                "Column": 7,
                "Cause": "`node` must be at least 1, not 0",
                "Fix": "change the number",
            }
        ],
        "Warnings": [],
    }
    file.write_text(VALID)
    valid = CliRunner().invoke(main, ["validate", str(file), "--output", "json"])
    assert (valid.exit_code, json.loads(valid.stdout)["Valid"]) == (0, True)


def test_metrics_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "listeners:\n  - name: a\n    metrics_enabled: true\n"
        '    destinations: [{ name: d, destination_arn: "console:" }]\n'
    )
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert result.exit_code == 0
    assert "warning" not in result.stdout


def test_schema_is_one_json_document() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert {"region", "listeners", "packet_sources"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
