"""Local Lambda functions with real workers: AWS's runtime (awslambdaric) under our Runtime API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import sluicegate
from sluicegate.functions import (
    Function,
    FunctionCrashed,
    FunctionError,
    FunctionFailure,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
)
from sluicegate.functions.runtime_api import RESPONSE_LIMIT
from waiting import until

Make = Callable[..., Function]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes functions from source; afterwards each is closed and none of its processes is left."""
    made: list[Function] = []

    def make(source: str, name: str = "echo", **options: Any) -> Function:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        (directory / "main.py").write_text(textwrap.dedent(source))
        made.append(Function(directory / "main.py", "handler", name=name, **options))
        return made[-1]

    yield make
    for function in made:
        pids = function.pids
        await function.close()
        assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        # A zombie has ended; whose child it is does not matter here.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


ECHO = """
    import os
    def handler(event, context):
        exec(event.get("do", ""))
        return {"pid": os.getpid(), "echo": event.get("data")}
"""


async def call(function: Function, **event: Any) -> Any:
    return json.loads(await function.invoke(json.dumps(event).encode()))


# What works


async def test_cold_start_then_the_same_worker(make: Make) -> None:
    function = make(ECHO)
    assert function.pids == []
    first = await call(function, data="ä\u0000")
    second = await call(function, data=2)
    assert (first["echo"], second["echo"]) == ("ä\u0000", 2)
    assert first["pid"] == second["pid"]
    assert function.pids == [first["pid"]]


async def test_handler_sees_what_lambda_shows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "s3cret")
    function = make(
        """
        import os
        def handler(event, context):
            return {"env": dict(os.environ), "cwd": os.getcwd(), "id": context.aws_request_id,
                    "arn": context.invoked_function_arn, "left": context.get_remaining_time_in_millis(),
                    "name": context.function_name, "memory": context.memory_limit_in_mb}
        """,
        environment={"TABLE": "t1"},
        timeout=7.0,
        region="eu-west-1",
    )
    seen = json.loads(await function.invoke(b"{}", "request-1"))
    assert seen["id"] == "request-1"
    assert seen["arn"] == "arn:aws:lambda:eu-west-1:000000000000:function:echo"
    assert 0 < seen["left"] <= 7000
    assert (seen["name"], seen["memory"]) == ("echo", "128")
    assert seen["env"]["TABLE"] == "t1"
    assert seen["env"]["AWS_REGION"] == "eu-west-1"
    assert seen["env"]["_HANDLER"] == "main.handler"
    assert seen["cwd"] == seen["env"]["LAMBDA_TASK_ROOT"]
    assert "GATEWAY_SECRET" not in seen["env"]


async def test_concurrent_invocations_use_as_many_workers_as_allowed(make: Make) -> None:
    function = make(ECHO, concurrency=2)
    answers = await asyncio.gather(
        *(call(function, do="import time; time.sleep(0.1)", data=n) for n in range(6))
    )
    assert [answer["echo"] for answer in answers] == list(range(6))
    assert len({answer["pid"] for answer in answers}) == 2


async def test_an_executable_that_speaks_the_runtime_api(tmp_path: Path) -> None:
    program = tmp_path / "bootstrap"
    program.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(
            """
            import http.client, os
            api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
            while True:
                api.request("GET", "/2018-06-01/runtime/invocation/next")
                answer = api.getresponse()
                body = answer.read()
                request_id = answer.headers["Lambda-Runtime-Aws-Request-Id"]
                api.request("POST", f"/2018-06-01/runtime/invocation/{request_id}/response", body[::-1])
                api.getresponse().read()
            """
        )
    )
    program.chmod(0o755)
    function = Function(program, None, name="native")
    try:
        assert await function.invoke(b"abc") == b"cba"
        assert await function.invoke(b"def") == b"fed"
    finally:
        await function.close()


