"""Documents of the API that deliver to servers which they may not reach, and what is shown of a URL."""

from pathlib import Path

import pytest
from harness import Client, until
from web_server import WebHook

from conftest import StartGateway

pytestmark = pytest.mark.attack


def document(url: str) -> dict[str, object]:
    hook = {"Name": "hook", "DestinationArn": url, "Formatter": "utf8"}
    networks = {"Networks": ["127.0.0.0/8"]}
    return {"Name": "made", "Bind": "127.0.0.1", "ClientRestrictions": networks, "Destinations": [hook]}


def test_a_document_reaches_local_servers_only_where_the_file_says_so(
    gateway: StartGateway, web_hook: WebHook, tmp_path: Path
) -> None:
    one = gateway("listeners: []", start=False)
    one.open_to_everybody()
    one.start()
    url = f"{web_hook.url}/in?key=hunter2"
    for target in (url, url.replace("127.0.0.1", "localhost"), one.api_url, "nats://127.0.0.1/s"):
        refused = one.api("POST", "/v1/listeners", document(target))
        assert (refused.status_code, "local_networks" in refused.text) == (422, True), refused.text
    one.file.write_text(one.file.read_text() + "local_networks: [127.0.0.0/8]\n")
    assert one.api("POST", "/v1/reload").status_code == 200
    made = one.api("POST", "/v1/listeners", document(url))
    assert made.status_code in (200, 201), made.text
    with Client() as client:
        client.send(b"hello", one.address("made"))
        until(lambda: web_hook.data == ["hello"], "the hook gets the packet")
        web_hook.respond = lambda request: (403, {}, b"hunter2")
        client.send(b"again", one.address("made"))
        failed = one.event("DeliveryFailed", Destination="hook")
    assert failed["Reason"] == "AccessDenied"
    metrics = one.api("GET", "/metrics").text
    one.stop()
    for shown in (metrics, one.process.stdout.text, one.process.stderr.text):
        assert "hunter2" not in shown
