"""A Ray Train session in each slot: workers that stay up and train one trial after another.

Starting processes, a placement group and a process group costs 20 to 30 s; a session pays that once. Between a slot's
Tune actor and its workers stands a mailbox. It hands a trial out until the trial is finished, so that workers which
replace dead ones take up the same trial from its last committed checkpoint; what late messages of dead workers say is
ignored, because every message carries (number of the trial in this slot, attempt, epoch).

Long, because mailbox, slot and worker are one protocol: none of them can be read without the others.
"""

import asyncio
import contextlib
import gc
import json
import os
import signal
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import tune
from ray.exceptions import RayError

from vltune.checkpoints import Corrupt
from vltune.cluster import sees
from vltune.contract import EpochReport, Family
from vltune.devices import leaves_process_sound
from vltune.errors import BadInput, TrainingFailure
from vltune.runtime import RESIDENTS, Progress
from vltune.train import Trial, fit

MAX_ATTEMPTS = 3
"""A trial whose workers died so often is failed: it is the trial that kills them."""

PATIENCE_SECONDS = float(os.environ.get("VLTUNE_PATIENCE_SECONDS", "120"))
"""A worker that has been silent for so long, and for five times its usual pause, is replaced."""

START_SECONDS = 5 * PATIENCE_SECONDS
"""The same before anything usual is known: start-up, and the first steps."""

ALIVE_SECONDS = 3600.0
"""What cannot tick itself, such as decoding a data set for the first time, may take so long."""

WAIT_SECONDS = 1.0
"""After so long, a slot that waits for other trials' ends asks again whether there is one for it."""

IDLE_STARTS = 5
"""Worker groups that may start and end without taking a trial, one after the other, before their slot gives up."""


@dataclass(frozen=True)
class SessionOptions:
    """What all trials of a slot share."""

    family: type[Family]
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads: int
    mark: str
    """A file in the storage: a node that does not see it has another disk there."""
    cache: str
    scratch: str
    """Folder for what Ray writes itself."""


