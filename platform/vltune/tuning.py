"""The driver as Ray Tune wants it: a searcher that is asked for trials, and a scheduler that hears what they say."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from vltune.cluster import SLOT_CPUS, Shares
from vltune.contract import Family
from vltune.session import SessionOptions, Slot


class Conductor(Protocol):
    """Who decides: the driver of a search."""

    def waits(self) -> bool:
        """Whether a free slot has nothing to train until a trial that runs now has ended."""
        ...

    def next_trial(self) -> dict[str, Any] | None:
        """What a free slot that need not wait trains next; None ends the search."""
        ...

    def hear(self, uid: str, message: dict[str, Any]) -> bool:
        """Takes in what a trial says; returns whether it goes on."""
        ...

    def lost(self, uid: str) -> None:
        """A trial's slot died for good."""
        ...


_WAITING = {"uid": ""}
"""What a slot gets instead of a trial while it has to wait."""


class _Bound:
    """Holds the conductor, which stays in this process: what Tune pickles and copies, it never reads."""

    conductor: Conductor

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Bound":
        return self


class _Asks(_Bound, Searcher):
    def __init__(self, conductor: Conductor, *, isolate: bool) -> None:
        Searcher.__init__(self)  # no metric: messages are not all results
        self.conductor, self.isolate = conductor, isolate
        self.uids: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.conductor.waits():
            # To None, Tune would ask again soon, but keep one idle actor alone and end the sessions of all others. A
            # trial that only waits keeps its actor, which is worth nothing where each trial gets a new one.
            return None if self.isolate else dict(_WAITING)
        trial = self.conductor.next_trial()
        if trial is None:
            return Searcher.FINISHED
        self.uids[trial_id] = trial["uid"]
        return trial

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 (Tune's)
        if error and trial_id in self.uids:
            self.conductor.lost(self.uids[trial_id])

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Hears(_Bound, TrialScheduler):
    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002 (Tune's)
        if trial.config == _WAITING:
            return TrialScheduler.CONTINUE if self.conductor.waits() else TrialScheduler.STOP
        goes_on = self.conductor.hear(trial.config["uid"], json.loads(result["message"]))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:  # noqa: ARG002 (Tune's)
        if trial.config != _WAITING:
            self.conductor.hear(trial.config["uid"], json.loads(result["message"]))

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None: ...

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None: ...

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None: ...

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        waiting = [t for t in tune_controller.get_trials() if t.status in (Trial.PENDING, Trial.PAUSED)]
        return min(waiting, key=lambda t: t.status != Trial.PENDING, default=None)

    def debug_string(self) -> str:
        return "what the study's pruner says"


def run_trials(
    conductor: Conductor, *, family: type[Family], shares: Shares, mark: Path, cache: Path, scratch: Path, isolate: bool
) -> None:
    """Runs trials in slots until the conductor has no more."""
    options = SessionOptions(
        family=family,
        workers=shares.workers,
        cpus_per_worker=shares.cpus_per_worker,
        gpus_per_worker=shares.gpus_per_worker,
        threads=shares.threads,
        mark=str(mark),
        cache=str(cache),
        scratch=str(scratch),
    )
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(Slot, options=options), {"CPU": SLOT_CPUS}),
            tune_config=tune.TuneConfig(
                search_alg=_Asks(conductor, isolate=isolate),
                scheduler=_Hears(conductor),
                num_samples=-1,
                max_concurrent_trials=shares.concurrent,
                reuse_actors=not isolate,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