async def test_reload_takes_the_new_source_and_lets_the_running_end(make: Make, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    function = make(
        "import pathlib, time\n"
        "def handler(e, c):\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        f"    while not pathlib.Path({str(go)!r}).exists():\n"
        "        time.sleep(0.01)\n"
        "    return 1\n"
    )
    running = asyncio.create_task(function.invoke(b"{}"))
    await until(begun.exists)
    (tmp_path / "echo/main.py").write_text("def handler(e, c):\n    return 22\n")
    function.reload()
    assert await function.invoke(b"{}") == b"22"
    assert not running.done()
    go.touch()
    assert await running == b"1"


# What goes wrong harms its own invocation


async def test_crash_in_the_middle_of_a_batch(make: Make) -> None:
    function = make(ECHO, concurrency=1)
    first = await call(function)
    with pytest.raises(FunctionCrashed, match="status 3"):
        await call(function, do="os._exit(3)")
    with pytest.raises(FunctionCrashed, match="SIGKILL"):
        await call(function, do="os.kill(os.getpid(), 9)")
    with pytest.raises(FunctionCrashed):
        await call(function, do="import sys; sys.exit('enough')")
    assert (await call(function))["pid"] != first["pid"]


async def test_hang_past_its_timeout_leaves_the_other_worker_alone(make: Make) -> None:
    function = make(ECHO, concurrency=2, timeout=0.5)
    hanging = asyncio.create_task(call(function, do="import time; time.sleep(600)"))
    good = [await call(function, data=n) for n in range(20)]
    with pytest.raises(FunctionTimeout, match=r"0\.5 s"):
        await hanging
    assert [answer["echo"] for answer in good] == list(range(20))
    assert (await call(function, data="after"))["echo"] == "after"


async def test_a_handler_that_ignores_sigterm_is_stopped_with_its_children(make: Make) -> None:
    function = make(ECHO)
    start = (
        "import signal, subprocess; signal.signal(15, signal.SIG_IGN);"
        "event['data'] = subprocess.Popen(['sleep', '600']).pid"
    )
    answer = await call(function, do=start)
    assert is_alive(answer["echo"])
    await function.close()
    assert not is_alive(answer["pid"])
    await until(lambda: not is_alive(answer["echo"]))


async def test_a_handler_that_cleans_up_at_sigterm_gets_to_do_so_while_it_waits(
    make: Make, tmp_path: Path
) -> None:
    function = make(
        f"""
        import pathlib, signal, sys
        def clean_up(number, frame):
            pathlib.Path({str(tmp_path / "clean")!r}).write_text("yes")
            sys.exit(0)
        signal.signal(signal.SIGTERM, clean_up)
        def handler(event, context):
            return None
        """
    )
    await function.invoke(b"{}")
    await function.close()
    assert (tmp_path / "clean").read_text() == "yes"


async def test_what_a_handler_sets_for_its_sockets_does_not_hold_for_the_runtimes(make: Make) -> None:
    function = make("import socket; socket.setdefaulttimeout(0.05)\n" + textwrap.dedent(ECHO))
    first = await call(function)
    await asyncio.sleep(0.2)
    assert (await call(function, do="import time; time.sleep(0.1)"))["pid"] == first["pid"]


async def test_exception_is_reported_and_the_worker_lives_on(make: Make) -> None:
    function = make(ECHO)
    first = await call(function)
    with pytest.raises(FunctionError) as caught:
        await call(function, do="raise KeyError('Tag')")
    assert (caught.value.error_type, caught.value.error_message) == ("KeyError", "'Tag'")
    assert (await call(function))["pid"] == first["pid"]


async def test_events_and_results_are_the_json_that_awss_runtime_makes(make: Make) -> None:
    """Through the faster encoder or past it: what only AWS's own takes, and what only the faster one would."""
    function = make("""
        import datetime, decimal

        RESULTS = {
            "plain": {"Replies": [{"Tag": "t\u00e4g", "Data": ""}, None]},
            "decimal": {"Value": decimal.Decimal("1.50")},
            "keys": {1: "one", None: "none"},
            "large": {"Value": 2**70},
            "surrogate": {"Value": chr(0xD800)},
            "bytes": b'{"Raw": true}',
            "date": {"At": datetime.date(2026, 1, 1)},
        }

        def handler(event, context):
            return {"Got": event["Value"]} if "Value" in event else RESULTS[event["Result"]]
    """)
    assert await call(function, Result="plain") == {"Replies": [{"Tag": "t\u00e4g", "Data": ""}, None]}
    assert await call(function, Result="decimal") == {"Value": 1.5}
    assert await call(function, Result="keys") == {"1": "one", "null": "none"}
    assert await call(function, Result="large") == {"Value": 2**70}
    assert await call(function, Result="surrogate") == {"Value": "\ud800"}
    assert await call(function, Result="bytes") == {"Raw": True}
    with pytest.raises(FunctionError, match="MarshalError"):
        await call(function, Result="date")
    for value in ({"a": [1, 2.5, None, True]}, "\u00e4\u20ac", 2**53):
        assert await call(function, Value=value) == {"Got": value}


async def test_a_result_that_is_not_json_is_an_error(make: Make) -> None:
    with pytest.raises(FunctionError, match="MarshalError"):
        await make("def handler(e, c): return {1, 2}").invoke(b"{}")


async def test_an_answer_beyond_the_limit(make: Make) -> None:
    function = make(ECHO)
    first = await call(function)
    with pytest.raises(FunctionFailure, match="limit") as caught:
        await call(function, do=f"event['data'] = 'x' * {RESPONSE_LIMIT}")
    assert caught.value.reason == "FunctionAnswerTooLarge"
    with pytest.raises(FunctionFailure, match="limit"):
        await call(function, do=f"raise KeyError('x' * {RESPONSE_LIMIT})")
    with pytest.raises(FunctionError, match="KeyError"):
        await call(function, do="raise KeyError('x' * 600_000)")
    long = await call(function, do="event['data'] = 'x' * 6000000")
    assert len(long["echo"]) == 6_000_000
    assert long["pid"] == first["pid"]


async def test_an_event_of_many_reads_arrives_whole(make: Make) -> None:
    function = make(ECHO)
    data = "".join(map(str, range(700_000)))
    for _ in range(2):  # on a fresh connection, and behind the answer to a result
        assert (await call(function, data=data))["echo"] == data


async def test_output_is_logged_with_the_request_and_never_taken_for_an_answer(make: Make) -> None:
    function = make(
        """
        import os, sys
        def handler(event, context):
            print('{"Replies": "not this"}')
            print("to the error stream", file=sys.stderr)
            os.write(1, b"\\xff\\xfe\\x00\\x1b[2J no newline at the end")
            os.write(2, b"y" * 100_000 + b"\\n")
            return {"Replies": []}
        """
    )
    with capture_logs() as logs:
        assert json.loads(await function.invoke(b"{}", "request-1")) == {"Replies": []}
        await function.close()
    lines = [entry for entry in logs if entry["event"] == "function output"]
    assert {(entry["function"], entry["request_id"]) for entry in lines} == {("echo", "request-1")}
    text = {stream: [e["line"] for e in lines if e["stream"] == stream] for stream in ("stdout", "stderr")}
    assert text["stdout"][0] == '{"Replies": "not this"}'
    assert "no newline at the end" in text["stdout"][1]
    assert "\x1b" not in text["stdout"][1]
    assert text["stderr"][0] == "to the error stream"
    assert max(len(line) for line in text["stderr"]) <= 4096


async def test_a_flood_of_output_is_cut_and_blocks_nothing(make: Make) -> None:
    function = make("def handler(e, c):\n    for n in range(200_000): print('line', n)\n    return n\n")
    with capture_logs() as logs:
        assert await function.invoke(b"{}") == b"199999"
        await function.close()
    lines = [entry["line"] for entry in logs if entry["event"] == "function output"]
    assert len(lines) < 100_000
    dropped = sum(int(line[1:].split()[0]) for line in lines if "more lines" in line)
    assert dropped + len([line for line in lines if line.startswith("line ")]) == 200_000


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit('no licence')", "no licence"),
        ("import os; os._exit(7)", "status 7"),
        ("def handler(event, context)\n    pass", "Syntax error"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("raise ValueError('TABLE is not set')", "TABLE is not set"),
        ("other = 1", "'handler' missing"),
    ],
)
async def test_init_failure_says_why_and_heals(source: str, message: str, make: Make, tmp_path: Path) -> None:
    function = make(source)
    with pytest.raises(FunctionInitFailed, match=message):
        await function.warm_up()
    with pytest.raises(FunctionInitFailed, match=message):
        await function.invoke(b"{}")
    assert function.pids == []
    (tmp_path / "echo/main.py").write_text("def handler(e, c): return 'healed'")
    assert await function.invoke(b"{}") == b'"healed"'


