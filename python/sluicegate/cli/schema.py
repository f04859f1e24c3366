"""`sluicegate schema`: what editors need for completion and checks while typing."""

import json

import click

from sluicegate.cli.options import output_option
from sluicegate.config import json_schema


@click.command("schema")
@output_option
def command(output: str) -> None:
    """Print the JSON Schema of the configuration.

    Save it and begin the YAML file with `# yaml-language-server: $schema=sluicegate.schema.json`.
    """
    # Both outputs are the same document; the option is there because every command has it.
    click.echo(json.dumps(json_schema(), ensure_ascii=False, indent=2))
