"""Trials that need no cluster, one after the other in this process: those that train nothing and run no model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vltune.contract import EpochReport, Family
from vltune.runtime import LocalRuntime, Progress
from vltune.train import Trial, fit

if TYPE_CHECKING:
    from vltune.tuning import Conductor


class _Here(LocalRuntime):
    """The process itself; what the trial tells is heard at once."""

    def __init__(self, conductor: "Conductor", uid: str, *, cache: str, threads: int) -> None:
        super().__init__(cache=cache, threads=threads)
        self._conductor, self._uid = conductor, uid

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
        """Hands the report on, and hears whether the trial goes on."""
        assert told is not None, f"epoch {epoch}: the only rank has to tell"
        report, progress = told
        return self._conductor.hear(self._uid, {"kind": "epoch", "report": dataclasses.asdict(report)}), progress


def run_trials_here(conductor: "Conductor", *, family: type[Family], cache: Path, threads: int) -> None:
    """Runs trials in this process until the conductor has no more; it hears of them as it would of a slot's."""
    while (assigned := conductor.next_trial()) is not None:
        trial, runtime = _trial(family, assigned), _Here(conductor, assigned["uid"], cache=str(cache), threads=threads)
        try:
            fit(trial, runtime)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is written down as the trial's end
            from vltune.session import failure_text  # imports Ray, which nothing else here needs

            conductor.hear(trial.uid, {"kind": "failed", "error": failure_text(error, trial.folder)})


def _trial(family: type[Family], assigned: Mapping[str, Any]) -> Trial:
    return Trial(
        uid=assigned["uid"],
        family=family,
        config=family.Config.from_fields(assigned["config"]),
        folder=Path(assigned["folder"]),
        record=assigned["record"],
        known_epoch=assigned["known_epoch"],
    )
