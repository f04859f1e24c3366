"""Entries of later (contract section 4.1), and messages that lie on the disk before they are answered."""

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import PROGRAM, TOPIC, Client, Gateway, records, run_program, source_of, until

from conftest import StartGateway
from sluicegate.config import load
from sluicegate.events import EventLog, MemorySink
from sluicegate.gateway import Gateway as InProcess
from waiting import until as until_async

ENTRIES = int(os.environ.get("SLUICEGATE_SCHEDULED_ENTRIES", "500"))
SECONDS = float(os.environ.get("SLUICEGATE_SCHEDULED_SECONDS", "4"))
"""10,000 over 60 s in the long form."""
KILLS = int(os.environ.get("SLUICEGATE_SCHEDULED_KILLS", "2"))
"""20 in the long form."""
LISTENER = """
listeners:
  - { name: decoder, bind: "127.0.0.1:0" }
"""


def source(more: str = "") -> str:
    return LISTENER + source_of("decoder") + more


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def entry(client: Client, text: str, seconds: float, **fields: Any) -> dict[str, Any]:
    return {"Data": data(text), "Remote": client.remote, "SendAt": time.time() + seconds, **fields}


def waiting(one: Gateway, **query: str) -> dict[str, Any]:
    answer: dict[str, Any] = one.api("GET", f"/v1/scheduled?{httpx.QueryParams(query)}").json()
    return answer