class _Mailbox:
    """Between a slot's Tune actor and its Train workers."""

    def __init__(self) -> None:
        self.number, self.attempt, self.trial, self.finished, self.closed = -1, 0, {}, True, False
        self.claims: list[tuple[int, int, dict[str, Any]]] = []
        self.verdicts: dict[tuple[int, int, int], tuple[bool, dict[str, Any]]] = {}
        self.messages: asyncio.Queue[tuple[int, int, dict[str, Any]]] = asyncio.Queue()
        self.changed = asyncio.Condition()
        self.told: dict[tuple[int, int, int], dict[str, Any]] = {}
        self.pids: dict[int, tuple[str, int]] = {}
        self.heard, self.pauses = time.monotonic(), deque(maxlen=101)
        self.generation, self.idle_starts = 0, 0
        self.stopped = False

    async def put_trial(self, trial: dict[str, Any]) -> int:
        """Hands out a trial; returns its number in this slot."""
        async with self.changed:
            self.number, self.attempt, self.trial, self.finished = self.number + 1, 0, trial, False
            self._forget()
            self.changed.notify_all()
            return self.number

    async def finish(self, number: int) -> None:
        """Takes a trial back: whoever waits for a verdict on it hears stop."""
        async with self.changed:
            if number == self.number:
                self.finished = True
            self.changed.notify_all()

    async def close(self) -> None:
        """Sends the workers home."""
        async with self.changed:
            self.closed = self.finished = True
            self.changed.notify_all()

    async def join(self, rank: int, node: str, pid: int) -> tuple[int, int]:
        """A worker says who it is; returns how many claims there were, and the number of its worker group."""
        async with self.changed:
            if rank == 0:  # whatever rank 0 was before is dead, though its claim may still wait here
                self.generation += 1
                self.idle_starts += 1
                self.changed.notify_all()
            self.pids[rank] = (node, pid)
            self._forget()
            return len(self.claims), self.generation

    async def claim(self, generation: int) -> tuple[int, int, dict[str, Any]] | None:
        """Rank 0 takes the trial that is not finished, waiting for one if need be; None sends it home."""

        def over() -> bool:
            return self.closed or generation != self.generation

        self.stopped = False
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: over() or not self.finished)
                if over():
                    return None
                self.attempt += 1
                self.idle_starts = 0
                self._forget()
                if self.attempt <= MAX_ATTEMPTS:
                    if self.attempt > 1:
                        self.messages.put_nowait((self.number, self.attempt, {"kind": "restarted"}))
                    self.claims.append((self.number, self.attempt, self.trial))
                    self.changed.notify_all()
                    return self.claims[-1]
                self.finished = True
                error = f"its workers died {MAX_ATTEMPTS} times; their last words are in Ray's log files"
                self.messages.put_nowait((self.number, self.attempt, {"kind": "failed", "error": error}))

    def _forget(self) -> None:
        """Another trial or other workers: what was usual before says nothing now."""
        self.verdicts.clear()
        self.told.clear()
        self.pauses.clear()
        self.heard = time.monotonic()

    async def follow(self, seen: int) -> tuple[int, int, dict[str, Any]] | None:
        """The other ranks take what rank 0 took, claim by claim."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or len(self.claims) > seen)
            return self.claims[seen] if len(self.claims) > seen else None

    async def report(
        self, number: int, attempt: int, epoch: int, report: dict[str, Any], progress: dict[str, Any]
    ) -> tuple[bool, dict[str, Any]]:
        """Rank 0 tells an epoch and waits for the verdict."""
        if self._current(number, attempt):
            self.heard = time.monotonic()
            self.told[number, attempt, epoch] = progress
            self.messages.put_nowait((number, attempt, {"kind": "epoch", "report": report}))
        return await self.await_verdict(number, attempt, epoch)

    async def await_verdict(self, number: int, attempt: int, epoch: int) -> tuple[bool, dict[str, Any]]:
        """Every rank hears the same verdict on an epoch; that of a trial which is over is to stop."""
        key = (number, attempt, epoch)
        async with self.changed:
            await self.changed.wait_for(lambda: key in self.verdicts or not self._current(number, attempt))
            self.heard = time.monotonic()
            return self.verdicts.get(key, (False, {}))

    async def verdict(self, number: int, attempt: int, epoch: int, *, go_on: bool) -> None:
        """The slot says whether the trial goes on after an epoch."""
        async with self.changed:
            if self._current(number, attempt):
                key = (number, attempt, epoch)
                self.verdicts[key] = (go_on, self.told.pop(key, {}))  # a late rank may still ask for an older one
                self.stopped = not go_on
            self.changed.notify_all()

    async def fail(self, number: int, attempt: int, error: str) -> None:
        """A worker says that the trial cannot go on."""
        if self._current(number, attempt):
            self.messages.put_nowait((number, attempt, {"kind": "failed", "error": error}))
            await self.finish(number)

    async def tick(self) -> None:
        """A worker is alive."""
        now = time.monotonic()
        self.pauses.append(now - self.heard)
        self.heard = now

    async def next_message(self) -> tuple[int, int, dict[str, Any]]:
        """What the slot hears next."""
        return await self.messages.get()

    async def silence(self) -> tuple[float, float, int]:
        """Seconds since something was heard, how many are too many, and how often workers started for nothing."""
        usual = statistics.median(self.pauses) if len(self.pauses) > 2 else None
        limit = START_SECONDS if usual is None else max(PATIENCE_SECONDS, 5 * usual)
        return 0.0 if self.finished else time.monotonic() - self.heard, limit, self.idle_starts

    async def draws(self) -> bool:
        """Whether a worker that was stopped after an epoch is alive and still at the figures of its trial."""
        return self.stopped and time.monotonic() - self.heard < PATIENCE_SECONDS

    async def condemned(self) -> dict[int, tuple[str, int]]:
        """Node and process of each worker, which are to be killed; others will join."""
        self._forget()
        return dict(self.pids)

    def _current(self, number: int, attempt: int) -> bool:
        return (number, attempt) == (self.number, self.attempt) and not self.finished


Mailbox = ray.remote(num_cpus=0)(_Mailbox)


class _WorkerRuntime:
    """The runtime of one trial in one Train worker."""

    def __init__(self, mailbox: Any, number: int, attempt: int, *, rank: int, world_size: int, options: SessionOptions):
        from ray.train.torch import get_device

        self.mailbox, self.number, self.attempt = mailbox, number, attempt
        self.rank, self.world_size, self.threads, self.cache = rank, world_size, options.threads, options.cache
        device = get_device()
        self.device = device[0] if isinstance(device, list) else device
        self._ticked = 0.0

    def resident(self, key: str, build: Callable[[], Any]) -> Any:
        """What this process keeps between trials."""
        return RESIDENTS(key, build)

    def tick(self) -> None:
        """Says once a second that the worker is alive."""
        if time.monotonic() - self._ticked >= 1.0:
            self._ticked = time.monotonic()
            self.mailbox.tick.remote()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """A thread says that the worker is alive while something runs that cannot say so itself."""
        done = threading.Event()

        def tick() -> None:
            end = time.monotonic() + ALIVE_SECONDS
            while not done.wait(5) and time.monotonic() < end:
                self.mailbox.tick.remote()

        threading.Thread(target=tick, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress | None]:
        """Waits on the mailbox, not in a collective, which would time out under a slow driver."""
        if self.rank == 0 and told is not None:
            report, progress = told
            answer = self.mailbox.report.remote(self.number, self.attempt, epoch, asdict(report), asdict(progress))
        else:
            answer = self.mailbox.await_verdict.remote(self.number, self.attempt, epoch)
        go_on, shared = ray.get(answer)
        return go_on, Progress(**shared) if shared else None


def train_trials(config: dict[str, Any]) -> None:
    """What every Train worker runs: trial after trial, until the mailbox is closed."""
    from ray import train

    mailbox, options = config["mailbox"], config["options"]
    context = train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    joined = ray.get(mailbox.join.remote(rank, ray.get_runtime_context().get_node_id(), os.getpid()))
    if world_size > 1:
        everybody: list[Any] = [joined]
        dist.broadcast_object_list(everybody, src=0)
        joined = everybody[0]
    seen, generation = joined
    while True:
        claimed = ray.get(mailbox.claim.remote(generation) if rank == 0 else mailbox.follow.remote(seen))
        if claimed is None:
            return
        seen += 1
        number, attempt, trial = claimed
        runtime = _WorkerRuntime(mailbox, number, attempt, rank=rank, world_size=world_size, options=options)
        _train_one(trial, runtime, options)


def _train_one(trial: dict[str, Any], runtime: _WorkerRuntime, options: SessionOptions) -> None:
    try:
        sees(options.mark)
        assignment = Trial(
            uid=trial["uid"],
            family=options.family,
            config=options.family.Config.from_fields(trial["config"]),
            folder=Path(trial["folder"]),
            record=trial["record"],
            known_epoch=trial["known_epoch"],
        )
        fit(assignment, runtime)
    except Exception as error:
        text = failure_text(error, Path(trial["folder"]))
        ray.get(runtime.mailbox.fail.remote(runtime.number, runtime.attempt, text))
        if runtime.world_size > 1 or not leaves_process_sound(error):
            raise  # Train replaces the workers; the trial itself is over
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def failure_text(error: Exception, folder: Path) -> str:
    """Why a trial failed, in one line; the traceback goes into a file beside it unless the text says all."""
    text = " ".join(str(error).split())[:400]
    if isinstance(error, BadInput | TrainingFailure):
        return text
    if isinstance(error, torch.OutOfMemoryError):
        return f"the device's memory is full: take a smaller batch_size or micro_batch_size ({text[:120]})"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "error.txt"
    path.write_text("".join(traceback.format_exception(error)))
    kind = "the checkpoint is broken" if isinstance(error, Corrupt) else type(error).__name__
    return f"{kind}: {text} (traceback in {path})"


class Slot(tune.Trainable):
    """One of the places in which trials run at the same time; its actor is reused from trial to trial."""

    def setup(self, config: dict[str, Any], options: SessionOptions | None = None) -> None:
        """Starts the session and hands it the first trial."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        assert options is not None, "tune.with_parameters gives the options"
        self.mailbox, self.failure, self.number = Mailbox.remote(), None, -1
        self.awaiting: tuple[int, int, int] | None = None
        self.kills = 0
        resources = {"CPU": options.cpus_per_worker}
        if options.gpus_per_worker:
            resources["GPU"] = options.gpus_per_worker
        trainer = TorchTrainer(
            train_trials,
            train_loop_config={"mailbox": self.mailbox, "options": options},
            scaling_config=ScalingConfig(
                num_workers=options.workers, use_gpu=options.gpus_per_worker > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=f"session-{self.trial_id}",
                storage_path=options.scratch,
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        self.thread = threading.Thread(target=self._run, args=(trainer,), daemon=True)
        self.thread.start()
        self._hand_out(config)

    def _hand_out(self, config: dict[str, Any]) -> None:
        """Gives the workers a trial; one without a uid stands for waiting, and the workers hear nothing of it."""
        self.waits = not config["uid"]
        if not self.waits:
            self.number = ray.get(self.mailbox.put_trial.remote(config))

    def _run(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 (handed on by step)
            self.failure = error

    def step(self) -> dict[str, Any]:
        """Waits for the next thing that happens to the trial."""
        if self.waits:
            time.sleep(WAIT_SECONDS)
            self._watch()
            return {"message": json.dumps({"kind": "waiting"}), "done": False}
        self._settle(go_on=True)
        pending = self.mailbox.next_message.remote()
        while True:
            ready, _ = ray.wait([pending], timeout=2)
            if not ready:
                self._watch()
                continue
            number, attempt, message = ray.get(pending)
            if number == self.number:
                break
            pending = self.mailbox.next_message.remote()  # of a trial that is over
        self.kills = 0
        if message["kind"] == "epoch":
            self.awaiting = (number, attempt, message["report"]["epoch"])
        last = message["kind"] == "failed" or (message["kind"] == "epoch" and message["report"]["last"])
        return {"message": json.dumps(message), "done": last}

    def _watch(self) -> None:
        if not self.thread.is_alive():
            raise RuntimeError("the session of this slot ended") from self.failure
        quiet, limit, idle_starts = ray.get(self.mailbox.silence.remote())
        if idle_starts > IDLE_STARTS or self.kills > MAX_ATTEMPTS:
            raise RuntimeError("the workers of this slot end before they take a trial; see Ray's log files")
        if quiet > limit:
            self.kills += 1
            condemned: dict[int, tuple[str, int]] = ray.get(self.mailbox.condemned.remote())  # pyright: ignore
            for node, pid in condemned.values():
                with contextlib.suppress(RayError):  # its node may be gone too
                    ray.get(_kill.options(scheduling_strategy=_on(node)).remote(pid), timeout=30)

    def _settle(self, *, go_on: bool) -> None:
        if self.awaiting is not None:
            ray.get(self.mailbox.verdict.remote(*self.awaiting, go_on=go_on))
            self.awaiting = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ends the trial and hands out the next one."""
        self._settle(go_on=False)
        ray.get(self.mailbox.finish.remote(self.number))
        self._hand_out(new_config)
        return True

    def cleanup(self) -> None:
        """Ends the session."""
        self._settle(go_on=False)
        ray.get(self.mailbox.close.remote())
        self.thread.join(20)
        while self.thread.is_alive() and ray.get(self.mailbox.draws.remote()):
            self.thread.join(1)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps no checkpoints: trials commit their own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Tune keeps no checkpoints: trials commit their own."""


@ray.remote(num_cpus=0)
def _kill(pid: int) -> None:
    """Ends a worker that hangs; Train notices and starts new ones."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
