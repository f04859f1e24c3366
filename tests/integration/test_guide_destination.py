"""The package of `docs/write-a-destination.md` in a real gateway: found by its entry point, it logs what arrives."""

import json
import socket
from pathlib import Path

from harness import HANG_SECONDS, PROGRAM, Client, Process, free_port

import guide
from packages import installed


def test_the_guides_package_logs_what_arrives(tmp_path: Path) -> None:
    guide.write_package(tmp_path)
    (text,) = guide.blocks("yaml")
    with socket.socket(type=socket.SOCK_DGRAM) as server, Client() as client:
        server.bind(("127.0.0.1", 0))
        server.settimeout(HANG_SECONDS)
        port = free_port(socket.SOCK_DGRAM)
        text = text.replace("127.0.0.1:514", f"127.0.0.1:{server.getsockname()[1]}")
        text = text.replace("0.0.0.0:2048", f"127.0.0.1:{port}").replace("127.0.0.1:8080", "127.0.0.1:0")
        file = tmp_path / "sluicegate.yaml"
        file.write_text(text)
        gateway = Process([PROGRAM, "run", file], tmp_path, environment=installed(tmp_path))
        try:
            gateway.stdout.wait(
                lambda lines: any("GatewayStarted" in line for line in lines), "GatewayStarted"
            )
            client.send("grüße".encode(), ("127.0.0.1", port))
            head, _, packet = server.recv(65_535).partition(b" - - - ")
        finally:
            gateway.close()
    assert head == b"<30>1 - - sluicegate"  # facility 3, severity 6: RFC 5424, 6.2.1
    assert json.loads(packet)["Data"] == "grüße"
