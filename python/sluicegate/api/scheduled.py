"""`/v1/scheduled`: entries that wait for their `SendAt` (contract section 4.1)."""

from typing import Protocol

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluicegate.api.resources import refuse_pages
from sluicegate.egress.waiting import Waiting
from sluicegate.events.entries import Entries
from sluicegate.events.times import iso_milliseconds
from sluicegate.state import StateError
from sluicegate.state.waiting import WaitingRow

PAGE_SIZE = 100
PAGE_LIMIT = 1_000
_LARGEST = 2**63 - 1


class ScheduledView(Protocol):
    """What these routes need to see of a running gateway."""

    @property
    def waiting(self) -> Waiting:
        """What waits in the state."""


def scheduled_routes(gateway: ScheduledView) -> list[Route]:
    """The routes of entries that wait."""

    async def listed(request: Request) -> Response:
        source, message_id = _filter(request)
        after = _number(request.query_params.get("NextToken", "0"), "NextToken", 0, _LARGEST)
        limit = _number(request.query_params.get("Limit", str(PAGE_SIZE)), "Limit", 1, PAGE_LIMIT)
        try:
            rows = await gateway.waiting.page(source, message_id, after, limit + 1)
            count = await gateway.waiting.count()
        except StateError as error:
            raise HTTPException(503, str(error)) from None
        token = str(rows[limit - 1].number) if len(rows) > limit else None
        answer = {"Items": list(map(shown, rows[:limit])), "NextToken": token, "Waiting": count}
        return Response(orjson.dumps(answer), media_type="application/json")

    async def cancel(request: Request) -> Response:
        refuse_pages(request)
        text = request.path_params["number"]
        known = text.isascii() and text.isdigit() and len(text) < 19
        try:
            if not known or not await gateway.waiting.cancel(int(text)):
                raise HTTPException(404, f"no entry waits under {text[:40]!r}: it was sent, or cancelled")
        except StateError as error:
            raise HTTPException(503, str(error)) from None
        return Response(status_code=204)

    async def cancel_all(request: Request) -> Response:
        refuse_pages(request)
        source, message_id = _filter(request)
        if source is None and message_id is None:
            raise HTTPException(400, "say which: PacketSource=NAME or MessageId=ID")
        try:
            cancelled = await gateway.waiting.cancel_all(source, message_id)
        except StateError as error:
            raise HTTPException(503, str(error)) from None
        return Response(orjson.dumps({"Cancelled": cancelled}), media_type="application/json")

    return [
        Route("/v1/scheduled", listed, methods=["GET"]),
        Route("/v1/scheduled", cancel_all, methods=["DELETE"]),
        Route("/v1/scheduled/{number}", cancel, methods=["DELETE"]),
    ]


def shown(row: WaitingRow) -> dict[str, object]:
    """An entry as the API shows it. Of `Remotes` the number alone: they may be thousands."""
    return {
        "ScheduledId": str(row.number),
        "SendAt": iso_milliseconds(row.at_ms / 1e3),
        "PacketSource": row.source,
        "MessageId": row.message_id,
        "Index": row.index,
        "Entries": row.entries,
        **Entries(row.body).fields(0),
    }


def _filter(request: Request) -> tuple[str | None, str | None]:
    return request.query_params.get("PacketSource"), request.query_params.get("MessageId")


def _number(text: str, name: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most:
        return int(text)
    raise HTTPException(400, f"{name} is not a number from {least} to {most}")
