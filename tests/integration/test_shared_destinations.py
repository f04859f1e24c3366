"""Destinations of one name, and one Destination that several Listeners deliver to (contract section 1.2)."""

from pathlib import Path
from typing import Any

from harness import ECHO, Client, Gateway, wait_for_records

from conftest import StartGateway


def listener(name: str, *destinations: Any) -> dict[str, Any]:
    return {"Name": name, "Bind": "127.0.0.1", "Destinations": list(destinations)}


def echo(name: str = "echo", **fields: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "DestinationArn": "function:echo.py:handler",
        "Batching": {"Count": 1},
        **fields,
    }


def made(running: Gateway, document: dict[str, Any]) -> dict[str, Any]:
    answer = running.api("POST", "/v1/listeners", document)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counted(running: Gateway, listener: str) -> float:
    return running.metrics().value("destination_packets", listener=listener, destination="echo")


def test_one_name_in_two_listeners(gateway: StartGateway) -> None:
    running = gateway("listeners: []", {"echo": ECHO})
    made(running, listener("one", echo()))
    made(running, listener("two", echo()))
    with Client() as client:
        for name in ("one", "two"):
            client.send(b"hello", running.address(name))
            assert client.receive() == (b"hello", running.address(name))
    assert (counted(running, "one"), counted(running, "two")) == (1, 1)
    # Who means one of them has to say which.
    binding = {"Destination": "echo", "IngressRegionKey": "*", "Arn": "console:"}
    for path, document in (
        ("/v1/destination-arns", binding),
        ("/v1/listeners", listener("three", "echo")),
    ):
        refused = running.api("POST", path, document)
        assert refused.status_code == 409, refused.text
        assert 'is declared by the Listeners "one" and "two"' in refused.json()["Errors"][0]["Cause"]
        assert refused.json()["Errors"][0]["Fix"] == "give one of them another name"


def test_a_name_stands_for_a_destination_of_another_listener(gateway: StartGateway, tmp_path: Path) -> None:
    running = gateway("listeners: []", {"echo": ECHO})
    missing = running.api("POST", "/v1/listeners", listener("second", "echo"))
    assert missing.status_code == 409
    assert missing.json()["Errors"][0]["Pointer"] == "/Destinations/0"
    assert "declare it in a Listener first" in missing.json()["Errors"][0]["Fix"]

    first = made(running, listener("first", echo()))
    second = made(running, listener("second", "echo", {"Name": "kept", "DestinationArn": "file:kept.ndjson"}))
    assert second["Destinations"][0] == "echo"
    assert second["DestinationNames"] == ["echo", "kept"]
    with Client() as client:
        for name in ("first", "second", "second"):
            client.send(b"hello", running.address(name))
            assert client.receive() == (b"hello", running.address(name))
        assert (counted(running, "first"), counted(running, "second")) == (1, 2)

        # What changes where it is declared changes for both.
        changed = {**first, "Destinations": [echo(DestinationArn="file:both.ndjson")]}
        assert running.api("PUT", "/v1/listeners/first", changed).status_code == 200
        for name in ("first", "second"):
            client.send(name.encode(), running.address(name))
        wait_for_records(running.directory / "both.ndjson", 2)
        bound = {"Destination": "echo", "IngressRegionKey": "*", "Arn": "file:bound.ndjson"}
        assert running.api("POST", "/v1/destination-arns", bound).status_code == 201
        for name in ("first", "second"):
            client.send(name.encode(), running.address(name))
        wait_for_records(running.directory / "bound.ndjson", 2)

        running.kill()
        running.start()
        client.send(b"after a start", running.address("second"))
        wait_for_records(running.directory / "bound.ndjson", 3)

    assert running.api("DELETE", "/v1/destination-arns/echo@*").status_code == 204
    needed = running.api("DELETE", "/v1/listeners/first")
    assert needed.status_code == 409
    assert 'the Listener "first" is needed by Listener second' in needed.json()["detail"]
    without = running.api("PUT", "/v1/listeners/first", {**first, "Destinations": []})
    assert without.status_code == 409
    assert 'there is no Destination named "echo"' in without.json()["Errors"][0]["Cause"]
    assert running.api("DELETE", "/v1/listeners/second").status_code == 204
    assert running.api("DELETE", "/v1/listeners/first").status_code == 204


def test_names_in_a_file(gateway: StartGateway) -> None:
    running = gateway(
        """
listeners:
  - { name: second, bind: 127.0.0.1, destinations: [echo] }
  - name: first
    bind: 127.0.0.1
    destinations: [{ name: echo, destination_arn: "function:echo.py:handler", batching: { count: 1 } }]
""",
        {"echo": ECHO},
    )
    with Client() as client:
        client.send(b"hello", running.address("second"))
        assert client.receive() == (b"hello", running.address("second"))
    # A Listener of the API may name what the file declares.
    assert made(running, listener("third", "echo"))["DestinationNames"] == ["echo"]
