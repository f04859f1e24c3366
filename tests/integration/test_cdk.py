"""Stacks of the reference service's construct library, as `cdk synth` writes them (`tests/cdk/synthesise.py`)."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from harness import PROGRAM, Client, Gateway, run_program

from sluicegate.cli.apply import command

ASSEMBLY = Path(__file__).parents[1] / "cdk/cdk.out"
TEMPLATES = {file.name.removesuffix(".template.json"): file for file in ASSEMBLY.rglob("*.template.json")}

REFUSED = {
    "DtlsListener": ["dtls"],
    "DtlsListenerFull": ["dtls"],
    "ParameterStore": ["Parameter Store of an account", "--parameter SsmParameterValueudpclientnetwork"],
    "ReservedDestination": ["declare it in the"],
    "StringDestinations": ["somewhere-else"],
    "TopicOfAnotherStack": ["Fn::ImportValue reads the exports of another stack"],
    "WebRtcListener": ["webrtc"],
    "WebRtcListenerFull": ["webrtc"],
}
"""What this version does not do, with what names it. Every other stack is accepted."""

AT_AWS = ("ExistingTargets", "RegionMap")
"""Stacks that name what there is at AWS: applied with `--use-aws`, and their Destinations deliver there."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "listeners: []").start()
    yield made
    made.close()


@pytest.fixture
def shared(running: Gateway) -> Iterator[Gateway]:
    """One gateway for all stacks, empty for each."""
    yield running
    for path in ("packet-sources", "destination-arns", "listeners"):
        for one in running.api("GET", f"/v1/{path}").json()["Items"]:
            running.api("DELETE", f"/v1/{path}/{quote(one['Id'])}")


@pytest.fixture
def assembly(tmp_path: Path) -> Path:
    """A `cdk.out` that may be written to."""
    return Path(shutil.copytree(ASSEMBLY, tmp_path / "cdk.out"))


def apply(gateway: Gateway, template: Path, *options: str) -> Result:
    """`sluicegate apply`, against a gateway that runs as a process."""
    return CliRunner().invoke(command, [str(template), "--api", gateway.api_url, *options])


def applied(gateway: Gateway, template: Path, *options: str) -> dict[str, Any]:
    result = apply(gateway, template, "--output", "json", *options)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def actions(document: dict[str, Any]) -> dict[str, str]:
    return {step["LogicalId"]: step["Action"] for step in document["Steps"]}


def test_the_table_names_stacks_that_there_are() -> None:
    assert set(REFUSED) <= set(TEMPLATES)
    assert len(TEMPLATES) > 40


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_stack_is_accepted_or_refused_by_name_and_a_dry_run_says_the_same(
    shared: Gateway, tmp_path: Path, name: str
) -> None:
    template = TEMPLATES[name]
    options = ("--output", "json", "--directory", str(tmp_path / "record"))
    if name in AT_AWS:
        options = (*options, "--use-aws")
    planned = apply(shared, template, "--dry-run", *options)
    made = apply(shared, template, *options)
    for result in (planned, made):
        assert result.exit_code == (1 if name in REFUSED else 0), result.output
        assert isinstance(result.exception, SystemExit | None), result.output
        assert "unknown property" not in result.output
    if name in REFUSED:
        assert planned.stderr == made.stderr
        assert [one for one in REFUSED[name] if one not in made.stderr] == []
    else:
        assert noted(planned) == noted(made)
        assert "(not here:" not in made.output, "each output resolves"
    removed = apply(shared, template, "--delete", *options)
    assert removed.exit_code == 0, removed.output
    assert shared.api("GET", "/v1/listeners").json()["Items"] == []


def test_what_there_is_at_aws_is_not_bound_unless_the_user_says_so(shared: Gateway, tmp_path: Path) -> None:
    made = applied(shared, TEMPLATES["ExistingTargets"], "--directory", str(tmp_path))
    (listener,) = shared.api("GET", "/v1/listeners").json()["Items"]
    assert [one.keys() & {"DestinationArn", "Role"} for one in listener["Destinations"]] == [set()] * 13
    told = "\n".join(note["Text"] for note in made["Notes"])
    for one in listener["Destinations"]:
        assert f"packets for {one['Name']} are dropped and counted: arn:aws:" in told
    assert "AWS is not called without --use-aws" in told


def noted(result: Result) -> set[tuple[str, str]]:
    return {(note["LogicalId"], note["Text"]) for note in json.loads(result.stdout)["Notes"]}


