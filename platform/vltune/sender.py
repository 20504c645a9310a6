"""The thread that carries the ledger's events into MLflow, in order, once each, and never in the way of training."""

import itertools
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vltune.illustrations import FIGURES, INDEX
from vltune.ledger_records import Event
from vltune.tracking import EpochPoint, Refused, Tracker

_log = logging.getLogger(__name__)
_BATCH = 500
_SHORTEST_WAIT = 0.5


class Source(Protocol):
    """What the sender needs of a ledger. Called from the sender's thread and from that which made the sender."""

    def pending(self, after: int, limit: int) -> Sequence[Event]:
        """The next events after a sequence number, in order, with what MLflow is to be told of them as their payload.

        ``started``: params, searched, name, number, tags. ``epoch``: epoch, metrics, resources. ``ended``: state,
        error, note, checkpoint, samples, illustrations, best_epoch, best (its metrics). ``illustrated``: as ``ended``,
        which is told again, with figures that came later. ``summary``: state, note, files, table (by columns), best.
        Folders are paths as text; a folder of samples is what ``write_samples`` makes, one of
        illustrations what ``illustrate`` makes. All but params, epoch, metrics and state may be missing or empty.
        """
        ...

    def mark_sent(self, sequence: int) -> None:
        """Remembers that MLflow has everything up to this sequence number."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What MLflow shall know of the search itself."""

    uid: str
    """Tells searches of equal names on one server apart."""
    run_name: str
    search: str
    source_text: str
    question: str
    objective: str
    tags: Mapping[str, str] = field(default_factory=dict)
    start_time: float | None = None


