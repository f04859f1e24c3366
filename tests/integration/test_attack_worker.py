"""Other programs of the machine at a worker's Runtime API: they get no batch and give no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sluicegate.functions import Function, FunctionInitFailed, owner
from waiting import until

pytestmark = pytest.mark.attack

NOBODY = 65534

# A custom runtime: it holds its connection, as most do. It answers once the file `go` is there.
BOOTSTRAP = """
import http.client, os, pathlib, time
runtime = "/2018-06-01/runtime/invocation"
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", f"{runtime}/next")
    answer = api.getresponse()
    body, request_id = answer.read(), answer.headers["Lambda-Runtime-Aws-Request-Id"]
    pathlib.Path("taken").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.005)
    api.request("POST", f"{runtime}/{request_id}/response", body[::-1])
    api.getresponse().read()
"""

# Connects (as a user and from a port of its choice), sends, and prints what comes back until the other side hangs up.
STRANGER = """
import os, socket, sys, time
user, family, source, port = map(int, sys.argv[1:5])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
with socket.socket(family) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    host = "127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1"
    for attempt in range(1000 if source else 0):
        try:
            s.bind((host, source))
            break
        except OSError:
            time.sleep(0.01)
    s.settimeout(30)
    s.connect((host, port))
    try:
        s.sendall(sys.argv[5].encode())
        while data := s.recv(65536):
            print(data.decode(), flush=True)
    except ConnectionError:
        pass
"""

REQUESTS = {
    "take a batch": "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n",
    "answer": "POST /2018-06-01/runtime/invocation/request-1/response HTTP/1.1\r\nHost: x\r\n"
    "Content-Length: 6\r\n\r\nforged",
    "fail": "POST /2018-06-01/runtime/invocation/request-1/error HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "fail the start": "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
}

MakeProgram = Callable[[str], Function]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeProgram]:
    """Makes functions that are executables, from Python source."""
    made: list[Function] = []

    def make(source: str, head: str = f"#!{sys.executable}\n") -> Function:
        program = tmp_path / "bootstrap"
        program.write_text(head + textwrap.dedent(source))
        program.chmod(0o755)
        made.append(Function(program, None, name="native", concurrency=1, timeout=60.0))
        return made[-1]

    yield make
    for function in made:
        await function.close()


def variables(pid: int) -> dict[str, str]:
    """The environment with which a process began."""
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def port_of(pid: int) -> int:
    return int(variables(pid)["AWS_LAMBDA_RUNTIME_API"].rpartition(":")[2])


async def strange(
    port: int, request: str, *, user: int | None, family: int = 2, source: int = 0
) -> tuple[str, str]:
    """What a program outside of the worker's process group gets, and what it says of its own errors."""
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can be another user")
    numbers = map(str, (user or 0, family, source, port))
    command = [sys.executable, "-c", STRANGER, *numbers, request]
    child = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    out, err = await child.communicate()
    return out.decode(), err.decode()


