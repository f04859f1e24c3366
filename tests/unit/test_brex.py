"""BREX where users write it: in a configuration, among a Destination's arguments, on the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sluicegate import Arguments, DestinationError
from sluicegate.cli import main
from sluicegate.destinations.batch import RecordBatch
from sluicegate.testing import packet_batch

MAVLINK = "[0] == 0xFE ? [3:5] : ([0] == 0xFD ? [5:7] : 0xFFFF)"


def test_validate_points_at_the_character(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "listeners:\n  - name: a\n    destinations:\n"
        "      - { destination_arn: 'console:', filter_expression: '[0] == 0xFG' }\n"
    )
    result = CliRunner().invoke(main, ["validate", str(file)])
    assert result.exit_code == 1
    assert "gateway.yaml:4:" in result.output
    assert 'character 8 of the expression: "0xFG" is no hex literal' in result.output
    file.write_text(file.read_text().replace("0xFG", "0xFE"))
    assert CliRunner().invoke(main, ["validate", str(file)]).exit_code == 0


@pytest.mark.parametrize("text", ["", "[0", "GET", "[0] ==", "u17[0]", "(" * 99, "1" * 5000])
def test_a_wrong_argument_is_named(text: str) -> None:
    if not text:
        assert Arguments({"KeyExpression": text}, "d").expression("KeyExpression") is None
        return
    with pytest.raises(DestinationError) as caught:
        Arguments({"key_expression": text}, "destination d").expression("KeyExpression")
    assert caught.value.argument == ("key_expression",)
    assert caught.value.fix
    with pytest.raises(DestinationError) as caught:
        Arguments({"KeyExpression": "[0]", "KeyFormatter": "coap"}, "d").expression("KeyExpression")
    assert caught.value.argument == ("KeyFormatter",)


def test_values_follow_the_packets_that_are_repeated() -> None:
    batch = packet_batch("a", "b", "c", values={"Key": ["1", None, "3"]})
    some = RecordBatch.some_of(batch, [2, 1], ["Key", "Other"])
    assert (some.count, some.values("Key"), some.values("Other")) == (2, ["3", None], [None, None])


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--hex", "FE0900A2C200"], "A2C2"),
        (["--base64", "/QAAAAABwg=="], "01C2"),
        (["--text", "x"], "FFFF"),
        (["--text", "x", "--formatter", "base64"], "//8="),
    ],
)
def test_a_trial_on_the_command_line(arguments: list[str], value: str) -> None:
    result = CliRunner().invoke(main, ["brex", MAVLINK, *arguments])
    assert result.exit_code == 0
    assert f"value: {value}\nas a filter: the packet passes\n" in result.output
    result = CliRunner().invoke(main, ["brex", MAVLINK, *arguments, "--output", "json"])
    assert json.loads(result.output)["Value"] == value


def test_mistakes_on_the_command_line() -> None:
    result = CliRunner().invoke(main, ["brex", "[0] == 0xFG", "--hex", "00"])
    assert result.exit_code == 1
    assert "  [0] == 0xFG\n         ^\ncharacter 8: " in result.output
    assert CliRunner().invoke(main, ["brex", "[0]"]).output == "valid\n"
    assert CliRunner().invoke(main, ["brex", "[0]", "--base64", "x"]).exit_code == 2
    assert CliRunner().invoke(main, ["brex", "[0]", "--hex", "00", "--text", "x"]).exit_code == 2
    costly = CliRunner().invoke(main, ["brex", "[:] == [:] && [:] == [:]", "--text", "x" * 40_000])
    assert costly.exit_code == 1
    assert "value: null" in costly.output
