"""Who may do what at the API and the SNS endpoint on loopback, tried by those who may not (contract section 8)."""

import http.client
import json
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import httpx
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from click.testing import CliRunner
from harness import (
    ECHO,
    HANG_SECONDS,
    PROGRAM,
    TOPIC,
    Client,
    Gateway,
    records,
    run_program,
    source_of,
    wait_for_records,
)
from test_api_keys import key

from conftest import StartGateway
from sluicegate.cfn.provider import handle, refusal
from sluicegate.cli import main
from strangers import as_nobody, needs_root, nobody_runs
from waiting import wait_until as until

pytestmark = pytest.mark.attack

CONFIG = f"""
listeners:
  - {{ name: decoder, bind: 127.0.0.1, destinations: [{{ name: echo, destination_arn: "function:echo.py:handler" }}] }}
  - {{ name: tunnel, bind: 127.0.0.1, protocol: wg }}
{source_of("decoder")}
"""
EVIL = """
import pathlib
pathlib.Path(__file__).with_name("ran").write_text("")
def handler(event, context): pass
"""
SECRET = "marked-secret-marked"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose way is open to every user, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-attack-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def running(open_folder: Path) -> Iterator[Gateway]:
    directory = open_folder / "gateway"
    directory.mkdir(mode=0o755)
    one = Gateway(directory, CONFIG, {"echo": ECHO}).start()
    try:
        yield one
    finally:
        one.close()


def ask(
    gateway: Gateway, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    """A request without a key, unless `headers` have one."""
    host = gateway.api_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=HANG_SECONDS)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, None if body is None else json.dumps(body), named)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    is_json = "json" in (answer.headers["Content-Type"] or "")
    return answer.status, json.loads(text) if text and is_json else {}


def listener(arn: str, name: str = "evil", **destination: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "Bind": "127.0.0.1",
        "Destinations": [
            {"Name": f"{name}-out", "DestinationArn": arn, "Batching": {"Count": 1}} | destination
        ],
    }


# Without a key


