"""The gateway's own topics over REST: for `sluicegate apply`, which has a key of the API and none for SNS."""

from typing import Any, Protocol
from urllib.parse import quote

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluicegate.api.resources import json_body, refuse_pages
from sluicegate.sources.local.topics import InvalidTopic, TopicLimitExceeded, Topics

NO_ENDPOINT = (
    "the gateway has no SNS endpoint: add `sns: { bind: 127.0.0.1:4566 }` to its configuration and restart it"
)


class TopicsView(Protocol):
    """What these routes need to see of a running gateway."""

    @property
    def topics(self) -> Topics | None:
        """None if the topics are on AWS."""


def topic_routes(gateway: TopicsView) -> list[Route]:
    """The routes of topics."""

    async def create(request: Request) -> Response:
        data: Any = await json_body(request)
        name = data.get("Name") if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise HTTPException(422, 'this names no topic: send {"Name": "replies"}')
        try:
            arn = _topics(gateway).create(name)
        except InvalidTopic as error:
            raise HTTPException(422, f"Invalid parameter: {error}") from None
        except TopicLimitExceeded as error:
            raise HTTPException(409, str(error)) from None
        document = orjson.dumps({"TopicArn": arn})
        location = {"Location": f"/v1/topics/{quote(arn, safe='')}"}
        return Response(document, 201, location, media_type="application/json")

    async def delete(request: Request) -> Response:
        refuse_pages(request)
        try:
            _topics(gateway).delete(request.path_params["name"])
        except InvalidTopic as error:
            raise HTTPException(422, f"Invalid parameter: {error}") from None
        return Response(status_code=204)

    return [
        Route("/v1/topics", create, methods=["POST"]),
        Route("/v1/topics/{name}", delete, methods=["DELETE"]),
    ]


def _topics(gateway: TopicsView) -> Topics:
    if gateway.topics is None:
        raise HTTPException(409, NO_ENDPOINT)
    return gateway.topics
