"""The mailbox between a slot and its workers: who hears what, and what late messages of dead workers cannot do."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from vltune import session
from vltune.session import MAX_ATTEMPTS, _Mailbox


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_trial_is_handed_out_until_it_is_finished() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({"uid": "a"})
        assert await mailbox.claim() == (number, 1, {"uid": "a"})
        assert await mailbox.claim() == (number, 2, {"uid": "a"})  # the first worker died
        await mailbox.finish(number)
        waiting = asyncio.create_task(mailbox.claim())
        await settle()
        assert not waiting.done()
        again = await mailbox.put_trial({"uid": "b"})
        assert await waiting == (again, 1, {"uid": "b"})

    play(scene())


def test_a_report_waits_for_its_verdict_and_all_ranks_hear_the_same() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim()
        told = asyncio.create_task(mailbox.report(number, 1, 1, {"epoch": 1}, {"best": 0.5}))
        other = asyncio.create_task(mailbox.await_verdict(number, 1, 1))
        await settle()
        assert not told.done()
        assert await mailbox.next_message() == (number, 1, {"kind": "epoch", "report": {"epoch": 1}})
        await mailbox.verdict(number, 1, 1, go_on=True)
        assert await told == await other == (True, {"best": 0.5})

    play(scene())


def test_verdicts_do_not_pile_up() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim()
        for epoch in range(1, 50):
            told = asyncio.create_task(mailbox.report(number, 1, epoch, {}, {}))
            await settle()
            await mailbox.verdict(number, 1, epoch, go_on=True)
            await told
        assert len(mailbox.verdicts) == 1
        assert not mailbox.told

    play(scene())


def test_a_dead_workers_late_words_are_ignored() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim()
        await mailbox.claim()
        assert await mailbox.next_message() == (number, 2, {"kind": "restarted"})
        assert await mailbox.report(number, 1, 1, {"epoch": 1}, {}) == (False, {})
        await mailbox.fail(number, 1, "from the grave")
        assert mailbox.messages.empty()
        assert not mailbox.finished

    play(scene())


def test_a_trial_that_is_taken_back_hears_stop() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim()
        told = asyncio.create_task(mailbox.report(number, 1, 1, {}, {}))
        await settle()
        await mailbox.finish(number)
        assert await told == (False, {})
        assert await mailbox.report(number, 1, 2, {}, {}) == (False, {})

    play(scene())


def test_a_trial_that_kills_its_workers_fails_and_the_next_is_taken() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        first = await mailbox.put_trial({"uid": "killer"})
        for _ in range(MAX_ATTEMPTS):
            await mailbox.claim()
        waiting = asyncio.create_task(mailbox.claim())
        await settle()
        kinds = [mailbox.messages.get_nowait()[2]["kind"] for _ in range(mailbox.messages.qsize())]
        assert kinds == ["restarted"] * (MAX_ATTEMPTS - 1) + ["failed"]
        assert mailbox.number == first
        await mailbox.put_trial({"uid": "next"})
        assert (await waiting)[2] == {"uid": "next"}

    play(scene())


def test_the_other_ranks_follow_the_claims_by_number() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        assert await mailbox.join(1, "node", 1) == 0
        following = asyncio.create_task(mailbox.follow(0))
        await settle()
        assert not following.done()
        number = await mailbox.put_trial({"uid": "a"})
        claimed = await mailbox.claim()
        assert await following == claimed
        seen = await mailbox.join(1, "node", 2)  # after a restart: the old claim is not taken for a new one
        following = asyncio.create_task(mailbox.follow(seen))
        await settle()
        assert not following.done()
        assert await mailbox.claim() == await following == (number, 2, {"uid": "a"})

    play(scene())


def test_closing_sends_everybody_home() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        leader, follower = asyncio.create_task(mailbox.claim()), asyncio.create_task(mailbox.follow(0))
        await settle()
        await mailbox.close()
        assert (await leader, await follower) == (None, None)

    play(scene())


def test_silence_is_judged_by_the_usual_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(session.time, "monotonic", lambda: now)

    async def scene() -> None:
        nonlocal now
        mailbox = _Mailbox()
        await mailbox.join(0, "node", 42)
        await mailbox.put_trial({})
        now += 50
        quiet, limit, workers = await mailbox.silence()
        assert (quiet, limit, workers) == (50, session.START_SECONDS, {0: ("node", 42)})
        for _ in range(5):
            now += 60  # one step a minute
            await mailbox.tick()
        quiet, limit, _ = await mailbox.silence()
        assert (quiet, limit) == (0, 300)
        for _ in range(50):
            now += 1
            await mailbox.tick()
        assert (await mailbox.silence())[1] == session.PATIENCE_SECONDS
        await mailbox.finish(0)
        now += 10_000  # nothing to do is no hang
        assert (await mailbox.silence())[0] == 0

    asyncio.run(scene())