async def test_a_crash_loop_starts_few_processes(make: Make, tmp_path: Path) -> None:
    function = make("open('starts', 'a').write('x'); raise ValueError")

    async def batches() -> None:
        while True:
            with contextlib.suppress(FunctionInitFailed):
                await function.invoke(b"{}")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(batches(), 1.5)
    # Pauses of 0, and up to 0.1, 0.2, 0.4 and 0.8 s: some twenty would fit without.
    assert 2 <= len((tmp_path / "echo/starts").read_text()) <= 8


async def test_a_worker_that_died_idle_is_replaced(make: Make) -> None:
    function = make(ECHO)
    first = await call(function)
    os.kill(first["pid"], signal.SIGKILL)
    while is_alive(first["pid"]):
        # Without the event loop, so that the invocation finds a worker whose end nobody has noticed.
        time.sleep(0.001)  # noqa: ASYNC251
    second = await call(function, data="x")
    assert second["echo"] == "x"
    assert second["pid"] != first["pid"]


async def test_a_cancelled_invocation_leaves_no_answer_for_the_next(make: Make) -> None:
    function = make(ECHO, concurrency=1)
    await call(function)
    running = asyncio.create_task(call(function, do="import time; time.sleep(0.3)", data="old"))
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.wait([running])
    assert (await call(function, data="new"))["echo"] == "new"


