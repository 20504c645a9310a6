"""The ledger's events as MLflow is to hear of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vltune.illustrations import FOLDER, MISSING
from vltune.ledger import Ledger
from vltune.ledger_records import Event, SearchRecord
from vltune.summary import best_report, checkpoint_folder, trial_folder


class LedgerEvents:
    """The ledger's events, with what MLflow is to be told of each."""

    def __init__(self, ledger: Ledger, record: SearchRecord, folder: Path) -> None:
        self.ledger, self.record, self.folder = ledger, record, folder

    def pending(self, after: int, limit: int) -> list[Event]:
        """The next events after a sequence number."""
        events = self.ledger.pending(self.record.name, after=after, limit=limit)
        return [replace(event, payload=self._payload(event.uid, event.kind, event.payload)) for event in events]

    def mark_sent(self, sequence: int) -> None:
        """Remembers that MLflow has everything up to here."""
        self.ledger.mark_sent(self.record.name, sequence)

    def _payload(self, uid: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        if kind == "summary":
            return payload
        if kind == "epoch":
            told = {key: payload[key] for key in ("epoch", "metrics")}
            return told | {"resources": payload.get("resources", ())}
        trial = self.ledger.trial(uid)
        if kind == "started":
            shared = {key: str(value) for key, value in self.record.versions.items()}
            return {
                "params": trial.config,
                "searched": list(trial.searched),
                "name": self.record.title(trial),
                "number": trial.number,
                "tags": {"vltune.row": trial.row, "vltune.attempt": str(payload["attempt"]), **shared},
            }
        best = best_report(self.ledger.epochs(uid))
        if best is None:
            return payload
        checkpoint = checkpoint_folder(self.folder.parent, trial, best)
        samples = checkpoint / "samples"
        illustrations = trial_folder(self.folder.parent, trial) / FOLDER
        missing = illustrations / MISSING
        late = missing.read_text(encoding="utf-8").splitlines() if kind == "illustrated" and missing.is_file() else ()
        return {
            **payload,
            "note": "\n".join([*best.notes, *late]),
            "best_epoch": best.epoch,
            "best": dict(best.metrics),
            **({"checkpoint": str(checkpoint)} if checkpoint.is_dir() else {}),
            **({"samples": str(samples)} if samples.is_dir() else {}),
            **({"illustrations": str(illustrations)} if illustrations.is_dir() else {}),
        }
