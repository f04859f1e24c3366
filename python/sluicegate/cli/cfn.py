"""`sluicegate cfn template|bootstrap`: what an AWS account needs for stacks with a gateway's resources."""

import json
from pathlib import Path
from typing import Any

import click

from sluicegate.cfn.packaged import FORMS
from sluicegate.cli.errors import CliError
from sluicegate.cli.options import output_option, show
from sluicegate.regular import read_regular
from sluicegate.state.private import write_named


@click.group("cfn")
def command() -> None:
    """Prepare an AWS account for CloudFormation stacks with a gateway's resources."""


@command.command("template")
@click.argument("form", type=click.Choice(list(FORMS)))
@output_option
def template(form: str, output: str) -> None:
    """Print the template of the provider, which answers for the custom resources.

    \b
    lambda: a function calls the gateway's API, which it must be able to reach.
    topic:  an SNS topic and a queue, which the gateway reads.
    """
    show(output, FORMS[form]().rstrip("\n"), Template=FORMS[form]())


@command.command("bootstrap")
@click.option("--region", required=True, help="The region of the provider; one command for each.")
@click.option("--service-token", required=True, metavar="ARN", help="The provider's output ServiceToken.")
@click.option("--service-role", metavar="ARN", help="The role or user that the gateway runs as.")
@click.option("--api-key", envvar="SLUICEGATE_API_KEY", show_envvar=True, help="A key of the scope admin.")
@click.argument("file", type=click.Path(path_type=Path), default=Path("customer-config.json"))
@output_option
def bootstrap(
    region: str, service_token: str, service_role: str | None, api_key: str | None, file: Path, output: str
) -> None:
    """Write the mapping that existing templates include, FILE (customer-config.json).

    It has what they look up: `{region}.ServiceToken`, `{region}.ServiceRole` and `Account.ApiKey`. What FILE has of
    other regions stays.
    """
    document = _read(file)
    entry = _section(document, region, file)
    entry["ServiceToken"] = service_token
    if service_role:
        entry["ServiceRole"] = service_role
    account = _section(document, "Account", file)
    if api_key:
        account["ApiKey"] = api_key
    # A template that looks up a missing key fails as a whole, where nobody may ask for a key.
    account.setdefault("ApiKey", "none")
    _write(file, json.dumps(document, indent=2, sort_keys=True) + "\n")
    regions = sorted(set(document) - {"Account"})
    text = (
        f"wrote {file}: regions {', '.join(regions)}\n"
        f"templates include it from where you put it: aws s3 cp {file} s3://BUCKET/customer-config.json"
    )
    show(output, text, Wrote=str(file), Regions=regions)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_regular(file))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise CliError(f"{file} is not JSON, correct it or name another file") from None
    if not isinstance(document, dict):
        raise CliError(f"{file} is not a JSON object, correct it or name another file")
    return document


def _section(document: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    section = document.setdefault(name, {})
    if not isinstance(section, dict):
        raise CliError(f"{name} in {file} is not a JSON object, correct it or name another file")
    return section


def _write(file: Path, text: str) -> None:
    """Write a file that holds a key: only its owner may read it."""
    try:
        write_named(file, text)
    except OSError as error:
        raise CliError(f"{file} cannot be written: {error.strerror}") from None