async def test_memory_is_limited_where_the_user_says_so(make: Make) -> None:
    greedy = "event['data'] = len(bytearray(400 * 2**20))"
    assert (await call(make(ECHO, "free"), do=greedy))["echo"] == 400 * 2**20
    with pytest.raises(FunctionOutOfMemory, match=r"Runtime\.OutOfMemory: \d+ MB used of 256 MB"):
        await call(make(ECHO, "limited", memory=256), do=greedy)


async def test_two_functions_do_not_influence_each_other(make: Make) -> None:
    bad, hanging = make("import os; os._exit(1)", "bad"), make(ECHO, "hanging", timeout=30.0)
    good = make(ECHO, "good")
    stuck = asyncio.create_task(call(hanging, do="import time; time.sleep(600)"))
    failing = asyncio.gather(*(bad.invoke(b"{}") for _ in range(4)), return_exceptions=True)
    assert [(await call(good, data=n))["echo"] for n in range(50)] == list(range(50))
    assert not stuck.done()
    stuck.cancel()
    assert {type(failure) for failure in await failing} == {FunctionInitFailed}


# No orphans


GATEWAY = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sluicegate.functions import Function
async def main():
    function = Function(Path(sys.argv[2]), "handler", name="orphan", concurrency=2)
    await function.warm_up()
    busy = asyncio.create_task(function.invoke(b"{}"))
    await asyncio.sleep(0.1)
    await function.warm_up()
    print(*function.pids, flush=True)
    await busy
asyncio.run(main())
"""


async def test_no_worker_survives_a_killed_gateway(tmp_path: Path) -> None:
    handler = tmp_path / "main.py"
    handler.write_text("import time\ndef handler(event, context):\n    time.sleep(600)\n")
    source = str(Path(sluicegate.__file__).parent.parent)
    command = [sys.executable, "-c", GATEWAY, source, str(handler)]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220 a fork is short
    assert gateway.stdout is not None
    try:
        pids = [int(pid) for pid in (await asyncio.to_thread(gateway.stdout.readline)).split()]
        # One busy, one idle.
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
    finally:
        gateway.kill()
        gateway.wait()
        gateway.stdout.close()
    await until(lambda: not any(is_alive(pid) for pid in pids))