@pytest.mark.parametrize("family", [2, 10], ids=["IPv4", "IPv4 by an IPv6 socket"])
@pytest.mark.parametrize("user", [NOBODY, None], ids=["another user", "the same user, another group"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_stranger_gets_no_batch_and_gives_no_answer(
    request_: str, user: int | None, family: int, make: MakeProgram, tmp_path: Path
) -> None:
    function = make(BOOTSTRAP)
    await function.warm_up()
    port = port_of(function.pids[0])
    # While the worker waits for work, and while it has some.
    assert await strange(port, request_, user=user, family=family) == ("", "")
    answer = asyncio.create_task(function.invoke(b'"true"', "request-1"))
    await until((tmp_path / "taken").exists)
    assert await strange(port, request_, user=user, family=family) == ("", "")
    assert not answer.done()
    (tmp_path / "go").touch()
    assert await answer == b'"eurt"'


@pytest.mark.parametrize("user", [NOBODY, None], ids=["another user", "the same user, another group"])
async def test_the_addresses_of_a_connection_that_was_believed_are_no_pass(
    user: int | None, make: MakeProgram, tmp_path: Path
) -> None:
    function = make(
        """
        import http.client, os, pathlib, socket, struct, time
        api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        api.request("GET", "/none")
        assert api.getresponse().status == 404
        port = api.sock.getsockname()[1]
        # Reset, so that nothing holds the port.
        api.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        api.close()
        pathlib.Path("port").write_text(str(port))
        time.sleep(600)
        """
    )
    start = asyncio.create_task(function.warm_up())
    await until(lambda: (tmp_path / "port").exists() and (tmp_path / "port").read_text())
    source = int((tmp_path / "port").read_text())
    port = port_of(function.pids[0])
    assert await strange(port, REQUESTS["fail the start"], user=user, source=source) == ("", "")
    assert not start.done()
    os.kill(function.pids[0], signal.SIGKILL)
    with pytest.raises(FunctionInitFailed):
        await start


async def test_many_strangers_keep_the_worker_from_nothing(make: MakeProgram, tmp_path: Path) -> None:
    function = make(BOOTSTRAP)
    await function.warm_up()
    host, port = "127.0.0.1", port_of(function.pids[0])
    knock = f"""
import socket
held = [socket.create_connection(("{host}", {port})) for _ in range(300)]
print("held", flush=True)
for one in held:
    try:
        one.recv(1)
    except ConnectionError:
        pass
print("cut", flush=True)
"""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", knock), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with capture_logs() as logs:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"held\n"
        (tmp_path / "go").touch()
        assert await function.invoke(b"abc", "request-1") == b"cba"
        assert await child.stdout.readline() == b"cut\n"
        await child.wait()
        await function.close()
    told = [entry for entry in logs if "were refused" in entry["event"]]
    assert sum(entry["connections"] for entry in told) == 300
    assert len(told) < 10


async def test_what_the_worker_starts_may_speak_for_it(make: MakeProgram) -> None:
    # As a shell script with curl does: each request is another process with a connection of its own.
    function = make(
        """
        import http.client, os, sys
        runtime = "/2018-06-01/runtime/invocation"
        def ask(*request):
            read, write = os.pipe()
            if os.fork() == 0:
                api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
                api.request(*request)
                answer = api.getresponse()
                header = answer.headers.get("Lambda-Runtime-Aws-Request-Id") or ""
                os.write(write, header.encode() + b" " + answer.read())
                os._exit(0)
            os.wait()
            os.close(write)
            with os.fdopen(read, "rb") as pipe:
                return pipe.read().split(b" ", 1)
        while True:
            request_id, body = ask("GET", f"{runtime}/next")
            ask("POST", f"{runtime}/{request_id.decode()}/response", body[::-1])
        """
    )
    assert [await function.invoke(b"abc"), await function.invoke(b"def")] == [b"cba", b"fed"]


async def test_a_runtime_that_leaves_its_process_group_is_told_why_it_is_refused(make: MakeProgram) -> None:
    function = make(
        """
        import http.client, os
        if os.fork():
            os.wait()
            raise SystemExit(3)
        os.setsid()
        api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        api.request("GET", "/2018-06-01/runtime/invocation/next")
        api.getresponse()
        """
    )
    with pytest.raises(FunctionInitFailed, match="no process of the worker's process group has it open"):
        await function.warm_up()


async def test_without_sock_diag_an_executable_does_not_start_and_python_does(
    make: MakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_NETLINK_SOCK_DIAG", 31)  # no such protocol, as in a sandbox without it
    with pytest.raises(FunctionInitFailed, match=r"modprobe tcp_diag.*AF_NETLINK.*Python"):
        await make(BOOTSTRAP).warm_up()
    (tmp_path / "main.py").write_text("def handler(event, context): return event\n")
    function = Function(tmp_path / "main.py", "handler", name="python")
    assert await function.invoke(b"1") == b"1"
    await function.close()


def listening() -> set[str]:
    """The inodes of the TCP sockets that listen here."""
    lines = [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    return {line.split()[9] for line in lines if line.split()[3] == "0A"}


def sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


async def test_a_python_worker_has_no_port_and_inherits_one_socket(tmp_path: Path) -> None:
    before = listening() & sockets(os.getpid())
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import os, socket, subprocess
            LS = ["/bin/sh", "-c", "ls /proc/self/fd; exec ls -l /proc/self/fd"]
            def handler(event, context):
                api = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
                with socket.socket() as s:
                    refused = s.connect_ex((api[0], int(api[1])))
                return {"open": sorted(os.listdir("/proc/self/fd")), "refused": refused,
                        "child": subprocess.run(LS, close_fds=False, capture_output=True, text=True).stdout}
            """
        )
    )
    function = Function(tmp_path / "main.py", "handler", name="python")
    try:
        seen = json.loads(await function.invoke(b"{}"))
        assert listening() & sockets(os.getpid()) == before
        assert not listening() & sockets(function.pids[0])
        assert len(sockets(function.pids[0])) == 1
        assert seen["refused"]
        # Its standard streams, the socket, and what lists them; what the handler starts has no socket.
        assert len(seen["open"]) == 5
        assert "socket:" not in seen["child"]
    finally:
        await function.close()


async def test_an_executable_inherits_its_standard_streams_alone(make: MakeProgram, tmp_path: Path) -> None:
    function = make('ls /proc/self/fd > open\necho "ready"\nexit 4\n', "#!/bin/sh\n")
    with pytest.raises(
        FunctionInitFailed,
        match="exited with status 4 before it was ready; its last line: ready; it has not asked the Lambda Runtime API",
    ):
        await function.warm_up()
    assert (tmp_path / "open").read_text().split() == [
        "0",
        "1",
        "2",
        "3",
    ]  # 3 is the directory that `ls` reads