def test_code_in_an_asset_folder_answers_packets(shared: Gateway, assembly: Path) -> None:
    """With the command of the documentation, as a user types it."""
    page = (ASSEMBLY.parents[2] / "docs/templates.md").read_text()
    (line,) = re.findall(r"^sluicegate (apply cdk.out/.*)$", page, re.M)

    def documented(*options: str) -> dict[str, Any]:
        command = [PROGRAM, *shlex.split(line), "--api", shared.api_url, "--output", "json", *options]
        ended = run_program(command, cwd=assembly.parent)
        assert ended.returncode == 0, ended.stderr
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    made = documented()
    (listener,) = actions(made)
    assert actions(made) == {listener: "create"}
    port = made["Outputs"]["Port"]
    assert made["Outputs"]["Endpoint"].endswith(f":{port}")
    assert made["Outputs"]["Destinations"] == f"echo-app-echo,dstn-EchoApp-{listener}-1"
    assert set(made["Listeners"]) == {listener}
    assert "CDKMetadata" not in str(made["Notes"]), "it tells AWS of a tool, and nothing of the stack"
    with Client() as device:
        device.send(b"knock knock", ("127.0.0.1", int(port)))
        assert device.receive()[0] == b"hello from KNOCK KNOCK"

    assert actions(documented()) == {listener: "keep"}
    assert actions(documented("--delete")) == {listener: "delete"}
    assert shared.api("GET", "/v1/listeners").json()["Items"] == []


def test_another_asset_is_another_answer(shared: Gateway, assembly: Path) -> None:
    """What a change of the code looks like after the next `cdk synth`: a folder of another name."""
    template = assembly / "EchoApp.template.json"
    port = int(applied(shared, template)["Outputs"]["Port"])
    (old,) = [one for one in assembly.glob("asset.*") if (one / "index.py").exists()]
    new = shutil.copytree(old, assembly / "asset.next")
    (new / "answers/shout.py").write_text("def loud(greeting, data):\n    return data[::-1]\n")
    template.write_text(template.read_text().replace(old.name, new.name))
    assert set(actions(applied(shared, template)).values()) == {"update"}
    with Client() as device:
        device.send(b"abc", ("127.0.0.1", port))
        assert device.receive()[0] == b"cba"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("NestedHandler", b" ABC"),
        ("DestinationArn", b"hello from ABC"),
        ("assembly-Live/LiveStaged87401CCD", b"hello from ABC"),
    ],
)
def test_other_ways_to_name_a_function(shared: Gateway, assembly: Path, name: str, answer: bytes) -> None:
    """A handler in a package, a function bound by a resource of its own, a stack in a Stage."""
    template = assembly / f"{name}.template.json"
    made = applied(shared, template)
    with Client() as device:
        device.send(b"abc", ("127.0.0.1", int(made["Outputs"]["Port"])))
        assert device.receive()[0] == answer


def test_a_listener_whose_name_holds_spaces(shared: Gateway, assembly: Path) -> None:
    """It stands in the path of the API, in events and in metrics."""
    template = assembly / "UdpListenerFull.template.json"
    made = applied(shared, template)
    assert shared.api("GET", "/v1/listeners/All%20that%20is").json()["Name"] == "All that is"
    with Client() as device:
        device.send(b"abc", ("127.0.0.1", int(made["Outputs"]["Port"])))
        assert device.receive()[0] == b"hello from ABC"
    assert shared.metrics().value("received_packets", listener="All that is") == 1
    assert set(actions(applied(shared, template)).values()) == {"keep"}


def test_a_stack_without_restrictions_admits_nobody_and_says_so(shared: Gateway, assembly: Path) -> None:
    template = assembly / "UdpListenerOpenToNobody.template.json"
    made = applied(shared, template)
    assert any("admits nobody" in note["Text"] for note in made["Notes"])
    (item,) = shared.api("GET", "/v1/listeners").json()["Items"]
    assert item["ClientRestrictions"]["Networks"] == []


def test_a_function_of_another_runtime_is_named(shared: Gateway, assembly: Path) -> None:
    template = assembly / "NodeFunction.template.json"
    template.write_text(template.read_text().replace("nodejs22.x", "java21"))
    made = applied(shared, template)
    (said,) = [note["Text"] for note in made["Notes"] if "java21" in note["Text"]]
    assert "the runtime java21 does not run" in said
    assert "give the function Runtime: provided.al2023" in said


def test_a_value_for_the_parameter_store_is_a_parameter(shared: Gateway, assembly: Path) -> None:
    template = assembly / "ParameterStore.template.json"
    parameters = json.loads(template.read_text())["Parameters"]
    (name,) = [one for one in parameters if one != "BootstrapVersion"]
    applied(shared, template, "--parameter", f"{name}=127.0.0.0/8")
    (item,) = shared.api("GET", "/v1/listeners").json()["Items"]
    assert item["ClientRestrictions"]["Networks"] == ["127.0.0.0/8"]
