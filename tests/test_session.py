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
        assert await mailbox.claim(mailbox.generation) == (number, 1, {"uid": "a"})
        assert await mailbox.claim(mailbox.generation) == (number, 2, {"uid": "a"})  # the first worker died
        await mailbox.finish(number)
        waiting = asyncio.create_task(mailbox.claim(mailbox.generation))
        await settle()
        assert not waiting.done()
        again = await mailbox.put_trial({"uid": "b"})
        assert await waiting == (again, 1, {"uid": "b"})

    play(scene())


def test_a_report_waits_for_its_verdict_and_all_ranks_hear_the_same() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim(mailbox.generation)
        told = asyncio.create_task(mailbox.report(number, 1, 1, {"epoch": 1}, {"best": 0.5}))
        other = asyncio.create_task(mailbox.await_verdict(number, 1, 1))
        await settle()
        assert not told.done()
        assert await mailbox.next_message() == (number, 1, {"kind": "epoch", "report": {"epoch": 1}})
        await mailbox.verdict(number, 1, 1, go_on=True)
        assert await told == await other == (True, {"best": 0.5})

    play(scene())


def test_a_late_rank_hears_older_verdicts_and_the_next_trial_forgets_them() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim(mailbox.generation)
        for epoch in (1, 2, 3):
            told = asyncio.create_task(mailbox.report(number, 1, epoch, {}, {"epoch": epoch}))
            await settle()
            await mailbox.verdict(number, 1, epoch, go_on=True)
            await told
        assert await mailbox.await_verdict(number, 1, 1) == (True, {"epoch": 1})
        assert not mailbox.told
        await mailbox.put_trial({})
        assert not mailbox.verdicts

    play(scene())


def test_the_claim_of_a_dead_rank_0_is_not_served() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        _, old = await mailbox.join(0, "node", 1)
        zombie = asyncio.create_task(mailbox.claim(old))
        await settle()
        _, new = await mailbox.join(0, "node", 2)
        number = await mailbox.put_trial({"uid": "a"})
        assert await zombie is None
        assert await mailbox.claim(new) == (number, 1, {"uid": "a"})

    play(scene())


def test_worker_groups_that_take_no_trial_are_counted() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        for _ in range(3):
            _, generation = await mailbox.join(0, "node", 1)
        assert (await mailbox.silence())[2] == 3
        await mailbox.put_trial({})
        await mailbox.claim(generation)
        assert (await mailbox.silence())[2] == 0

    play(scene())


def test_a_dead_workers_late_words_are_ignored() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim(mailbox.generation)
        await mailbox.claim(mailbox.generation)
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
        await mailbox.claim(mailbox.generation)
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
            await mailbox.claim(mailbox.generation)
        waiting = asyncio.create_task(mailbox.claim(mailbox.generation))
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
        assert (await mailbox.join(1, "node", 1))[0] == 0
        following = asyncio.create_task(mailbox.follow(0))
        await settle()
        assert not following.done()
        number = await mailbox.put_trial({"uid": "a"})
        claimed = await mailbox.claim(mailbox.generation)
        assert await following == claimed
        seen, _ = await mailbox.join(1, "node", 2)  # after a restart: the old claim is not taken for a new one
        following = asyncio.create_task(mailbox.follow(seen))
        await settle()
        assert not following.done()
        assert await mailbox.claim(mailbox.generation) == await following == (number, 2, {"uid": "a"})

    play(scene())


def test_closing_sends_everybody_home() -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        leader, follower = (
            asyncio.create_task(mailbox.claim(mailbox.generation)),
            asyncio.create_task(mailbox.follow(0)),
        )
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
        assert (await mailbox.silence())[:2] == (50, session.START_SECONDS)
        for _ in range(5):
            now += 60  # one step a minute
            await mailbox.tick()
        assert (await mailbox.silence())[:2] == (0, 300)
        for _ in range(50):
            now += 1
            await mailbox.tick()
        assert (await mailbox.silence())[1] == session.PATIENCE_SECONDS
        assert await mailbox.condemned() == {0: ("node", 42)}
        assert (await mailbox.silence())[1] == session.START_SECONDS, "others will start"
        for _ in range(5):
            await mailbox.tick()
        await mailbox.put_trial({})
        assert (await mailbox.silence())[1] == session.START_SECONDS, "another trial has other pauses"
        await mailbox.finish(1)
        now += 10_000  # nothing to do is no hang
        assert (await mailbox.silence())[0] == 0

    asyncio.run(scene())


def test_a_worker_that_was_stopped_draws_until_it_asks_again_or_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        mailbox = _Mailbox()
        number = await mailbox.put_trial({})
        await mailbox.claim(mailbox.generation)
        told = asyncio.create_task(mailbox.report(number, 1, 1, {"epoch": 1}, {}))
        await settle()
        await mailbox.verdict(number, 1, 1, go_on=True)
        await told
        await mailbox.finish(number)
        assert not await mailbox.draws(), "it was taken away in the middle of an epoch, which may last for hours"

        number = await mailbox.put_trial({})
        await mailbox.claim(mailbox.generation)
        told = asyncio.create_task(mailbox.report(number, 1, 1, {"epoch": 1}, {}))
        await settle()
        await mailbox.verdict(number, 1, 1, go_on=False)
        await mailbox.finish(number)
        assert (await told)[0] is False
        assert await mailbox.draws()
        monkeypatch.setattr(session, "PATIENCE_SECONDS", 0.01)
        await asyncio.sleep(0.05)
        assert not await mailbox.draws()
        await mailbox.tick()
        assert await mailbox.draws()
        waiting = asyncio.create_task(mailbox.claim(mailbox.generation))
        await settle()
        assert not await mailbox.draws()
        await mailbox.close()
        assert await waiting is None

    play(scene())