@needs_root
def test_another_user_changes_nothing_runs_nothing_and_learns_no_secret(
    running: Gateway, open_folder: Path
) -> None:
    (open_folder / "evil.py").write_text(EVIL)
    open_folder.chmod(0o777)
    arn = f"function:{open_folder}/evil.py:handler"
    environment = {"Environment": {"TOKEN": SECRET}}
    made = running.api(
        "POST", "/v1/listeners", listener("function:echo.py:handler", "own", Arguments=environment)
    )
    assert made.status_code == 201, made.text
    peer = {"PublicKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
    bound = {"Destination": "echo", "IngressRegionKey": "*", "Arn": arn}
    tried = [
        ("POST", "/v1/listeners", listener(arn)),
        ("POST", "/v1/listeners", listener("function:echo.py:handler")),
        ("PUT", "/v1/listeners/own", listener(arn, "own")),
        ("PATCH", "/v1/listeners/own", listener(arn, "own")),
        ("DELETE", "/v1/listeners/own", None),
        ("POST", "/v1/listeners/tunnel/peers", peer),
        ("DELETE", "/v1/listeners/tunnel/peers/x", None),
        ("POST", "/v1/destination-arns", bound),
        (
            "POST",
            "/v1/packet-sources",
            {"Name": "x", "ListenerName": "own", "SnsTopicSource": {"TopicArn": TOPIC}},
        ),
        ("POST", "/v1/packet-sources/replies/reject", None),
        ("POST", "/v1/topics", {"Name": "x"}),
        ("DELETE", f"/v1/topics/{TOPIC}", None),
        ("POST", "/v1/check", {"Changes": []}),
        ("POST", "/v1/reload", None),
    ]

    def attack() -> list[tuple[int, str]]:
        answers = [ask(running, *one) for one in tried]
        answers += [ask(running, *one, Authorization=f"Bearer sg_0123456789_{'x' * 43}") for one in tried]
        return [(status, answer.get("detail", "")) for status, answer in answers]

    answers = as_nobody(attack)
    assert {status for status, _ in answers} == {401}
    assert all("sluicegate keys create" in detail for _, detail in answers)
    assert all("sluicegate.db.admin-key" in detail for _, detail in answers)
    assert not (open_folder / "ran").exists()
    names = [one["Name"] for one in running.api("GET", "/v1/listeners").json()["Items"]]
    assert names == ["decoder", "tunnel", "own"]

    paths = ("/v1/listeners", "/v1/listeners/own", "/v1/gateway", "/v1/openapi.json", "/metrics", "/healthz")
    shown = as_nobody(lambda: [ask(running, "GET", path) for path in paths])
    assert {status for status, _ in shown} == {200}
    assert SECRET not in json.dumps(shown)
    assert SECRET in running.api("GET", "/v1/listeners/own").text

    def read_files() -> list[str]:
        found = []
        folders = (running.directory, Path(os.environ["XDG_STATE_HOME"]), running.directory.parent)
        for file in (
            file for folder in folders for file in folder.glob("**/*") if "sluicegate.db" in file.name
        ):
            try:
                found.append(f"{file}: {file.read_bytes()!r}")
            except PermissionError:
                continue
        return found

    assert as_nobody(read_files) == []


@needs_root
def test_commands_of_another_user_are_told_which_file_and_option(
    running: Gateway, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = open_folder / "template.yaml"
    template.write_text("Resources: { Gate: { Type: Custom::SluicegateListener, Properties: { Name: x } } }")
    open_folder.chmod(0o777)
    # First as this user, so that every module is there: another user may not be able to read this Python.
    url = running.api_url
    for line in ("sources list", "peers list", f"apply {template} --dry-run", "tail --timeout 2"):
        assert sluicegate(*line.split(), "--api", url)[0] in (0, 1), line
    for line in ("state export", "keys list"):
        assert sluicegate(*line.split(), str(running.file))[0] == 0, line
    monkeypatch.setenv("XDG_STATE_HOME", str(open_folder / "nobodys"))
    commands = [
        ["sources", "reject", "replies"],
        ["apply", str(template)],
    ]
    for command in commands:
        code, said = as_nobody(partial(sluicegate, *command, "--api", running.api_url))
        assert code == 1
        assert "SLUICEGATE_API_KEY" in said or "declared by the gateway's file" in said, said
    code, said = as_nobody(partial(sluicegate, *commands[0], "--config", str(running.file)))
    assert code == 1
    assert f"{running.directory}/sluicegate.db.admin-key is for root" in said
    for command in ("state export", "keys list"):
        code, _ = as_nobody(partial(sluicegate, *command.split(), str(running.file)))
        assert code != 0, command
    _, watched = as_nobody(partial(sluicegate, "tail", "--timeout", "2", "--api", running.api_url))
    assert "watching" in watched, "reading is open"


def sluicegate(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code and what it printed."""
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("access", ["none", "read", "publish", "admin"])
def test_the_operator_chooses_what_is_open_without_a_key(gateway: StartGateway, access: str) -> None:
    one = gateway(CONFIG, {"echo": ECHO}, start=False)
    port = one.api_url.rpartition(":")[2]
    one.edit(f"api: {{ bind: 127.0.0.1:{port} ", f"api: {{ local_access: {access}, bind: 127.0.0.1:{port} ")
    one.start()
    calls = {
        "read": ("GET", "/v1/listeners", None),
        "publish": ("POST", "/v1/packet-sources/replies/messages", {"Messages": []}),
        "admin": ("POST", "/v1/reload", None),
    }
    levels = ["none", *calls]
    for scope, call in calls.items():
        status, answer = ask(one, *call)
        assert (status == 200) == (levels.index(access) >= levels.index(scope)), (scope, status, answer)
    assert [ask(one, "GET", path)[0] for path in ("/healthz", "/metrics")] == [200, 200]
    assert ask(one, "POST", "/v1/reload", Origin="http://evil.example")[0] in (401, 403)
    if access == "admin":
        status, _ = ask(one, "POST", "/v1/reload", Origin="http://evil.example")
        assert status == 403


def test_readers_of_events_see_no_secret(running: Gateway) -> None:
    with httpx.Client(base_url=running.api_url, timeout=HANG_SECONDS, trust_env=False) as http_client:
        accept = {"Accept": "application/x-ndjson"}
        with http_client.stream("GET", "/v1/events", headers=accept) as stream:
            refused = running.api("POST", "/v1/listeners", listener(f"function:{SECRET}/x.py:handler"))
            assert refused.status_code == 422
            line = next(line for line in stream.iter_lines() if '"ResourceChanged"' in line)
    assert SECRET not in line
    assert SECRET in running.event("ResourceChanged", Result="Refused")["Detail"]


@pytest.mark.parametrize("access", ["none", "read", "publish", "admin"])
def test_topics_without_credentials(gateway: StartGateway, access: str) -> None:
    one = gateway(CONFIG, {"echo": ECHO}, start=False)
    port = one.sns_url.rpartition(":")[2]
    one.edit(f"sns: {{ bind: 127.0.0.1:{port} ", f"sns: {{ local_access: {access}, bind: 127.0.0.1:{port} ")
    one.start()
    signer = key(one, "admin", sns=True)

    def sns(key_id: str, secret: str) -> Any:
        return boto3.client(
            "sns",
            endpoint_url=one.sns_url,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 1, "mode": "standard"}),
        )

    with (
        closing(sns("local", "local")) as anybody,
        closing(sns(signer["AccessKeyId"], signer["SecretAccessKey"])) as operator,
    ):
        calls: list[tuple[str, Callable[[Any], Any]]] = [
            ("read", lambda client: client.list_topics()),
            ("publish", lambda client: client.create_topic(Name="made")),
            ("publish", lambda client: client.publish(TopicArn=TOPIC, Message='{"Messages": []}')),
            ("admin", lambda client: client.delete_topic(TopicArn=TOPIC)),
        ]
        levels = ["none", "read", "publish", "admin"]
        for scope, call in calls:
            if levels.index(access) >= levels.index(scope):
                call(anybody)
                continue
            with pytest.raises(ClientError) as refused:
                call(anybody)
            assert refused.value.response["Error"]["Code"] == "AuthorizationError"
            assert "sluicegate keys create" in str(refused.value)
            call(operator)


# The key of this machine


def test_a_deleted_key_is_made_anew_and_the_old_one_revoked(running: Gateway) -> None:
    file = running.directory / "sluicegate.db.admin-key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    old = file.read_text().strip()
    bearer = f"Bearer {old}"
    assert ask(running, "POST", "/v1/reload", Authorization=bearer)[0] == 200
    file.unlink()
    assert ask(running, "POST", "/v1/reload", Authorization=bearer)[0] == 401
    new = file.read_text().strip()
    assert new != old
    assert ask(running, "POST", "/v1/reload", Authorization=f"Bearer {new}")[0] == 200
    # A command needs nobody to do anything, also when it finds no file.
    file.unlink()
    command = [PROGRAM, "sources", "approve", "replies", "--api", running.api_url]
    done = run_program(command)
    assert done.returncode == 0, done.stderr
    assert running.stop() == 0
    kept = file.read_text()
    running.start()
    assert file.read_text() == kept
    told = running.process.stdout.text + running.process.stderr.text
    assert kept.strip() not in told


def test_the_key_is_found_by_the_file_and_from_any_other_folder(running: Gateway, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}

    def approve(folder: Path, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return run_program(
            [PROGRAM, "sources", "approve", "replies", *options], cwd=folder, env=environment | variables
        )

    known = {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    text = (running.directory / "sluicegate.db.admin-key").read_text().strip()
    (running.directory / "sluicegate.yaml").symlink_to(running.file)
    works = [
        (tmp_path, ["--config", str(running.file)], {}),
        (running.directory, [], {}),
        (tmp_path, ["--api", running.api_url], known),
        (tmp_path, ["--api", running.api_url.replace("127.0.0.1", "localhost")], known),
        (tmp_path, ["--api", running.api_url], {"SLUICEGATE_API_KEY": text}),
        (tmp_path, ["--api", running.api_url, "--api-key", text], {}),
    ]
    for folder, options, variables in works:
        done = approve(folder, *options, **variables)
        assert done.returncode == 0, (options, done.stderr)
    refused = approve(tmp_path, "--api", running.api_url)
    assert (refused.returncode, "--config" in refused.stderr) == (1, True), refused.stderr
    note = next(
        Path(os.environ["XDG_STATE_HOME"], "sluicegate").glob(f"*-{running.api_url.rpartition(':')[2]}.json")
    )
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert text not in note.read_text()
    assert running.stop() == 0
    assert not note.exists()


class Thief:
    """A server that takes down every request, and answers each with a redirect or as a gateway would not."""

    def __init__(self, port: int = 0, to: str = "") -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self._to = to
        self.port = int(self._server.getsockname()[1])

    def serve(self, took: Path) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection, took.open("ab") as file:
                file.write(connection.recv(65_536))
                file.flush()
                head = (
                    f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {self._to}\r\n"
                    if self._to
                    else "HTTP/1.1 401 No\r\n"
                )
                connection.sendall(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())

    def close(self) -> None:
        self._server.close()


@needs_root
def test_a_program_of_another_user_never_gets_the_key(running: Gateway, open_folder: Path) -> None:
    took = open_folder / "took"
    open_folder.chmod(0o777)
    text = (running.directory / "sluicegate.db.admin-key").read_text().strip()
    port = int(running.api_url.rpartition(":")[2])
    running.kill()  # its note stays, and its port is free

    def run(*options: str) -> str:
        command = [PROGRAM, "sources", "approve", "replies", *options]
        done = run_program(command, cwd=running.directory)
        assert done.returncode != 0
        return done.stderr

    def steal() -> None:
        Thief(port).serve(took)

    with nobody_runs(steal):
        until(lambda: _is_served(port), "the thief serves")
        for options in (["--api", running.api_url], ["--config", str(running.file)]):
            took.unlink(missing_ok=True)
            said = run(*options)
            until(took.exists, "the thief was asked")
            assert b"POST /v1/packet-sources" in took.read_bytes()
            assert text.encode() not in took.read_bytes()
            assert b"uthorization" not in took.read_bytes()
            assert text not in said


def test_the_key_goes_to_no_other_address_and_follows_no_redirect(running: Gateway, tmp_path: Path) -> None:
    took, text = tmp_path / "took", (running.directory / "sluicegate.db.admin-key").read_bytes().strip()
    (running.directory / "sluicegate.yaml").symlink_to(running.file)
    for to in ("", f"{running.api_url}/v1/packet-sources/replies/approve"):
        thief = Thief(to=to)
        child = os.fork()
        if child == 0:
            thief.serve(took)
        try:
            places = [["--api", f"http://{host}:{thief.port}"] for host in ("127.0.0.1", "localhost")]
            places.append(["--api", f"http://127.0.0.1:{thief.port}", "--config", str(running.file)])
            for options in places:
                command = [PROGRAM, "sources", "approve", "replies", *options]
                done = run_program(command, cwd=running.directory)
                assert done.returncode != 0, options
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            thief.close()
    assert took.read_bytes().count(b"POST /v1/") >= 6
    assert text not in took.read_bytes()
    assert not running.named("ResourceChanged", Action="Approve")


def _is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Code and files of documents


def outside(folder: Path) -> dict[str, str]:
    """Paths that lead out of `folder`, by how they do it. Beside it is `evil.py`."""
    evil = folder.parent / "evil.py"
    evil.write_text(EVIL)
    (folder / "link.py").symlink_to(evil)
    (folder / "linked").symlink_to(folder.parent)
    (folder / "inner").mkdir()
    return {
        "absolute": f"{evil}",
        "parent": "../evil.py",
        "deep": "inner/../../evil.py",
        "missing": "not/there/../../../evil.py",
        "link": "link.py",
        "linked": "linked/evil.py",
        "proc": f"/proc/self/root{evil}",
    }


WAYS = ("absolute", "parent", "deep", "missing", "link", "linked", "proc")


@pytest.mark.parametrize("way", WAYS)
def test_documents_of_the_api_run_and_write_nothing_outside(running: Gateway, way: str) -> None:
    path = outside(running.directory)[way]
    before = sorted(running.directory.parent.rglob("*"))
    assert running.api("POST", "/v1/listeners", listener("console:", "own")).status_code == 201
    target = path.removesuffix(".py") + "-out.ndjson" if way != "link" else "gone.ndjson"
    if way == "link":
        (running.directory / "gone.ndjson").symlink_to(running.directory.parent / "new.ndjson")
        before = sorted(running.directory.parent.rglob("*"))
    for arn in (f"function:{path}:handler", f"file:{target}"):
        bound = {"Destination": "own-out", "IngressRegionKey": "*", "Arn": arn}
        tried = [
            ("POST", "/v1/listeners", listener(arn)),
            ("POST", "/v1/listeners", listener({"eu-west-1": arn, "*": "console:"})),  # type: ignore[arg-type]
            ("PUT", "/v1/listeners/own", listener(arn, "own")),
            ("POST", "/v1/destination-arns", bound),
            ("POST", "/v1/destination-arns", bound | {"Destination": "echo"}),
            (
                "POST",
                "/v1/check",
                {
                    "Changes": [
                        {"Action": "Create", "Kind": "Listener", "Name": "evil", "Document": listener(arn)}
                    ]
                },
            ),
        ]
        for one in tried:
            answer = running.api(*one)
            assert answer.status_code == 422, (one, answer.text)
            assert "local_code" in answer.text
    source = {
        "Name": "evil",
        "ListenerName": "own",
        "SnsTopicSource": {"TopicArn": TOPIC},
        "DeadLetterQueueArn": f"file:{target}",
    }
    refused = running.api("POST", "/v1/packet-sources", source)
    assert (refused.status_code, "/DeadLetterQueueArn" in refused.text) == (422, True), refused.text
    assert sorted(running.directory.parent.rglob("*")) == before
    assert not (running.directory.parent / "ran").exists()


def test_cloudformation_is_bounded_too(running: Gateway) -> None:
    path = outside(running.directory)["absolute"]

    class Caller:
        def call(self, method: str, path: str, body: Any = None, headers: Any = None) -> Any:
            with httpx.Client(base_url=running.api_url, trust_env=False, timeout=HANG_SECONDS) as client:
                sent = {**running.credentials, **(headers or {})}
                answer = client.request(method, path, json=body, headers=sent)
            if answer.is_error:
                raise refusal(answer.status_code, answer.content)
            return answer.json() if answer.content else None

    event = {
        "RequestType": "Create",
        "RequestId": "r",
        "StackId": "arn:aws:cloudformation:us-east-1:000000000000:stack/x/y",
        "LogicalResourceId": "Evil",
        "ResourceType": "Custom::SluicegateListener",
        "ResourceProperties": listener(f"function:{path}:handler"),
    }
    answer = handle(event, Caller())
    assert answer["Status"] == "FAILED"
    assert "local_code" in answer["Reason"]
    assert not (running.directory.parent / "ran").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYTHONPATH", "{outside}"),
        ("PYTHONPATH", "../"),
        ("PYTHONSTARTUP", "{outside}/evil.py"),
        ("PYTHONHOME", "{outside}"),
        ("LD_PRELOAD", "{outside}/evil.so"),
        ("PATH", "{outside}:/usr/bin"),
        ("HOME", "{outside}"),
        ("AWS_CONFIG_FILE", "{outside}/config"),
        ("BASH_ENV", "{outside}/x"),
        ("SHELLOPTS", "xtrace"),
        ("PS4", "$(id)"),
        ("DOTNET_STARTUP_HOOKS", "{outside}/x.dll"),
        ("LUA_INIT", "@{outside}/x.lua"),
        ("CLASSPATH", "{outside}"),
        ("PHPRC", "{outside}"),
        ("GIT_SSH_COMMAND", "id"),
    ],
)
def test_the_environment_of_a_document_loads_no_code_from_elsewhere(
    running: Gateway, variable: str, value: str
) -> None:
    environment = {"Environment": {variable: value.format(outside=running.directory.parent)}}
    answer = running.api("POST", "/v1/listeners", listener("function:echo.py:handler", Arguments=environment))
    assert answer.status_code == 422, answer.text
    assert f"/Destinations/0/Arguments/Environment/{variable}" in answer.text
    inside = {"Environment": {"PYTHONPATH": str(running.directory), "PATH": os.environ["PATH"], "NAME": "/x"}}
    taken = running.api("POST", "/v1/listeners", listener("function:echo.py:handler", Arguments=inside))
    assert taken.status_code == 201, taken.text


@pytest.mark.parametrize(
    "name",
    ["sluicegate.db", "sluicegate.db.keys", "sluicegate.db.admin-key", "gateway.yaml", "echo.py", "new.pth"],
)
def test_packets_are_appended_to_no_file_of_the_gateway_and_to_no_program(
    running: Gateway, name: str
) -> None:
    answer = running.api("POST", "/v1/listeners", listener(f"file:{name}"))
    assert answer.status_code == 422, answer.text


def test_a_link_that_is_put_there_later_leads_nowhere(running: Gateway) -> None:
    kept = running.directory / "kept"
    made = running.api("POST", "/v1/listeners", listener("file:kept/a/b.ndjson"))
    assert made.status_code == 201, made.text
    with Client() as client:
        client.send(b"1", running.address("evil"))
        wait_for_records(kept / "a" / "b.ndjson", 1)
        elsewhere = running.directory.parent / "elsewhere"
        elsewhere.mkdir()
        (kept / "a").rename(running.directory / "moved")
        (kept / "a").symlink_to(elsewhere)
        client.send(b"2", running.address("evil"))
        running.event("DeliveryFailed", Destination="evil-out")
    assert list(elsewhere.iterdir()) == []
    assert len(records(running.directory / "moved" / "b.ndjson")) == 1


def test_what_the_file_says_is_not_bounded_and_local_code_is_taken_over_by_a_reload(
    gateway: StartGateway,
) -> None:
    one = gateway("listeners: []", start=False)
    elsewhere = one.directory.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "echo.py").write_text(ECHO)
    arn = f"function:{elsewhere}/echo.py:handler"
    out = f'{{ name: out, destination_arn: "{arn}" }}'
    one.edit("listeners: []", f"listeners: [{{ name: own, bind: 127.0.0.1, destinations: [{out}] }}]")
    one.start()
    assert running_echo(one, "own")
    assert one.api("POST", "/v1/listeners", listener(arn)).status_code == 422
    one.file.write_text(one.file.read_text() + f"local_code: ['.', '{elsewhere}']\n")
    assert one.api("POST", "/v1/reload").status_code == 200
    assert one.api("POST", "/v1/listeners", listener(arn)).status_code == 201
    assert running_echo(one, "evil")
    one.edit(f"local_code: ['.', '{elsewhere}']", "local_code: []")
    narrowed = one.api("POST", "/v1/reload")
    assert (narrowed.status_code, "local_code: none" in narrowed.text) == (422, True), narrowed.text
    assert running_echo(one, "evil"), "what ran runs on"
    one.stop()
    with pytest.raises(AssertionError, match="local_code"):
        one.start()


def running_echo(gateway: Gateway, name: str) -> bool:
    with Client() as client:
        client.send(b"x", gateway.address(name))
        return client.receive()[0] == b"x"


TEMPLATE = """
Resources:
  Function:
    Type: AWS::Serverless::Function
    Properties: { Runtime: python3.12, Handler: app.handler, CodeUri: code }
  Gate:
    Type: Custom::SluicegateListener
    Properties:
      Name: gate
      Bind: 127.0.0.1
      ClientRestrictions: { Networks: [127.0.0.0/8] }
      Destinations: [{ Name: out, DestinationArn: !GetAtt Function.Arn }]
"""


def test_apply_adds_the_folders_of_its_stack_and_of_no_other(gateway: StartGateway, tmp_path: Path) -> None:
    one = gateway("listeners: []")
    stack = tmp_path / "stack"
    (stack / "code").mkdir(parents=True)
    (stack / "code" / "app.py").write_text(ECHO)
    (stack / "template.yaml").write_text(TEMPLATE)
    arn = f"function:{stack}/code/app.py:handler"
    command = [PROGRAM, "apply", stack / "template.yaml", "--api", one.api_url]
    tried = run_program([*command, "--dry-run"])
    assert tried.returncode == 0, tried.stderr
    assert one.api("POST", "/v1/listeners", listener(arn)).status_code == 422
    done = run_program(command)
    assert done.returncode == 0, done.stderr
    assert str(stack / "code") in done.stdout
    assert str(stack / "stack.sluicegate") in done.stdout
    assert running_echo(one, "gate")
    assert one.api("POST", "/v1/listeners", listener(arn)).status_code == 422
    one.stop()
    one.start()
    assert running_echo(one, "gate")
    # The header is for the key of this machine alone.
    admin = key(one, "admin")["Key"]
    folders = json.dumps([str(stack)])
    status, answer = ask(
        one,
        "POST",
        "/v1/listeners",
        listener(arn),
        Authorization=f"Bearer {admin}",
        Sluicegate_Local_Code=folders,
    )
    assert (status, "key `local`" in answer["detail"]) == (403, True)
    refused = run_program(
        [*command, "--stack", "other", "--parameter", "X=1"], env={**os.environ, "SLUICEGATE_API_KEY": admin}
    )
    assert refused.returncode == 1
    gone = run_program([*command, "--delete"])
    assert gone.returncode == 0, gone.stderr
