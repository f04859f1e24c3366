"""`sluicegate apply TEMPLATE`: the gateway's part of a CloudFormation or SAM template, without AWS."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from sluicegate.cfn.apply import LOCAL_CODE, ApplyError, Applying, Step
from sluicegate.cfn.aws import USE_AWS, Emulator
from sluicegate.cfn.dry_run import check
from sluicegate.cfn.egress import nearby_networks
from sluicegate.cfn.record import FILE, Record, RecordError
from sluicegate.cfn.stack import TOPIC, Known, Settings, Stack
from sluicegate.cfn.template import Template, TemplateError
from sluicegate.cli.client import api_option, reason, request
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError, Exit
from sluicegate.cli.options import NetworkText, output_option
from sluicegate.model.text import endpoint_text

_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
_SIGNS = {"create": "+", "update": "~", "replace": "±", "keep": "=", "delete": "-"}
_DONE = {
    "create": "created",
    "update": "updated",
    "replace": "replaced",
    "keep": "unchanged",
    "delete": "deleted",
}
_DEFAULT_REGION = "us-east-1"
_Endpoint = tuple[str, int]
"""An address and a port."""


class Pairs(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return name, text


@click.command("apply")
@click.argument("template", type=click.Path(path_type=Path))
@click.option("--parameter", "parameters", type=Pairs(), multiple=True, help="A parameter of the template.")
@click.option(
    "--stack",
    "stack_name",
    metavar="NAME",
    help="The stack's name.  [default: that of the file, or of its folder for template.yaml]",
)
@click.option("--region", help="AWS::Region.  [default: the gateway's]")
@click.option(
    "--egress-network",
    "networks",
    type=NetworkText(),
    multiple=True,
    help="Let PacketSources send there too. Private and loopback networks are named so, or packets do not go there: "
    "127.0.0.0/8 for clients on this machine.",
)
@click.option(
    "--bind",
    "binds",
    type=Pairs(),
    multiple=True,
    help="Bind a Listener of the template (its logical id or name) to ADDRESS:PORT: its LISTENER=ADDRESS:PORT.",
)
@click.option(
    "--include", "includes", type=Pairs(), multiple=True, help="A local FILE for AWS::Include: its NAME=FILE."
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Where inline code and the record of the stack are kept.  [default: STACK.sluicegate beside the template]",
)
@click.option(
    USE_AWS,
    "use_aws",
    is_flag=True,
    help="Let the gateway call what the template names at AWS, by its ARN or name.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--delete", "is_delete", is_flag=True, help="Remove what earlier applies of this stack made.")
@click.option(
    "--overwrite", is_flag=True, help="Also where somebody changed a resource since the last apply."
)
@api_option
@output_option
def command(
    template: Path,
    parameters: tuple[tuple[str, str], ...],
    stack_name: str | None,
    region: str | None,
    networks: tuple[str, ...],
    binds: tuple[tuple[str, str], ...],
    includes: tuple[tuple[str, str], ...],
    directory: Path | None,
    use_aws: bool,
    dry_run: bool,
    is_delete: bool,
    overwrite: bool,
    api: Api,
    output: str,
) -> None:
    """Make the gateway's resources of a CloudFormation or SAM TEMPLATE in a running gateway.

    Listeners, DestinationArns and PacketSources become the gateway's own, Lambda functions with code beside the
    template become local ones, SNS topics local topics. What cannot be had here is listed with the consequence. Apply
    again after a change. AWS is called with --use-aws alone, also where the template has an ARN of a real account.
    An emulator in the gateway's configuration (aws.endpoint_url) gets packets without it.
    """
    name = _checked_name(stack_name or _name_of(template))
    place = directory or template.absolute().parent / f"{name}.sluicegate"
    gateway = _Gateway(api)
    try:
        loaded = Template.load(template)
        record = Record(place, name)
        settings = Settings(
            name=name,
            region=region or gateway.region,
            made_dir=place.absolute(),
            environment=gateway.environment(use_aws),
            egress_networks=networks,
            nearby=tuple(nearby_networks()),
            includes={key: Path(file) for key, file in includes},
            use_aws=use_aws,
            binds=dict(binds),
            topics=gateway.sns is not None,
            emulator=gateway.emulator,
        )
        known = {key: Known(one.id, one.attributes) for key, one in record.made.items() if one.id is not None}
        stack = Stack(loaded, dict(parameters), settings, known)
        if (
            any(one.type == TOPIC for one in loaded.resources.values())
            and gateway.sns is None
            and not (gateway.emulator and "sns" in gateway.emulator.services)
            and not is_delete
        ):
            raise CliError(
                "this template has SNS topics, and the gateway has no SNS endpoint: "
                "add `sns: { bind: 127.0.0.1:4566 }` to its configuration and restart it"
            )
        applying = Applying(stack, record, gateway, lambda: _write_code(stack), overwrite=overwrite)
        report = _Report(output, dry_run=dry_run)
        if dry_run:
            steps = list(applying.planned_removal() if is_delete else applying.plan())
            check(gateway, stack, steps)
            report.steps(iter(steps))
        else:
            report.steps(applying.remove() if is_delete else applying.run())
        if is_delete and not dry_run:
            record.remove()
        added = stack.folders if gateway.adds_code and not is_delete else []
        outputs, speaking_of = ({}, {}) if is_delete else (stack.outputs(), stack.output_listeners())
        listeners = gateway.listeners(record)
        here = {
            output: [gateway.reachable(listeners[one]) for one in speaking_of[output] if one in listeners]
            for output in outputs
        }
        report.end(stack, _Outputs(outputs, here), listeners, added)
    except TemplateError as error:
        raise CliError(f"{template} cannot be applied\n{error}") from None
    except (ApplyError, RecordError) as error:
        raise CliError(str(error)) from None


_COMMON = ("template", "packaged", "stack", "main", "index")
"""Names of files that say nothing of what is in them: many projects have one."""


def _name_of(template: Path) -> str:
    """The name of the file; for `template.yaml` and the like, that of the folder, or of the project of a build."""
    name = template.name.partition(".")[0]
    earlier = template.absolute().parent / f"{name.replace('_', '-')}.sluicegate" / FILE
    if name in _COMMON and not earlier.exists():  # what was applied under the file's name keeps it
        folders = [one for one in template.absolute().parent.parts if one not in (".aws-sam", "build", "/")]
        name = folders[-1] if folders else name
    fit = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")
    return (fit if fit[:1].isalpha() else f"stack-{fit}")[:128]


def _checked_name(name: str) -> str:
    if not _STACK_NAME.fullmatch(name):
        raise CliError(
            f'"{name}" cannot be the name of a stack: choose one with --stack, of letters, digits and `-`, '
            "beginning with a letter",
            Exit.USAGE,
        )
    return name


def _write_code(stack: Stack) -> None:
    for file, text in stack.code.items():
        try:
            if not file.exists() or file.read_text() != text:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        except OSError as error:
            raise ApplyError(
                f"{error.filename} cannot be written: {error.strerror}; name another directory with --directory"
            ) from None


class _Gateway:
    """A gateway behind its API (`cfn.apply.Gateway`)."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.adds_code = api.credentials.local
        """True if the gateway lets this apply say where code may lie."""
        status, answer = request(api, "GET", "/v1/gateway")
        if status in (401, 403):
            raise CliError(f"the gateway refused this: {reason(answer, status)}")
        if status >= 400 or not isinstance(answer, dict):
            raise CliError(
                f"the gateway at {api} does not say what it is (HTTP {status}), it may be of an older version"
            )
        self.region = str(answer.get("Region", _DEFAULT_REGION))
        sns = answer.get("Sns")
        self.sns = str(sns["Url"]) if isinstance(sns, dict) else None
        emulator = answer.get("Emulator")
        self.emulator = (
            Emulator(str(emulator["Url"]), frozenset(emulator["Services"]))
            if isinstance(emulator, dict)
            else None
        )

    def environment(self, use_aws: bool) -> Mapping[str, str]:
        """What makes boto3 in a function find the gateway's topics, and none of the operator's credentials: it wants
        some, whatever they are."""
        variables = {} if self.sns is None else {"AWS_ENDPOINT_URL_SNS": self.sns}
        if self.sns is None and use_aws:
            return {}
        return {**variables, "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request to the API."""
        sent = {
            name: value for name, value in (headers or {}).items() if name != LOCAL_CODE or self.adds_code
        }
        return request(self._api, method, path, body, sent)

    def create_topic(self, name: str) -> str:
        """A local topic's ARN. Raises `ApplyError`."""
        status, answer = self.send("POST", "/v1/topics", {"Name": name})
        if status >= 400 or not isinstance(answer, dict):
            raise ApplyError(f"CreateTopic was refused: {reason(answer, status)}")
        return str(answer["TopicArn"])

    def delete_topic(self, arn: str) -> None:
        """Delete a local topic; without an SNS endpoint there is none. Raises `ApplyError`."""
        if self.sns is None:
            return
        status, answer = self.send("DELETE", f"/v1/topics/{quote(arn, safe='')}")
        if status >= 400:
            raise ApplyError(f"DeleteTopic was refused: {reason(answer, status)}")

    def reachable(self, endpoint: _Endpoint) -> str:
        """Where packets reach a Listener, as text: for one that binds every address, the host of the API."""
        address, port = endpoint
        if address in ("::", "0.0.0.0"):  # noqa: S104
            host = urlsplit(self._api.url).hostname or ""
            address = "127.0.0.1" if host in ("", "localhost", "::1") else host
        return endpoint_text(address, port)

    def listeners(self, record: Record) -> dict[str, _Endpoint]:
        """The address and port of each Listener of the stack, by logical id."""
        status, answer = self.send("GET", "/v1/listeners")
        if status >= 400:
            return {}
        places = {item["Id"]: (item["Address"], item["Port"]) for item in answer["Items"]}
        made = {name: one.id for name, one in record.made.items() if one.kind == "Listener"}
        return {name: places[id_] for name, id_ in made.items() if id_ in places}


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """The template's outputs, and where the Listeners are reached here of which each speaks."""

    values: Mapping[str, str]
    here: Mapping[str, list[str]]


class _Report:
    """Shows an `apply` to the user: each step as it is done, notes, outputs."""

    def __init__(self, output: str, *, dry_run: bool) -> None:
        self._json = output == "json"
        self._dry_run = dry_run
        self._steps: list[Step] = []

    def steps(self, steps: Iterator[Step]) -> None:
        """Show each step as it comes."""
        for step in steps:
            self._steps.append(step)
            if not self._json:
                what = step.action if self._dry_run else _DONE[step.action]
                line = f"{_SIGNS[step.action]} {what:<9}  {step.kind:<14}  {step.logical_id}"
                click.echo(f"{line}  ({step.name})" if step.name not in ("", step.logical_id) else line)
        if not self._steps and not self._json:
            click.echo("there is nothing to do")

    def end(
        self,
        stack: Stack,
        outputs: _Outputs,
        listeners: Mapping[str, _Endpoint],
        folders: Sequence[str],
    ) -> None:
        """Show everything besides the steps."""
        places = {name: endpoint_text(*endpoint) for name, endpoint in listeners.items()}
        if self._json:
            document = {
                "DryRun": self._dry_run,
                "Steps": [
                    {"Action": one.action, "Kind": one.kind, "LogicalId": one.logical_id, "Name": one.name}
                    for one in self._steps
                ],
                "Notes": [
                    {"LogicalId": one.logical_id, "Type": one.type, "Line": one.line, "Text": one.text}
                    for one in stack.notes
                ],
                "Outputs": outputs.values,
                "LocalEndpoints": {output: here for output, here in outputs.here.items() if here},
                "Listeners": places,
                "LocalCode": folders,
            }
            click.echo(json.dumps(document, ensure_ascii=False, indent=2))
            return
        if stack.notes:
            click.echo("\nNot as on AWS:")
            width = max(len(note.logical_id) for note in stack.notes)
            for note in stack.notes:
                click.echo(f"  line {note.line:<4} {note.logical_id:<{width}}  {note.text}")
        shown = {}
        for output, value in outputs.values.items():
            here = ", ".join(outputs.here[output])
            shown[output] = f"{value}  (here: {here})" if here else value
        _table("Outputs", shown)
        _table("Listeners on this gateway", places)
        if folders:
            click.echo("\nThe gateway lets code and files of this stack lie in:")
            for folder in folders:
                click.echo(f"  {folder}")


def _table(title: str, rows: Mapping[str, str]) -> None:
    if not rows:
        return
    click.echo(f"\n{title}:")
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"  {name:<{width}}  {value}")