class Sender:
    """Drains a ledger into MLflow. While MLflow is down the rows wait in the ledger."""

    def __init__(
        self,
        tracker: Tracker,
        source: Source,
        *,
        search: SearchRun,
        after: int = 0,
        poll: float = 1.0,
        longest_wait: float = 60.0,
    ) -> None:
        """A sender that has not started.

        Args:
            tracker: where the runs go.
            source: where the events come from.
            search: the parent run.
            after: the last sequence number that was sent before.
            poll: seconds between two looks for new events.
            longest_wait: seconds between two tries while MLflow is down, at most; the first waits are shorter.
        """
        self.parent = ""
        """Run id of the search, once it is there."""
        self.trouble = ""
        """Why rows are waiting; empty while MLflow takes them."""
        self.refused: list[tuple[int, str]] = []
        """Events that MLflow will never take: sequence number and reason."""
        self._tracker, self._source, self._search = tracker, source, search
        self._after, self._poll, self._longest_wait = after, poll, longest_wait
        self._runs: dict[str, str] = {}
        self._stopping, self._wake, self._hurry, self._empty = (threading.Event() for _ in range(4))
        # A daemon, so that a server that hangs cannot keep a finished search from ending.
        self._thread = threading.Thread(target=self._loop, name="vltune-mlflow-sender", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def backlog(self) -> int:
        """How many events wait, 100,000 at most."""
        return len(self._source.pending(self._after, 100_000))

    def flush(self, timeout: float) -> bool:
        """Waits until everything is sent, ``timeout`` seconds at most. Whether it was."""
        self._empty.clear()
        self._hurry.set()
        self._wake.set()
        done = self._empty.wait(timeout)
        self._hurry.clear()
        return done

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the thread. What was not sent waits in the ledger for the next time."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _loop(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                # Cleared before looking, so that a flush that comes meanwhile is answered by the next look.
                hurried = self._hurry.is_set() and not self._empty.is_set()
                sent = self._send_next()
            except Exception as error:  # noqa: BLE001 - whatever MLflow throws must end neither thread nor training
                failures += 1
                if not self.trouble:
                    _log.warning("MLflow takes nothing at the moment, rows wait in the ledger: %s", error)
                self.trouble = str(error)
                wait = min(self._longest_wait, _SHORTEST_WAIT * 2 ** min(failures, 20))
                self._idle(min(wait, _SHORTEST_WAIT) if self._hurry.is_set() else wait)
                continue
            if self.trouble:
                _log.warning("MLflow takes rows again")
            failures, self.trouble = 0, ""
            if not sent:
                if hurried:
                    self._empty.set()
                self._idle(self._poll)

    def _idle(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _send_next(self) -> int:
        if not self.parent:
            search = self._search
            self.parent = self._tracker.ensure_parent(
                search.uid,
                run_name=search.run_name,
                search=search.search,
                source_text=search.source_text,
                question=search.question,
                objective=search.objective,
                tags=search.tags,
                start_time=search.start_time,
            )
        events = self._source.pending(self._after, _BATCH)
        for is_epoch, group in itertools.groupby(events, key=lambda e: e.kind == "epoch"):
            group = list(group)
            for part in [group] if is_epoch else [[event] for event in group]:
                if not self._stopping.is_set():
                    self._send_part(part)
        return len(events)

    def _send_part(self, events: list[Event]) -> None:
        try:
            self._send(events)
        except (Refused, KeyError, TypeError, ValueError) as error:
            if len(events) > 1:  # one of them is to blame: each goes alone, the others are not lost
                for event in events:
                    self._send_part([event])
                return
            (event,) = events
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, Refused) else str(error)
            self.refused.append((event.sequence, reason))
            _log.warning("event %d (%s of %s) is left out: %s", event.sequence, event.kind, event.uid, reason)
        self._after = events[-1].sequence
        self._source.mark_sent(self._after)

    def _send(self, events: list[Event]) -> None:
        kind, (first, *_) = events[0].kind, events
        if kind == "epoch":
            self._send_epochs(events)
        elif kind == "started":
            self._send_started(first)
        elif kind in ("ended", "illustrated"):
            self._send_ended(first)
        elif kind == "summary":
            self._send_summary(first)
        else:
            raise ValueError(f"unknown kind of event {kind!r}")

    def _send_started(self, event: Event) -> None:
        payload = event.payload
        number = payload.get("number")
        tags = {"vltune.run": self._search.run_name, **payload.get("tags", {})}
        self._runs[event.uid] = self._tracker.ensure_trial(
            self.parent,
            event.uid,
            name=payload.get("name") or (event.uid if number is None else f"trial {number}"),
            params=payload["params"],
            searched=payload.get("searched", ()),
            tags=tags if number is None else {**tags, "vltune.number": str(number)},
            start_time=event.time,
        )

    def _send_epochs(self, events: Sequence[Event]) -> None:
        points: dict[str, list[EpochPoint]] = {}
        for event in events:
            payload = event.payload
            point = EpochPoint(payload["epoch"], payload["metrics"], event.time, payload.get("resources", ()))
            points.setdefault(event.uid, []).append(point)
        for uid, series in points.items():
            self._tracker.send_epochs(self._run(uid), series)

    def _send_ended(self, event: Event) -> None:
        payload = event.payload
        if not self._tracker.is_database:
            # A request to create this run may have arrived twice, the second time late: the look leaves one.
            self._runs.pop(event.uid, None)
        run_id = self._run(event.uid)
        # The end comes first: files that are gone by now must not leave the run open.
        samples = Path(payload["samples"]) if payload.get("samples") else None
        illustrations = Path(payload["illustrations"]) if payload.get("illustrations") else None
        self._tracker.finish_trial(
            run_id,
            payload["state"],
            end_time=event.time,
            error=payload.get("error", ""),
            note=payload.get("note", ""),
            best_epoch=payload.get("best_epoch"),
            best=payload.get("best"),
            captions=_captions(samples),
            figures=_figures(illustrations),
        )
        if illustrations:
            self._tracker.log_files(run_id, illustrations)
        if event.kind == "illustrated":
            return  # the rest went with the end
        if samples:
            self._tracker.log_files(run_id, samples, "samples/best")
        if payload.get("checkpoint"):
            self._tracker.log_files(run_id, Path(payload["checkpoint"]), "checkpoint")

    def _send_summary(self, event: Event) -> None:
        payload = event.payload
        self._tracker.finish_parent(
            self.parent,
            payload["state"],
            end_time=event.time,
            note=payload.get("note", ""),
            files=Path(payload["files"]) if payload.get("files") else None,
            table=payload.get("table"),
            best=payload.get("best"),
        )

    def _run(self, uid: str) -> str:
        if uid not in self._runs:
            found = self._tracker.find_run(uid, parent=self.parent)
            if found is None:
                raise Refused(f"MLflow has no run for the trial {uid}: somebody deleted it")
            self._runs[uid] = found
        return self._runs[uid]


def _figures(illustrations: Path | None) -> dict[str, str]:
    file = illustrations / FIGURES / INDEX if illustrations else None
    if file is None or not file.is_file():
        return {}
    listed = json.loads(file.read_text(encoding="utf-8"))
    return {f"{FIGURES}/{entry['file']}": f"{entry['title']}. {entry['reads']}" for entry in listed}


def _captions(samples: Path | None) -> dict[str, str]:
    file = samples / "samples.json" if samples else None
    if file is None or not file.is_file():
        return {}
    shown = json.loads(file.read_text(encoding="utf-8"))
    return {entry["picture"]: str(entry["caption"]) for entry in shown if entry.get("picture") and entry.get("caption")}
