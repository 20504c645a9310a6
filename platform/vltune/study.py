"""Optuna's part of a search: what is tried next, and whether a trial is worth going on with.

The study lies in the ledger's database, so that a search which is resumed knows all that was learned. The sampler is
made anew for each question, seeded by (seed, number of the question): a resumed search does not repeat its first
suggestions. Pruners are told beforehand what they would guess from the trials of this process.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vltune.contract import Direction, Draws, fingerprint
from vltune.errors import lookup

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)  # greenlet would save it fractions of a second

FIRST_RUNG = 2
"""Epochs before which nothing is stopped."""


def none(_: int) -> optuna.pruners.BasePruner:
    """Stops nothing."""
    return optuna.pruners.NopPruner()


def successive_halving(_: int) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934)."""
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=3)


def hyperband(epochs: int) -> optuna.pruners.BasePruner:
    """Hyperband (https://arxiv.org/abs/1603.06560) over the epochs that a trial may have."""
    most = max(epochs, FIRST_RUNG)  # by itself, it would guess this from what has finished by now
    return optuna.pruners.HyperbandPruner(min_resource=FIRST_RUNG, max_resource=most, reduction_factor=3)


def median(_: int) -> optuna.pruners.BasePruner:
    """The median rule (https://research.google/pubs/google-vizier-a-service-for-black-box-optimization/)."""
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=FIRST_RUNG, n_min_trials=3)


_PRUNERS = {f.__name__: f for f in (none, successive_halving, hyperband, median)}


def tpe(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator (https://arxiv.org/abs/2304.11127)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=_random_trials(num_trials), seed=seed
        )


def gp(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """Gaussian process with log expected improvement (https://arxiv.org/abs/2310.20708)."""
    return optuna.samplers.GPSampler(
        seed=seed,
        n_startup_trials=_random_trials(num_trials),
        independent_sampler=tpe(seed, num_trials),  # for parameters that not all trials have
        warn_independent_sampling=False,
    )


def nsga2(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """NSGA-II (https://doi.org/10.1109/4235.996017). A trial's generation lies in the database."""
    return optuna.samplers.NSGAIISampler(population_size=max(4, min(50, num_trials // 4)), seed=seed)


def random(seed: int, _: int) -> optuna.samplers.BaseSampler:
    """Draws each trial anew."""
    return optuna.samplers.RandomSampler(seed=seed)


def grid(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """Has nothing to say: the points are queued (``add_points``), because Optuna's own needs ``Study.optimize``."""
    return random(seed, num_trials)


def _random_trials(num_trials: int) -> int:
    """Trials that are drawn at random before a sampler learns from them."""
    return max(4, min(10, num_trials // 4))


_SAMPLERS: Mapping[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    f.__name__: f for f in (tpe, gp, nsga2, random, grid)
}


class Study:
    """One search's study."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        directions: Sequence[Direction],
        sampler: str,
        pruner: str,
        seed: int,
        num_trials: int,
        epochs: int,
    ) -> None:
        """Opens a study, or makes it.

        Args:
            url: of the ledger's database.
            name: of the run.
            directions: which way each objective is better, the first objective first.
            sampler: a name of ``strategies.SAMPLERS``.
            pruner: a name of ``strategies.PRUNERS``; with several objectives nothing is pruned.
            seed: of all that is suggested.
            num_trials: trials in all.
            epochs: the most that a trial may have.

        Raises:
            NotFound: an unknown sampler or pruner.
        """
        self._sampler, self._seed, self._num_trials = lookup(_SAMPLERS, sampler, "sampler"), seed, num_trials
        self._pruner = lookup(_PRUNERS, pruner, "pruner")(epochs)
        self._objectives = len(directions)
        self._study = optuna.create_study(
            storage=optuna.storages.RDBStorage(url, engine_kwargs=_engine_options(url)),
            study_name=name,
            directions=["maximize" if direction == "max" else "minimize" for direction in directions],
            # Ours is asked by us: knowing of Hyperband, Optuna would hand samplers one bracket in place of the study.
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._open: dict[int, optuna.Trial] = {}
        self._points: list[Mapping[str, Any]] = []

    def add_rows(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Queues named configurations in this order, but those that wait already: a kill may have cut this short."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        waiting = {trial.user_attrs.get("row") for trial in trials}
        for name, values in rows.items():
            if name in waiting:
                continue
            self._study.enqueue_trial(dict(values), user_attrs={"row": name})

    def add_points(self, points: Sequence[Mapping[str, Any]], *, known: Sequence[int]) -> None:
        """Takes up the points of a grid, but those that were tried before or wait already.

        Args:
            points: all points, in their order.
            known: numbers of the trials that the ledger has.
        """
        trials = self._study.get_trials(deepcopy=False)
        kept = [trial for trial in trials if trial.state == TrialState.WAITING or trial.number in known]
        tried = {trial.user_attrs.get("point") for trial in kept}
        self._points = [point for point in points if fingerprint(point) not in tried]

    def has_rows(self) -> bool:
        """Whether named rows wait to be run."""
        return any(t.state == TrialState.WAITING for t in self._study.get_trials(deepcopy=False))

    def ask(self, question: int | None = None) -> tuple[optuna.Trial, str]:
        """The next trial, to be given to ``define``, and the name of its row or an empty text.

        Args:
            question: number of the question, which seeds the sampler; None: as many as were asked before, even if a
                kill came before the answer was used.
        """
        trials = self._study.get_trials(deepcopy=False)
        asked = sum(t.state != TrialState.WAITING for t in trials)
        if asked == len(trials) and self._points:
            point = self._points.pop(0)
            self._study.enqueue_trial(dict(point), user_attrs={"point": fingerprint(point)})
        seed = int(Draws(self._seed, asked if question is None else question).generator("", "sampler").integers(2**31))
        self._study.sampler = self._sampler(seed, self._num_trials)
        trial = self._study.ask()
        self._open[trial.number] = trial
        return trial, trial.user_attrs.get("row", "")

    def reopen(self, number: int) -> None:
        """Takes up a trial that another process asked for."""
        self._open[number] = optuna.Trial(self._study, self._frozen(number)._trial_id)  # noqa: SLF001 (no public way)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Tells an epoch's value of the first objective; returns whether the trial should be stopped.

        Named rows run to their end, and so does everything where there are several objectives: Optuna takes no values
        of epochs then.
        """
        if self._objectives > 1:
            return False
        trial = self._open[number]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The reported value is ignored")  # told again after a kill
            trial.report(value, epoch)
        falls_behind = self._pruner.prune(self._study, self._frozen(number))  # of rows too: others have to beat them
        return falls_behind and "row" not in trial.user_attrs

    def tell(self, number: int, state: str, values: Sequence[float] = ()) -> None:
        """Ends a trial, once: a later call changes nothing.

        Args:
            number: the trial's.
            state: one of the ledger's ends.
            values: of all objectives, at the best epoch; with one that is not finite, the trial counts as failed.
        """
        assert len(values) in (0, self._objectives), values
        self._open.pop(number, None)
        if state == "finished" and values and all(map(math.isfinite, values)):
            self._study.tell(number, list(values), skip_if_finished=True)
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
