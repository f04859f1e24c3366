"""What a home region knows of the others, and when it asks again (contract section 4.2)."""

import asyncio

import pytest

from sluicegate.aws import AwsError
from sluicegate.sources.topic.regions import SERVED_SECONDS, UNSERVED_SECONDS, Regions, Verdict


class Known:
    def __init__(self, *served: str) -> None:
        self.served = frozenset(served)
        self.asked = 0
        self.now = 1000.0
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.added: list[str] = []
        self.regions = Regions(
            "us-east-1", at_home=True, refresh=self.refresh, added=self.added.append, clock=lambda: self.now
        )

    async def refresh(self) -> frozenset[str]:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            raise AwsError("sns", "ListSubscriptionsByTopic", "NoAnswer", "no")
        return self.served


@pytest.mark.parametrize(
    ("wanted", "verdict"),
    [
        (None, Verdict.SEND),
        ("us-east-1", Verdict.SEND),
        ('["eu-west-1","us-east-1"]', Verdict.SEND),
        ("eu-west-1", None),
        (b"us-east-1", None),
        ("", None),
    ],
)
def test_what_needs_no_question(wanted: str | bytes | None, verdict: Verdict | None) -> None:
    assert Known().regions.judge_at_once(wanted) is verdict


async def test_a_served_region_is_skipped_and_asked_for_once_a_minute() -> None:
    known = Known("us-east-1", "eu-west-1")
    for _ in range(10):
        assert await known.regions.judge("eu-west-1") is Verdict.SKIP
    assert known.asked == 1
    known.now += SERVED_SECONDS
    known.fails = True
    assert await known.regions.judge("eu-west-1") is Verdict.SKIP  # it does not go away with the list


@pytest.mark.parametrize("wanted", ["eu-wset-1", '["eu-west-1","eu-wset-1"]', "[]", b"eu-west-1", ""])
async def test_whatever_names_a_region_without_a_gateway_is_refused(wanted: str | bytes) -> None:
    verdict = await Known("us-east-1", "eu-west-1").regions.judge(wanted)
    assert isinstance(verdict, tuple)
    assert verdict[0] == "WrongRegion"


async def test_a_region_is_not_refused_by_an_old_list() -> None:
    known = Known("us-east-1")
    known.regions.update(known.served)
    known.served |= {"eu-west-1"}
    known.now += UNSERVED_SECONDS
    assert await known.regions.judge("eu-west-1") is Verdict.SKIP
    assert known.added == ["eu-west-1"]


async def test_an_unknown_region_is_an_error_while_nobody_can_be_asked() -> None:
    known = Known()
    known.fails = True
    with pytest.raises(AwsError):
        await known.regions.judge("eu-west-1")


async def test_while_nobody_can_be_asked_one_asks_for_all_and_not_all_the_time() -> None:
    known = Known()
    known.fails = True
    known.answers.clear()
    waiting = [asyncio.create_task(known.regions.judge("eu-west-1")) for _ in range(10)]
    await asyncio.sleep(0)
    known.answers.set()
    for failed in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(failed, AwsError)
    assert known.asked == 1
    known.now += UNSERVED_SECONDS
    known.fails = False
    known.served = frozenset({"eu-west-1"})
    assert await known.regions.judge("eu-west-1") is Verdict.SKIP
    assert known.asked == 2


async def test_messages_for_a_region_that_was_served_do_not_wait_for_those_for_an_unknown_one() -> None:
    known = Known("us-east-1", "eu-west-1")
    assert await known.regions.judge("eu-west-1") is Verdict.SKIP
    known.now += SERVED_SECONDS
    known.fails = True
    with pytest.raises(AwsError):
        await known.regions.judge("ap-south-1")
    known.now += UNSERVED_SECONDS
    known.answers.clear()
    unknown = asyncio.create_task(known.regions.judge("ap-south-1"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await known.regions.judge("eu-west-1") is Verdict.SKIP
    known.answers.set()
    with pytest.raises(AwsError):
        await unknown


def test_what_is_new_is_told_but_not_at_the_first_list() -> None:
    known = Known()
    known.regions.update(frozenset({"us-east-1", "eu-west-1"}))
    assert known.added == []
    known.regions.update(frozenset({"us-east-1", "eu-west-1", "ap-south-1"}))
    assert known.added == ["ap-south-1"]
