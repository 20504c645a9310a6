"""A population as the ledger has it: what is entered next, which checkpoints are spent, what schedule was found."""

import json
import math
from pathlib import Path
from typing import Any

from vltune import population as rules
from vltune.checkpoints import keep_only
from vltune.contract import Population
from vltune.ledger import Ledger
from vltune.ledger_records import ENDED, SearchRecord, TrialRecord
from vltune.population import Segment, Step
from vltune.summary import best_report, checkpoint_folder, trial_folder


def segments_of(ledger: Ledger, record: SearchRecord) -> list[Segment]:
    """The trials of a run as segments, in the order in which they were entered."""
    return [
        Segment(
            uid=trial.uid,
            name=trial.row or trial.uid,
            config=trial.config,
            ended=trial.state in ENDED,
            value=_value_at_the_end(ledger, record, trial),
        )
        for trial in ledger.trials(record.name)
    ]


def _value_at_the_end(ledger: Ledger, record: SearchRecord, trial: TrialRecord) -> float:
    reports = ledger.epochs(trial.uid) if trial.state == "finished" else []
    return reports[-1].metrics[record.objective] if reports else math.nan


def free_spent(ledger: Ledger, record: SearchRecord, storage: Path) -> None:
    """Removes all but the best checkpoint of segments from whose last state nobody will go on."""
    size = record.population["size"] if record.population else 1  # a replay is a line of segments
    for segment in rules.spent(segments_of(ledger, record), size=size):
        trial = ledger.trial(segment.uid)
        best = best_report(ledger.epochs(trial.uid))
        if trial.state == "finished" and best is not None:
            keep_only(trial_folder(storage, trial) / "checkpoints", [checkpoint_folder(storage, trial, best)])


class Generations:
    """The population of a run."""

    def __init__(self, ledger: Ledger, record: SearchRecord) -> None:
        fields: dict[str, Any] = record.population or {}
        perturbed = {key: (low, high) for key, (low, high) in fields["perturbed"].items()}
        self.population = Population(**{**fields, "perturbed": perturbed})
        self._ledger, self._record = ledger, record

    def due(self) -> list[Step]:
        """What is to be entered now; nothing while a generation runs, or at the end.

        Raises:
            BadInput: a whole generation failed.
        """
        segments = segments_of(self._ledger, self._record)
        return rules.due(self.population, segments, direction=self._record.direction, seed=self._record.seed)

    def schedule(self) -> list[dict[str, Any]]:
        """What the best member at the end was trained with, segment by segment; empty before the end."""
        segments = segments_of(self._ledger, self._record)
        best = rules.winner(self.population, segments, direction=self._record.direction)
        line = rules.lineage(segments, best.uid) if best else []
        return rules.schedule(self.population, line, objective=self._record.objective)

    def write_schedule(self, folder: Path) -> str:
        """Writes the schedule that was found as ``schedule.json`` and ``schedule.md``.

        Args:
            folder: where to.

        Returns:
            What the note of the search has to say of it, in Markdown; empty before the end.
        """
        found = self.schedule()
        if not found:
            return ""
        table = rules.schedule_table(found, objective=self._record.objective)
        document = {"run": self._record.name, "objective": self._record.objective, "segments": found}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedule.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        (folder / "schedule.md").write_text(f"{table}\n", encoding="utf-8")
        return f"**The schedule that was found.** Train it again: `vltune rerun {found[-1]['uid']}`.\n\n{table}"
