"""What stands when a search has ended: table, plots and report, in its folder and on their way to MLflow."""

from collections.abc import Callable
from pathlib import Path

from vltune.contract import Search
from vltune.generations import Generations
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.space import describe
from vltune.summary import write_summary


def conclude(
    ledger: Ledger,
    record: SearchRecord,
    search: Search,
    storage: Path,
    *,
    generations: Generations | None,
    say: Callable[[str], None],
) -> None:
    """Writes them, if any epoch was reported, and hands them to the sender.

    Args:
        ledger: where the run is.
        record: its record.
        search: its space.
        storage: its folder lies there.
        generations: those of a population, whose schedule is written too.
        say: hears why there is no report, should it fail.
    """
    name = record.name
    if not any(ledger.epochs(trial.uid) for trial in ledger.trials(name)):
        return
    remarks = generations.write_schedule(storage.absolute() / name / "comparison") if generations else ""
    report = _report(ledger, record, search, storage, say=say)
    ledger.add_summary(name, write_summary(ledger, name, storage, remarks=remarks, report=report))


def _report(ledger: Ledger, record: SearchRecord, search: Search, storage: Path, *, say: Callable[[str], None]) -> str:
    """Writes the report; the name of its file, or an empty text where it could not be written."""
    from vltune.report import Sources, write_report  # matplotlib and plotly are slow to import

    name = record.name
    try:
        described = describe(search, pins=record.pins)
        sources = Sources(families={record.family: search.family}, spaces={name: described})
        return write_report(ledger, [name], storage=storage, sources=sources, ended=True).path.name
    except Exception as error:  # noqa: BLE001 - the numbers are there: a page must not cost a search its end
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        say(f"the report was not written ({reason}); try `vltune report {name}`.")
        return ""
