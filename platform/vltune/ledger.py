"""The truth about every search, in one database: trials, what happened to them in order, and who works on them.

Only the process that drives a search writes to it, and holds its lease meanwhile. SQLite (in WAL mode) or PostgreSQL.
Optuna's study lies in the same database (``study.py``); MLflow is a view of the events here (``tracking.py``).
"""

import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, OperationalError

from vltune.contract import EpochReport
from vltune.errors import BadInput, Busy, NotFound, Unreachable, nearest
from vltune.ledger_records import ENDED, Event, SearchRecord, TrialRecord, search_record, trial_record

LEASE_SECONDS = 20.0
"""A driver on another machine that has not been heard of for so long is taken for dead."""

_tables = sa.MetaData()
_searches = sa.Table(
    "vltune_search",
    _tables,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("sent", sa.Integer, nullable=False, default=0),
)
_trials = sa.Table(
    "vltune_trial",
    _tables,
    sa.Column("uid", sa.String(80), primary_key=True),
    sa.Column("search", sa.String(64), nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("row", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("searched", sa.Text, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.UniqueConstraint("search", "number"),
)
_events = sa.Table(
    "vltune_event",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("search", sa.String(64), nullable=False, index=True),
    sa.Column("uid", sa.String(80), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("occurrence", sa.Integer, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.UniqueConstraint("uid", "kind", "occurrence"),
)
_leases = sa.Table(
    "vltune_lease",
    _tables,
    sa.Column("search", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("beat", sa.Float, nullable=False),
)


class Ledger:
    """The database of one storage folder, or of a team."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}.{uuid.uuid4().hex[:8]}"
        try:
            self._engine = sa.create_engine(url, connect_args={"timeout": 60} if url.startswith("sqlite") else {})
        except (ArgumentError, ImportError) as error:
            raise BadInput(
                f"VLTUNE_LEDGER is no database that can be opened ({error}); correct or unset it."
            ) from error
        if url.startswith("sqlite"):
            event.listen(self._engine, "connect", _set_up_sqlite)
        try:
            _tables.create_all(self._engine)
        except OperationalError as error:
            raise Unreachable(f"the ledger {self._engine.url} does not answer: {error.orig}") from error
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise BadInput(
                f"the ledger {self._engine.url} is damaged or no database ({getattr(error, 'orig', error)}); restore "
                "it, or choose another --storage."
            ) from error

    @classmethod
    def of(cls, storage: Path) -> "Ledger":
        """The ledger of a storage folder: ``ledger.db`` in it, or the database that ``VLTUNE_LEDGER`` names.

        Raises:
            BadInput: the folder cannot be made, or its ledger cannot be read.
            Unreachable: the database does not answer.
        """
        url = os.environ.get("VLTUNE_LEDGER")
        if not url:
            path = storage.absolute() / "ledger.db"
            try:
                storage.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
            except OSError as error:
                raise BadInput(f"--storage {storage} cannot be written ({error.strerror}); choose another.") from error
            url = f"sqlite:///{path}"
        return cls(url)

    @classmethod
    def existing(cls, storage: Path) -> "Ledger":
        """As ``of``, for those who only look: nothing is made.

        Raises:
            NotFound: no run was ever started there.
        """
        if not os.environ.get("VLTUNE_LEDGER") and not (storage / "ledger.db").is_file():
            raise NotFound(
                f"--storage {storage} holds no runs: start one with `vltune search quickstart`, or give the folder "
                "that holds them."
            )
        return cls.of(storage)

    # -- searches

    def create_search(self, record: SearchRecord) -> None:
        """Adds a search.

        Raises:
            BadInput: the name is taken.
        """
        row = {"name": record.name, "created": record.created or time.time(), "state": record.state, "sent": 0}
        try:
            with self._engine.begin() as connection:
                connection.execute(_searches.insert().values(record=json.dumps(asdict(record)), **row))
        except IntegrityError:
            raise BadInput(
                f"there is a run {record.name!r} already: take another --name, or go on with it by "
                f"`vltune resume {record.name}`."
            ) from None

    def search(self, name: str) -> SearchRecord:
        """One search.

        Raises:
            NotFound: there is none of this name.
        """
        for record in self.searches():
            if record.name == name:
                return record
        names = [record.name for record in self.searches()]
        raise NotFound(f"there is no run {name!r} here{nearest(name, names) if names else ': none was started yet.'}")

    def searches(self) -> list[SearchRecord]:
        """All searches, the oldest first."""
        with self._engine.connect() as connection:
            query = sa.select(_searches).order_by(_searches.c.created)
            return [search_record(row) for row in connection.execute(query).mappings()]

    def change(self, name: str, **changes: Any) -> SearchRecord:
        """Changes fields of a search's record: more trials, or the room that it was given."""
        record = replace(self.search(name), **changes)
        with self._engine.begin() as connection:
            mine = _searches.c.name == name
            connection.execute(_searches.update().where(mine).values(record=json.dumps(asdict(record))))
        return record

    def set_state(self, name: str, state: str) -> None:
        """Says where a search stands."""
        with self._engine.begin() as connection:
            connection.execute(_searches.update().where(_searches.c.name == name).values(state=state))

    def ask_to_stop(self, name: str) -> None:
        """Asks the process that drives a search to stop it; nothing happens to one that has ended meanwhile."""
        with self._engine.begin() as connection:
            mine = (_searches.c.name == name) & (_searches.c.state == "running")
            connection.execute(_searches.update().where(mine).values(state="stopping"))

    def state(self, name: str) -> str:
        """Where a search stands; another process may have set it to ``stopping``."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_searches.c.state).where(_searches.c.name == name)).scalar_one()

    # -- lease

    def acquire(self, name: str) -> None:
        """Takes the lease of a search.

        Raises:
            Busy: a living process holds it.
        """
        with self._engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # two drivers may come at once
            holder = self._holder(connection, name, lock=True)
            if holder is not None and holder != self.holder:
                raise Busy(f"the run {name!r} is being driven by another process ({holder}): stop it first.")
            connection.execute(_leases.delete().where(_leases.c.search == name))
            connection.execute(_leases.insert().values(search=name, holder=self.holder, beat=time.time()))

    def beat(self, name: str) -> bool:
        """Renews the lease; False when it was lost to another process."""
        with self._engine.begin() as connection:
            mine = (_leases.c.search == name) & (_leases.c.holder == self.holder)
            return connection.execute(_leases.update().where(mine).values(beat=time.time())).rowcount == 1

    def release(self, name: str) -> None:
        """Gives the lease back."""
        with self._engine.begin() as connection:
            mine = (_leases.c.search == name) & (_leases.c.holder == self.holder)
            connection.execute(_leases.delete().where(mine))

    def driver(self, name: str) -> str | None:
        """Who drives a search now: ``host:pid:…`` of a living process, or None."""
        with self._engine.connect() as connection:
            return self._holder(connection, name)

    def _holder(self, connection: sa.Connection, name: str, *, lock: bool = False) -> str | None:
        query = sa.select(_leases).where(_leases.c.search == name)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            return None
        host, pid, mark = row.holder.rsplit(":", 2)
        if host == socket.gethostname() and Path("/proc").is_dir():
            return row.holder if _started(int(pid)) == mark.partition(".")[0] else None
        return row.holder if abs(time.time() - row.beat) < LEASE_SECONDS else None

    # -- trials

    def add_trial(
        self,
        search: str,
        number: int,
        *,
        row: str,
        config: Mapping[str, Any],
        searched: Sequence[str],
        notes: Sequence[str] = (),
        state: str = "running",
    ) -> TrialRecord:
        """Adds a trial, which gets its uid: the run's name and its number."""
        uid = f"{search}-{number:03d}"
        record = TrialRecord(uid, search, number, row, state, 0, dict(config), tuple(searched), tuple(notes), "")
        packed = {key: json.dumps(getattr(record, key)) for key in ("config", "searched", "notes")}
        with self._engine.begin() as connection:
            connection.execute(_trials.insert().values(asdict(record) | packed))
        return record

    def trials(self, search: str) -> list[TrialRecord]:
        """The trials of a search in the order of their numbers."""
        with self._engine.connect() as connection:
            query = sa.select(_trials).where(_trials.c.search == search).order_by(_trials.c.number)
            return [trial_record(row) for row in connection.execute(query).mappings()]

    def trial(self, uid: str) -> TrialRecord:
        """One trial.

        Raises:
            NotFound: there is none.
        """
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_trials).where(_trials.c.uid == uid)).mappings().one_or_none()
            if row is not None:
                return trial_record(row)
            uids = connection.execute(sa.select(_trials.c.uid)).scalars().all()
        raise NotFound(f"there is no trial {uid!r} here{nearest(uid, uids[-20:]) if uids else ': none was run yet.'}")

    def start_attempt(self, uid: str, *, time: float) -> int:
        """Notes that a worker takes a trial up, for the first time or again; returns the number of the attempt."""
        trial = self.trial(uid)
        attempt = trial.attempts + 1
        with self._engine.begin() as connection:
            mine = _trials.c.uid == uid
            connection.execute(_trials.update().where(mine).values(attempts=attempt, state="running"))
            self._add_event(connection, trial.search, uid, "started", attempt, time, {"attempt": attempt})
        return attempt

    def record_epoch(self, uid: str, report: EpochReport) -> bool:
        """Keeps an epoch's report; False when it was here already.

        An epoch that had to be trained again, because its checkpoint was lost, has the same numbers in another folder.
        """
        search, payload = self.trial(uid).search, asdict(report)
        try:
            with self._engine.begin() as connection:
                self._add_event(connection, search, uid, "epoch", report.epoch, report.time, payload)
        except IntegrityError:
            with self._engine.begin() as connection:
                mine = (_events.c.uid == uid) & (_events.c.kind == "epoch") & (_events.c.occurrence == report.epoch)
                before = json.loads(connection.execute(sa.select(_events.c.payload).where(mine)).scalar_one())
                packed = json.dumps({**before, "checkpoint": report.checkpoint}, ensure_ascii=False)
                connection.execute(_events.update().where(mine).values(payload=packed))
            return False
        return True

    def end_trial(self, uid: str, state: str, *, error: str = "") -> None:
        """Ends a trial, once: a later call changes nothing."""
        assert state in ENDED, state
        trial = self.trial(uid)
        if trial.state in ENDED:
            return
        with self._engine.begin() as connection:
            connection.execute(_trials.update().where(_trials.c.uid == uid).values(state=state, error=error))
            self._add_event(connection, trial.search, uid, "ended", 1, time.time(), {"state": state, "error": error})

    def note_illustrations(self, uid: str) -> None:
        """Notes, once, that the figures of a trial came after its end; its end is told again with them."""
        with self._engine.begin() as connection:
            mine = (_events.c.uid == uid) & _events.c.kind.in_(("ended", "illustrated"))
            rows = connection.execute(sa.select(_events).where(mine)).all()
            if [row.kind for row in rows] == ["ended"]:
                (end,) = rows  # of its time too: that a trial was drawn later does not make it longer
                self._add_event(connection, end.search, uid, "illustrated", 1, end.time, json.loads(end.payload))

    def epochs(self, uid: str) -> list[EpochReport]:
        """The epochs of a trial that were reported, in order."""
        with self._engine.connect() as connection:
            mine = (_events.c.uid == uid) & (_events.c.kind == "epoch")
            query = sa.select(_events.c.payload).where(mine).order_by(_events.c.occurrence)
            return [EpochReport(**json.loads(text)) for text in connection.execute(query).scalars()]

    def times(self, uid: str) -> tuple[float, float]:
        """When a trial was first started and last heard of."""
        with self._engine.connect() as connection:
            query = sa.select(sa.func.min(_events.c.time), sa.func.max(_events.c.time)).where(_events.c.uid == uid)
            first, last = connection.execute(query).one()
        return first or 0.0, last or 0.0

    # -- events, for the sender

    def pending(self, search: str, *, after: int, limit: int) -> list[Event]:
        """The next events of a search after a sequence number."""
        with self._engine.connect() as connection:
            mine = (_events.c.search == search) & (_events.c.sequence > after)
            query = sa.select(_events).where(mine).order_by(_events.c.sequence).limit(limit)
            rows = connection.execute(query).all()
        return [Event(r.sequence, r.search, r.uid, r.kind, r.time, json.loads(r.payload)) for r in rows]

    def sent(self, search: str) -> int:
        """Up to which sequence number events have been sent on."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_searches.c.sent).where(_searches.c.name == search)).scalar_one()

    def mark_sent(self, search: str, sequence: int) -> None:
        """Says that all events up to this one have arrived."""
        with self._engine.begin() as connection:
            connection.execute(_searches.update().where(_searches.c.name == search).values(sent=sequence))

    def backlog(self, search: str) -> int:
        """How many events wait to be sent on."""
        with self._engine.connect() as connection:
            sent = sa.select(_searches.c.sent).where(_searches.c.name == search).scalar_subquery()
            mine = (_events.c.search == search) & (_events.c.sequence > sent)
            return connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one()

    def add_summary(self, search: str, payload: dict[str, Any]) -> None:
        """Notes that a search ended and what came of it; a search that was resumed may end again."""
        with self._engine.begin() as connection:
            mine = (_events.c.search == search) & (_events.c.kind == "summary")
            before = connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
            self._add_event(connection, search, f"{search}/", "summary", before + 1, time.time(), payload)

    @staticmethod
    def _add_event(
        connection: sa.Connection,
        search: str,
        uid: str,
        kind: str,
        occurrence: int,
        time: float,
        payload: dict[str, Any],
    ) -> None:
        values = {"search": search, "uid": uid, "kind": kind, "occurrence": occurrence, "time": time}
        connection.execute(_events.insert().values(payload=json.dumps(payload, ensure_ascii=False), **values))


def _started(pid: int) -> str:
    """When a living process of this machine started, in its clock's ticks; a number alone may be given again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _set_up_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous=NORMAL")  # sound after any kill; a power cut may cost the last transactions
    cursor.close()
