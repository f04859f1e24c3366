"""`sluicegate keys create|list|revoke`: who may use a gateway that serves other machines."""

import json
from pathlib import Path
from typing import cast

import click

from sluicegate.cli import table
from sluicegate.cli.errors import CliError
from sluicegate.cli.options import output_option, show
from sluicegate.config import ConfigError, load
from sluicegate.state.keys import SCOPES, AccessKey, ApiKey, KeyFile, KeyScope, KeysError


@click.group("keys")
def command() -> None:
    """Make, list and revoke keys of the gateway that FILE configures.

    API keys are for the REST API; access keys sign requests to the SNS endpoint, as boto3 does. Both are asked for on
    every address but loopback. A change holds at once, also in a gateway that runs.
    """


_file = click.argument("file", type=click.Path())


def _named(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it is empty, write whose key it is, such as ci")
    return value


@command.command("create")
@_file
@click.option("--name", required=True, callback=_named, help="Whose key it is, for people.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="read: look. publish: source packets. admin: everything. May be given more than once.",
)
@click.option("--sns", is_flag=True, help="An access key for the SNS endpoint instead of an API key.")
@output_option
def create(file: str, name: str, scopes: tuple[str, ...], sns: bool, output: str) -> None:
    """Make a key. It is shown this once: what is kept cannot show an API key again."""
    wanted = frozenset(cast("tuple[KeyScope, ...]", scopes))
    store = _store(file)
    try:
        if sns:
            access = store.create_access_key(name, wanted)
            values = {"AccessKeyId": access.id, "SecretAccessKey": access.secret}
            text = f"AWS_ACCESS_KEY_ID={access.id}\nAWS_SECRET_ACCESS_KEY={access.secret}"
        else:
            key, text = store.create_api_key(name, wanted)
            values = {"Id": key.id, "Key": text}
    except KeysError as error:
        raise CliError(str(error)) from None
    if output == "json":
        click.echo(json.dumps({**values, "Name": name, "Scopes": sorted(wanted)}, ensure_ascii=False))
    else:
        click.echo(text)


@command.command("list")
@_file
@output_option
def list_keys(file: str, output: str) -> None:
    """Every key with its scopes, without its secret."""
    try:
        keys = _store(file).all()
    except KeysError as error:
        raise CliError(str(error)) from None
    if output == "json":
        click.echo(json.dumps([_document(key) for key in keys], ensure_ascii=False, indent=2))
        return
    rows = [(key.id, _kind(key), ",".join(sorted(key.scopes)), key.created_at, key.name) for key in keys]
    if not rows:
        click.echo("there are no keys: make one with `sluicegate keys create`")
    table.show(rows)


@command.command("revoke")
@_file
@click.argument("key_id", metavar="ID")
@output_option
def revoke(file: str, key_id: str, output: str) -> None:
    """Forget a key: requests with it are refused from now on."""
    try:
        found = _store(file).revoke(key_id)
    except KeysError as error:
        raise CliError(str(error)) from None
    if not found:
        raise CliError(f"there is no key with the id {key_id}, `sluicegate keys list {file}` shows them")
    show(output, f"revoked {key_id}", Revoked=key_id)


def _store(file: str) -> KeyFile:
    try:
        return KeyFile(Path(load(file).gateway.state + ".keys"))
    except ConfigError as refused:
        raise CliError(f"{file} cannot be used\n{refused}") from None


def _kind(key: ApiKey | AccessKey) -> str:
    return "api" if isinstance(key, ApiKey) else "sns"


def _document(key: ApiKey | AccessKey) -> dict[str, object]:
    return {
        "Id": key.id,
        "Kind": _kind(key),
        "Name": key.name,
        "Scopes": sorted(key.scopes),
        "CreatedAt": key.created_at,
    }
