"""Writes the pages of Destinations that call a server of a user's, from their classes and golden files."""

from collections.abc import Iterator
from pathlib import Path

from sluicegate.destinations.delivery import ATTEMPTS, LONGEST_WISH
from sluicegate.destinations.http import HttpDestination
from sluicegate.destinations.nats import NatsDestination

GOLDEN = Path(__file__).parents[2] / "tests/unit/golden"
_SECRETS = """\
Secrets stand in files, which the gateway reads when it starts or reloads; a URL with a user or password is refused. In
a document of the API these files lie below `local_code`, `HeadersFile` and `PasswordFile` are refused, and the server
has a public address or one in [`local_networks`](../../api.md#local-code)."""
_AGAIN = f"up to {ATTEMPTS} attempts with growing pauses"
_PAGES = [
    (
        "http",
        "Web hooks",
        HttpDestination,
        "https://hooks.example/packets",
        "SecretFile: hook.key",
        f"No answer, a time-out, 429 and 5xx are tried again: {_AGAIN}, and not before `Retry-After`, for which the "
        f"gateway waits for {LONGEST_WISH:g} s at most. Every attempt has the same `webhook-id`. Other 4xx, redirects "
        "and answers of more than 16 MiB are not tried again.",
    ),
    (
        "nats",
        "NATS",
        NatsDestination,
        "nats://nats.example:4222/packets",
        "CredentialsFile: gateway.creds",
        f"No connection, a time-out, a missing stream or responder and a full stream are tried again: {_AGAIN}. Of a "
        "batch for a stream only the messages come again that were not stored; their `Nats-Msg-Id` is the same, so "
        "that one that was stored unseen is dropped. A denied login or subject, and what a stream can never take, are "
        "not tried again.",
    ),
]


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {f"{name}.md": "\n".join(_page(name, *rest)) for name, *rest in _PAGES}  # type: ignore[arg-type]


def _page(
    name: str,
    title: str,
    kind: type[HttpDestination] | type[NatsDestination],
    example: str,
    argument: str,
    again: str,
) -> Iterator[str]:
    yield "<!-- Written by docs/generate.py from the class. Edit the class, not this file. -->"
    yield f"# {title}"
    yield ""
    for paragraph in (kind.__doc__ or "").split("\n\n"):
        yield " ".join(paragraph.split())
        yield ""
    if kind is NatsDestination:
        yield from ("It needs a package more: `pip install 'sluicegate[nats]'`.", "")
    yield "```text"
    yield "listeners:"
    yield "  - name: decoder"
    yield "    destinations:"
    yield "      - name: orders"
    yield f'        destination_arn: "{example}"'
    yield f"        arguments: {{ {argument} }}"
    yield "```"
    yield ""
    yield f"`destination_arn` is {' or '.join(f'`{form}`' for form in kind.usage.split(' or '))}."
    yield ""
    yield from ("## Arguments", "", "| argument | meaning |", "|---|---|")
    yield from (f"| `{argument}` | {meaning} |" for argument, meaning in kind.arguments)
    yield from ("", _SECRETS, "", "## What the server gets", "")
    yield from ("```text", (GOLDEN / f"{name}.txt").read_text().rstrip(), "```", "")
    yield f"In one request: {kind.limits}"
    yield ""
    yield from ("## What is tried again", "", again, "")
    yield f"Reasons: {', '.join(f'`{reason}`' for reason in kind.reasons)}."
    yield ""
