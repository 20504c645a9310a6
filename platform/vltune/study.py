"""Optuna's part of a search: what is tried next, and whether a trial is worth going on with.

The study lies in the ledger's database, so that a search which is resumed knows all that was learned. The sampler is
made anew for each question, seeded by (seed, number of the question): a resumed search does not repeat its first
suggestions.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vltune.contract import Draws, lookup

optuna.logging.set_verbosity(optuna.logging.WARNING)

PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "successive_halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
}


def _tpe(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    startup = max(4, min(10, num_trials // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=startup, seed=seed
        )


def _random(seed: int, _: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS = {"tpe": _tpe, "random": _random}


class Study:
    """One search's study."""

    def __init__(self, url: str, name: str, *, direction: str, sampler: str, pruner: str, seed: int, num_trials: int):
        lookup(SAMPLERS, sampler, "sampler")
        self._sampler, self._seed, self._num_trials = sampler, seed, num_trials
        self._study = optuna.create_study(
            storage=optuna.storages.RDBStorage(url, engine_kwargs=_engine_options(url)),
            study_name=name,
            direction="maximize" if direction == "max" else "minimize",
            pruner=lookup(PRUNERS, pruner, "pruner")(),
            load_if_exists=True,
        )
        self._open: dict[int, optuna.Trial] = {}

    def add_rows(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Queues named configurations in this order, but those that wait already: a kill may have cut this short."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        waiting = {trial.user_attrs.get("row") for trial in trials}
        for name, values in rows.items():
            if name in waiting:
                continue
            self._study.enqueue_trial(dict(values), user_attrs={"row": name})

    def has_rows(self) -> bool:
        """Whether named rows wait to be run."""
        return any(t.state == TrialState.WAITING for t in self._study.get_trials(deepcopy=False))

    def ask(self) -> tuple[optuna.Trial, str]:
        """The next trial, to be given to ``define``, and the name of its row or an empty text."""
        asked = sum(t.state != TrialState.WAITING for t in self._study.get_trials(deepcopy=False))
        seed = int(Draws(self._seed, asked).generator("", "sampler").integers(2**31))
        self._study.sampler = SAMPLERS[self._sampler](seed, self._num_trials)
        trial = self._study.ask()
        self._open[trial.number] = trial
        return trial, trial.user_attrs.get("row", "")

    def reopen(self, number: int) -> None:
        """Takes up a trial that another process asked for."""
        self._open[number] = optuna.Trial(self._study, self._frozen(number)._trial_id)  # noqa: SLF001 (no public way)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tells an epoch's value; returns whether the trial should be stopped. Named rows run to their end."""
        trial = self._open[number]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The reported value is ignored")  # told again after a kill
            trial.report(value, epoch)
        return "row" not in trial.user_attrs and trial.should_prune()

    def tell(self, number: int, state: str, value: float = math.nan) -> None:
        """Ends a trial, once: a later call changes nothing."""
        self._open.pop(number, None)
        if state == "finished" and math.isfinite(value):
            self._study.tell(number, value, skip_if_finished=True)
        elif state == "pruned":
            self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def drop_unknown(self, known: Sequence[int]) -> None:
        """Ends trials that were asked for but never entered into the ledger."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and trial.number not in known:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(t for t in self._study.get_trials(deepcopy=False) if t.number == number)


def _engine_options(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