def command(one: Gateway, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_program([PROGRAM, "scheduled", *arguments, "--config", str(one.file)])


class Arrivals:
    """Who got what when, read all the while."""

    def __init__(self) -> None:
        self.client = Client()
        self.at: dict[str, list[float]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        self.client.socket.settimeout(None)
        while (text := self.client.socket.recv(2_048).decode()) != "end":
            self.at.setdefault(text, []).append(time.time())

    def __enter__(self) -> "Arrivals":
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.socket.sendto(b"end", self.client.address)
        self._reader.join()
        self.client.close()


def test_an_entry_is_sent_when_its_time_comes_and_not_before(gateway: StartGateway) -> None:
    one = gateway(source())
    with Arrivals() as arrivals:
        entries = [
            {"Data": data("now"), "Remote": arrivals.client.remote},
            entry(arrivals.client, "later", 1.5, Id="fw-1"),
            entry(arrivals.client, "past", -5),
            entry(arrivals.client, "far", 8 * 86_400),
        ]
        answer = one.post({"Messages": entries})
        assert (answer["Entries"], answer["Sent"], answer["Scheduled"]) == (4, 2, 1)
        assert [(failure["Index"], failure["Reason"]) for failure in answer["Failures"]] == [
            (3, "MalformedMessage")
        ]
        (item,) = waiting(one)["Items"]
        assert (item["PacketSource"], item["Index"], item["Id"]) == ("replies", 1, "fw-1")
        assert item["Remote"] == arrivals.client.remote
        assert one.post(entries[1])["Duplicates"] == 1
        until(lambda: "later" in arrivals.at, "it is sent")
        assert arrivals.at["later"][0] >= entries[1]["SendAt"]
        until(lambda: not waiting(one)["Items"], "it waits no more")
        assert one.post(entries[1])["Duplicates"] == 1
        metrics = one.metrics()
        assert metrics.value("source_entries") == 6
        assert metrics.value("source_sent_packets") == 3
        assert metrics.value("source_scheduled_entries") == 1


def test_a_message_and_remotes_may_be_of_later(gateway: StartGateway) -> None:
    one = gateway(source("    dead_letter_queue_arn: file:dead.ndjson\n"))
    with Arrivals() as arrivals:
        at = time.time() + 1
        rfc = datetime.fromtimestamp(at, UTC).isoformat()
        remotes = [arrivals.client.remote, None, {"IP": "10.0.0.1", "Port": 9}]
        body = {"Messages": [{"Data": data("x")}, {"Data": data("many"), "Remotes": remotes}], "SendAt": rfc}
        answer = one.post(body)
        assert answer["Scheduled"] == 2
        until(lambda: "many" in arrivals.at, "it is sent")
        failed = one.wait_for("SourceFailed", 3)
        assert [(event["Index"], event.get("RemoteIndex"), event["Reason"]) for event in failed] == [
            (0, None, "MalformedRemote"),
            (1, 1, "MalformedRemote"),
            (1, 2, "RemoteDenied"),
        ]
        assert failed[2]["Remote"] == remotes[2]
        assert failed[2]["MessageId"] == answer["MessageId"]
        until(lambda: len(records(one.directory / "dead.ndjson")) == 3, "each has a letter")
        letter = records(one.directory / "dead.ndjson")[2]
        assert (letter["Index"], letter["RemoteIndexes"]) == (1, [2])
        assert letter["Entry"]["Remotes"] == [remotes[2]]


def test_what_is_cancelled_is_an_event_and_no_letter(gateway: StartGateway) -> None:
    one = gateway(source("    dead_letter_queue_arn: file:dead.ndjson\n"))
    with Client() as client:
        first = one.post({"Messages": [entry(client, str(n), 600, Id=str(n)) for n in range(3)]})
        second = one.post({"Messages": [entry(client, str(n), 600) for n in range(3, 5)]})
        listed = command(one, "list", "--output", "json")
        items = json.loads(listed.stdout)["Items"]
        assert [item["MessageId"] for item in items] == [first["MessageId"]] * 3 + [second["MessageId"]] * 2
        assert "replies" in command(one, "list", "--limit", "2").stdout
        done = command(one, "cancel", items[1]["ScheduledId"])
        assert (done.returncode, done.stdout) == (0, "cancelled 1\n"), done
        (event,) = one.wait_for("SourceFailed", 1)
        assert (event["Index"], event["Id"], event["Reason"]) == (1, "1", "Cancelled")
        again = command(one, "cancel", items[1]["ScheduledId"])
        assert again.returncode == 1
        assert "no entry waits" in again.stderr
        assert command(one, "cancel", "--message", second["MessageId"]).stdout == "cancelled 2\n"
        one.wait_for("SourceFailed", 3)
        assert waiting(one)["Waiting"] == 2
        assert one.metrics().by("reason", "source_failed_entries") == {"Cancelled": 3}
        assert one.post(entry(client, "1", 600, Id="1"))["Scheduled"] == 1, "it may come again"
        assert one.post(entry(client, "0", 600, Id="0"))["Duplicates"] == 1
        assert (one.directory / "dead.ndjson").read_bytes() == b""
        assert client.waiting() == []


def test_scheduled_entries_survive_a_crash_and_none_is_early(gateway: StartGateway) -> None:
    one = gateway(source())
    count = ENTRIES
    with Arrivals() as arrivals:
        start = time.time() + 1
        due = {f"e{n}": start + SECONDS * n / count for n in range(count)}
        names = list(due)
        for at in range(0, count, 100):
            messages = [
                {"Data": data(name), "Remote": arrivals.client.remote, "SendAt": due[name], "Id": name}
                for name in names[at : at + 100]
            ]
            one.publish({"Messages": messages})
        cancelled = set(names[-50:])
        until(lambda: waiting(one)["Waiting"] + len(arrivals.at) >= count - 20, "all are scheduled")
        items: list[dict[str, Any]] = []
        token = "0"
        while token is not None:
            page = waiting(one, Limit="1000", NextToken=token)
            items, token = items + page["Items"], page["NextToken"]
        for item in items:
            if item["Id"] in cancelled:
                assert one.api("DELETE", f"/v1/scheduled/{item['ScheduledId']}").status_code == 204
        one.wait_for("SourceFailed", len(cancelled), Reason="Cancelled")
        until(lambda: len(arrivals.at) > count // 3, "a third of them is sent")
        one.kill()
        one.start()
        until(lambda: arrivals.at.keys() == due.keys() - cancelled, "none is lost")
        until(lambda: waiting(one)["Waiting"] == 0, "none waits any more")
        early = [name for name, times in arrivals.at.items() if min(times) < due[name] - 0.001]
        assert not early
        twice = [name for name, times in arrivals.at.items() if len(times) > 1]
        assert len(twice) <= count // 20, "only those of the last turn"
        print(f"{len(arrivals.at)} of {count} sent, {len(cancelled)} cancelled, {len(twice)} twice")


def test_what_is_overdue_is_sent_at_the_start_at_its_pace(gateway: StartGateway) -> None:
    pace = "    rate_limit: { packets_per_second: 50, burst: 1 }\n    hold_seconds: 1\n"
    one = gateway(source(pace))
    with Arrivals() as arrivals:
        entries = [entry(arrivals.client, f"e{n}", 2.0) for n in range(75)]
        assert one.post({"Messages": entries})["Scheduled"] == 75
        one.stop()
        # Its time passes while nothing runs.
        until(lambda: time.time() > entries[-1]["SendAt"], "its time has passed")
        one.start()
        until(lambda: len(arrivals.at) == 75, "all are sent")
        times = sorted(each[0] for each in arrivals.at.values())
        assert times[-1] - times[0] > 1.2, "longer than hold_seconds"
        assert not one.named("SourceFailed")


async def test_a_stop_leaves_what_it_has_no_time_for_to_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    pace = "    rate_limit: { packets_per_second: PACE, burst: 1 }\n    dead_letter_queue_arn: file:dead.ndjson\n"
    text = (
        "api: { bind: 127.0.0.1:0 }\nsns: { bind: 127.0.0.1:0, durable: true }\nstate: ./state.db\n"
        + source(pace)
    )

    async def start(pace: str) -> InProcess:
        file.write_text(text.replace("PACE", pace))
        running = InProcess(load(file), EventLog(MemorySink()))
        await running.start()
        return running

    with Arrivals() as arrivals:
        running = await start("2")
        try:
            entries = [entry(arrivals.client, f"due{n}", 1.0) for n in range(20)]
            durable = [{"Data": data(f"kept{n}"), "Remote": arrivals.client.remote} for n in range(20)]
            async with httpx.AsyncClient(trust_env=False) as http:
                assert running.api is not None
                assert running.sns is not None
                url = f"{running.api.url}/v1/packet-sources/replies/messages"
                assert (await http.post(url, json={"Messages": entries})).json()["Scheduled"] == 20
                for one in durable:
                    form = {"Action": "Publish", "TopicArn": TOPIC, "Message": json.dumps(one)}
                    assert (await http.post(running.sns.url, data=form)).status_code == 200
            await until_async(
                lambda: any(name.startswith("due") for name in arrivals.at) or len(arrivals.at) > 1
            )
        finally:
            await running.stop(0.0)
        assert len(arrivals.at) < 20
        running = await start("100000")
        try:
            await until_async(lambda: len(arrivals.at) == 40)
        finally:
            await running.stop(0.0)
        assert {len(times) for times in arrivals.at.values()} == {1}, "none left twice"
    assert (tmp_path / "dead.ndjson").read_bytes() == b""


def crashing(one: Gateway, arrivals: Arrivals, kills: int, *, later: bool) -> Sequence[str]:
    """Publish under load while the gateway is killed so often; the entries of which a publish was answered."""
    acknowledged: list[str] = []
    ending = threading.Event()

    def load(publisher: int) -> None:
        number = 0
        while not ending.is_set():
            name = f"{publisher}-{number}"
            number += 1
            body = {"Data": data(name), "Remote": arrivals.client.remote, "Id": name}
            if later:
                body["SendAt"] = time.time() + 0.5
            try:
                one.publish(body)
            except Exception:  # it was not answered
                time.sleep(0.01)
                continue
            acknowledged.append(name)

    with ThreadPoolExecutor(4) as publishers:
        loads = [publishers.submit(load, number) for number in range(4)]
        try:
            for _ in range(kills):
                before = len(acknowledged)
                until(lambda before=before: len(acknowledged) > before + 50, "some are answered")
                one.kill()
                one.start()
        finally:
            ending.set()
        for each in loads:
            each.result()
    return acknowledged


@pytest.mark.parametrize("later", [False, True])
def test_a_durable_endpoint_loses_nothing_that_it_has_acknowledged(
    gateway: StartGateway, later: bool
) -> None:
    one = gateway(source())
    if not later:
        text = one.file.read_text()
        assert "sns:" in text
        one.kill()
        one.edit("sns: {", "sns: { durable: true,")
        one.start()
    with Arrivals() as arrivals:
        acknowledged = crashing(one, arrivals, KILLS, later=later)
        assert len(acknowledged) > 50 * KILLS
        print(f"{len(acknowledged)} publishes acknowledged, {KILLS} kills")
        until(lambda: not set(acknowledged) - arrivals.at.keys(), "none is lost")
