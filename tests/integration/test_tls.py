"""The API and the SNS endpoint over TLS: certificates, their renewal, refusals, and the commands that talk to them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from certificates import certificate
from harness import ECHO, HANG_SECONDS, PROGRAM, TOPIC, Gateway, run_program, source_of, until
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from conftest import StartGateway
from sluicegate.http import server
from sluicegate.http.server import CONNECTION_LIMIT, Server
from sluicegate.http.tls import server_context

LISTENER = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: { networks: [127.0.0.0/8] }
    destinations: [{ name: echo, destination_arn: "function:echo.py:handler" }]
"""
TLS = "tls: { cert: certificate.pem, key: key.pem }"


def settings(one: Gateway) -> None:
    """Both endpoints of a gateway that has not started speak TLS; the paths are relative to its file."""
    certificate(one.directory)
    for url in (one.api_url, one.sns_url):
        bind = url.removeprefix("http://")
        one.edit(f"bind: {bind} }}", f"bind: '{bind}', {TLS} }}")


@pytest.fixture
def one(gateway: StartGateway) -> Iterator[Gateway]:
    made = gateway(LISTENER + source_of("decoder"), {"echo": ECHO}, start=False)
    settings(made)
    made.spawn()
    made.event("GatewayStarted")
    yield made
    made.close()


def port(url: str) -> int:
    return int(url.rpartition(":")[2])


def served(url: str, **versions: ssl.TLSVersion) -> bytes:
    """The certificate that a new connection is shown, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, version in versions.items():
        setattr(context, name, version)
    with (
        socket.create_connection(("127.0.0.1", port(url)), HANG_SECONDS) as plain,
        context.wrap_socket(plain) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def in_file(directory: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((directory / "certificate.pem").read_text())


def command(one: Gateway, *words: str, directory: Path | None = None, **environment: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(("LANG", "LC_"))}
    variables = {"PATH": "/usr/bin:/bin", **kept, **environment}
    done = run_program([PROGRAM, *words], cwd=directory or one.directory, env=variables)
    return done.returncode, done.stdout + done.stderr


def test_both_endpoints_speak_tls_and_say_so(one: Gateway) -> None:
    for url in (one.api_url, one.sns_url):
        shown = f" at {url.replace('http:', 'https:')}"
        one.process.stderr.wait(lambda lines, shown=shown: shown in "\n".join(lines), "the URL is told")
        assert served(url) == in_file(one.directory)
        with pytest.raises(ssl.SSLError):
            served(url, maximum_version=ssl.TLSVersion.TLSv1_1)
        served(url, maximum_version=ssl.TLSVersion.TLSv1_2)
    sns = boto3.client(
        "sns",
        endpoint_url=one.sns_url.replace("http:", "https:"),
        verify=str(one.directory / "certificate.pem"),
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    assert sns.publish(TopicArn=TOPIC, Message=json.dumps({"Messages": []}))["MessageId"]


def test_commands_find_and_trust_the_gateway(one: Gateway, tmp_path: Path) -> None:
    """By its configuration; by a URL only where the certificate's authority is known."""
    url = one.api_url.replace("http:", "https:")
    code, said = command(one, "sources", "list", "--config", str(one.file))
    assert (code, "replies" in said) == (0, True), said
    code, said = command(one, "tail", "--timeout", "5", "--config", str(one.file))
    assert f"watching {url}" in said
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code, said = command(one, "sources", "list", "--api", url, directory=elsewhere)
    assert code == 3
    assert "its certificate is not trusted: self-signed certificate), name its configuration" in said
    assert "start one" not in said
    trust = {"SSL_CERT_FILE": str(one.directory / "certificate.pem")}
    code, said = command(one, "sources", "list", "--api", url, directory=elsewhere, **trust)
    assert (code, "replies" in said) == (0, True), said
    code, said = command(one, "sources", "list", "--api", one.api_url, directory=elsewhere)
    assert (code, "begin the URL with https:" in said) == (3, True), said


