"""`sluicegate replay FILE|QUEUE`: send dead letters again (contract section 4.5)."""

import json
from pathlib import Path

import click

from sluicegate.cli.client import api_option
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import Exit, error
from sluicegate.cli.options import output_option
from sluicegate.cli.replay.file import count_file, replay_file
from sluicegate.cli.replay.letters import Choice, Counts


@click.command("replay")
@click.argument("place", metavar="FILE|QUEUE")
@click.option(
    "--reason", "reasons", multiple=True, metavar="REASON", help="Only letters that failed so; repeatable."
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Only letters of this PacketSource; repeatable.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N entries a second."
)
@click.option("--ignore-expiry", is_flag=True, help="Send entries although their ExpiresAt has passed.")
@click.option("--dry-run", is_flag=True, help="Count what would be sent; change nothing.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Do not send: move the letters of a queue to FILE, to look at or to correct.",
)
@click.option("--endpoint-url", metavar="URL", help="The endpoint of SQS, e.g. a local emulator.")
@api_option
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    place: str,
    reasons: tuple[str, ...],
    sources: tuple[str, ...],
    rate: float | None,
    ignore_expiry: bool,
    dry_run: bool,
    to: Path | None,
    endpoint_url: str | None,
    api: Api,
    output: str,
) -> None:
    """Send the dead letters in FILE, or in the SQS queue with the ARN QUEUE, again, through the gateway that runs.

    A letter that fails again comes back with its new reason. What is not asked for, has expired or cannot be sent stays
    where it is. TtlSeconds starts anew. A queue is read with the credentials that AWS's own tools would use; they need
    sqs:GetQueueUrl, ReceiveMessage, DeleteMessage and ChangeMessageVisibility.
    """
    choice = Choice(reasons, sources, ignore_expiry)
    if place.startswith("arn:"):
        # Here, because a file needs neither.
        import asyncio

        from sluicegate.cli.replay.queue import replay_queue

        counts = asyncio.run(
            replay_queue(place, api, choice, rate=rate, dry_run=dry_run, to=to, endpoint_url=endpoint_url)
        )
    elif to is not None or endpoint_url is not None:
        raise click.UsageError("--to and --endpoint-url are for a queue: give its ARN")
    elif dry_run:
        counts = count_file(Path(place), choice)
    else:
        counts = replay_file(Path(place), api, choice, rate)
    _show(counts, place, dry_run, to, output)
    ctx.exit(Exit.FAILED if counts["Failed"] else Exit.OK)


def _show(counts: Counts, place: str, dry_run: bool, to: Path | None, output: str) -> None:
    if output == "json":
        names = ["Replayed", "Failed", "Expired", "NotAsked", "Unusable"]
        if place.startswith("arn:"):
            names += ["OtherRegion", "Moved"]
        reasons = {reason: number for reason, (number, _) in counts.reasons.items()}
        click.echo(
            json.dumps({name: counts[name] for name in names} | ({"Reasons": reasons} if reasons else {}))
        )
        return
    would = "would be " if dry_run else ""
    if to is None:
        click.echo(f"{counts['Replayed']} {would}sent")
    else:
        click.echo(f"{counts['Moved']} {would}moved to {to}")
    stay = {
        "Failed": "failed again",
        "Expired": f"stay in {place}: their ExpiresAt has passed (--ignore-expiry sends them)",
        "NotAsked": f"stay in {place}: not asked for",
        "OtherRegion": f"stay in {place}: they name another region, whose gateway can replay them",
        "Unusable": f"stay in {place}: not an entry that could be sent",
    }
    for name, what in stay.items():
        if counts[name]:
            click.echo(f"{counts[name]} {what}")
    for reason, (number, detail) in counts.reasons.items():
        error(f"{reason} ({number}): {detail}")