def test_a_certificate_of_somebody_else_is_not_the_gateways(one: Gateway, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificate(other)
    shutil.copy(other / "certificate.pem", one.directory)  # as if another server had the port
    code, said = command(one, "sources", "list", "--config", str(one.file))
    assert (code, "is not trusted" in said) == (3, True), said


def reload(one: Gateway, event: str) -> str:
    before = len(one.named(event))
    one.process.signal(signal.SIGHUP)
    return str(one.wait_for(event, before + 1)[-1]["Detail"])


def test_a_reload_renews_certificates_and_a_broken_one_is_refused(one: Gateway) -> None:
    old = in_file(one.directory)
    kept = socket.create_connection(("127.0.0.1", port(one.api_url)), HANG_SECONDS)
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(old))
    with context.wrap_socket(kept, server_hostname="127.0.0.1") as open_before:
        certificate(one.directory)
        assert served(one.api_url) == old
        assert reload(one, "Reloaded") == "read the certificates of api and sns anew"
        for url in (one.api_url, one.sns_url):
            assert served(url) == in_file(one.directory) != old
        open_before.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert open_before.recv(100).startswith(b"HTTP/1.1 200")
    new = in_file(one.directory)
    key = one.directory / "key.pem"
    whole = key.read_bytes()
    key.write_bytes(whole[: len(whole) // 2])
    refused = reload(one, "ReloadRefused")
    assert "gateway.yaml:3:" in refused
    assert f"{key} has no private key in PEM, name a file with" in refused
    assert served(one.api_url) == served(one.sns_url) == new
    key.write_bytes(whole)
    assert reload(one, "Reloaded") == "read the certificates of api and sns anew"


def test_a_reload_takes_other_files_over_and_ends_tls(one: Gateway) -> None:
    moved = one.directory / "moved"
    moved.mkdir()
    certificate(moved)
    bind = f"bind: '127.0.0.1:{port(one.api_url)}', tls: {{ cert: "
    one.edit(f"{bind}certificate.pem, key: ", f"{bind}moved/certificate.pem, key: moved/")
    reload(one, "Reloaded")
    assert served(one.api_url) == in_file(moved)
    assert served(one.sns_url) == in_file(one.directory)
    one.edit(", tls: { cert: moved/certificate.pem, key: moved/key.pem }", "")
    reload(one, "Reloaded")
    assert one.api("GET", "/healthz").status_code == 200


@pytest.mark.attack
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_handshake_that_does_not_end_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    serving = Server(answer, "127.0.0.1", 0, setting="api.bind", tls=server_context(*certificate(tmp_path)))
    await serving.start()
    reader, writer = await asyncio.open_connection(*serving.address)
    writer.write(sent)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), HANG_SECONDS)
    writer.close()
    await serving.stop()


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


@pytest.mark.attack
def test_half_open_handshakes_keep_nobody_out(one: Gateway) -> None:
    address = ("127.0.0.1", port(one.api_url))
    held = [socket.create_connection(address, HANG_SECONDS) for _ in range(CONNECTION_LIMIT + 100)]
    assert served(one.api_url)
    until(lambda: descriptors(one) < CONNECTION_LIMIT + 200, "those that gave way are closed")
    for connection in held:
        connection.close()


def descriptors(one: Gateway) -> int:
    return len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))


def _missing(folder: Path) -> None:
    (folder / "key.pem").unlink()


def _mismatch(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    shutil.copy(certificate(other)[1], folder / "key.pem")


def _encrypted(folder: Path) -> None:
    key = folder / "key.pem"
    line = [
        "openssl",
        "pkey",
        "-in",
        key,
        "-aes256",
        "-passout",
        "pass:secret",
        "-out",
        folder / "locked.pem",
    ]
    subprocess.run(line, check=True, capture_output=True)
    (folder / "locked.pem").replace(key)


def _swapped(folder: Path) -> None:
    shutil.copy(folder / "key.pem", folder / "certificate.pem")


def _folder(folder: Path) -> None:
    (folder / "certificate.pem").unlink()
    (folder / "certificate.pem").mkdir()


@pytest.mark.parametrize(
    ("spoil", "column", "said"),
    [
        (
            _missing,
            "key",
            "the private key {}/key.pem cannot be read (No such file or directory), name a file",
        ),
        (
            _mismatch,
            "key",
            "the private key {}/key.pem does not belong to the certificate {}/certificate.pem, name",
        ),
        (
            _encrypted,
            "key",
            "the private key {}/key.pem is encrypted, and nobody is there to type its password, write",
        ),
        (_swapped, "cert", "{}/certificate.pem has no certificate in PEM, name a file that begins with"),
        (_folder, "cert", "the certificate {}/certificate.pem is not a file, name the file itself"),
    ],
)
def test_files_that_make_no_server_are_told_with_their_place(
    gateway: StartGateway, spoil: object, column: str, said: str
) -> None:
    one = gateway(LISTENER + source_of("decoder"), {"echo": ECHO}, start=False)
    settings(one)
    assert callable(spoil)
    spoil(one.directory)
    line = one.file.read_text().splitlines()[2]
    value = {"cert": "certificate.pem", "key": "key.pem"}[column]
    place = f"gateway.yaml:3:{line.index(value) + 1}: "
    code, output = command(one, "validate", "gateway.yaml")
    assert code == 1
    assert place + said.replace("{}", str(one.directory)) in output
    assert "secret" not in output
    code, output = command(one, "run", "gateway.yaml")
    assert code == 1
    assert place in output


def test_a_server_that_others_reach_in_the_clear_is_warned_of(gateway: StartGateway) -> None:
    one = gateway(LISTENER + source_of("decoder"), {"echo": ECHO}, start=False)
    certificate(one.directory)
    one.bind_to_all(one.api_url, one.sns_url)
    code, output = command(one, "validate", "gateway.yaml")
    assert code == 0
    assert "gateway.yaml:3:14: warning: keys and answers can be read on the way to 0.0.0.0:" in output
    assert "gateway.yaml:4:14: warning: messages can be read on the way to 0.0.0.0:" in output
    for url in (one.api_url, one.sns_url):
        bind = f"0.0.0.0:{port(url)}"
        one.edit(f"bind: {bind} }}", f"bind: '{bind}', {TLS} }}")
    assert "warning" not in command(one, "validate", "gateway.yaml")[1]
