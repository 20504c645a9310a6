"""What came of a run, read from the ledger: rows of the table, best epochs, and the files that sum a search up."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from vltune.budgets import Budget, reached
from vltune.checkpoints import RESAMPLES, TEST_RESAMPLES
from vltune.columns import read_resamples
from vltune.compare import Intervals, Table, table_of
from vltune.contract import EpochReport, RunRow
from vltune.errors import BadInput
from vltune.forms import as_columns, as_csv, as_markdown, folded
from vltune.latex import as_latex
from vltune.ledger import Ledger
from vltune.ledger_records import ENDED, SearchRecord, TrialRecord
from vltune.notes import search_note
from vltune.pages import as_html
from vltune.screen import space_flag
from vltune.seeds import fold
from vltune.table_notes import notes_on_all

_TESTED = 3
"""Metrics that a table of both splits shows."""


def trial_folder(storage: Path, trial: TrialRecord) -> Path:
    """Where a trial's checkpoints lie."""
    return storage.absolute() / trial.search / "trials" / trial.uid


def checkpoint_folder(storage: Path, trial: TrialRecord, report: EpochReport) -> Path:
    """Where the checkpoint of an epoch lies."""
    return trial_folder(storage, trial) / "checkpoints" / report.checkpoint


def best_report(epochs: Sequence[EpochReport]) -> EpochReport | None:
    """The best epoch by the trial's own objective: the last that was the best when it was reported."""
    return next((report for report in reversed(epochs) if report.best), None)


def rows_of(ledger: Ledger, run: str, *, storage: Path | None = None, budget: Budget | None = None) -> list[RunRow]:
    """The trials of a run as rows of a table. A trial that could not even be configured has none.

    Args:
        ledger: where the run is.
        run: its name.
        storage: where the checkpoints lie; with it, rows have what resamples of the best epoch's records say.
        budget: the rows tell what each trial had reached within it.
    """
    record = ledger.search(run)
    return [_row(ledger, record, trial, storage, budget) for trial in ledger.trials(run) if trial.config]


def _row(
    ledger: Ledger, record: SearchRecord, trial: TrialRecord, storage: Path | None, budget: Budget | None
) -> RunRow:
    epochs: Sequence[EpochReport] = ledger.epochs(trial.uid)
    notes = [*epochs[-1].notes] if epochs else []
    best = best_report(epochs)
    if budget is not None:
        objective = str(trial.config.get("objective", record.objective))
        found = reached(
            epochs,
            budget,
            objective=objective,
            direction=record.metrics[objective],
            before=_spent_before(ledger, trial, budget.metric),
            ended=trial.state in ENDED,
        )
        epochs, best = found.epochs, found.best
        notes += [found.remark] if found.remark else []
    seconds = sum(e.metrics.get("train_seconds", 0.0) + e.metrics.get("evaluate_seconds", 0.0) for e in epochs)
    resampled = None
    if storage is not None and best is not None:
        resampled = read_resamples(checkpoint_folder(storage, trial, best) / RESAMPLES)
    return RunRow(
        uid=trial.uid,
        run=trial.search,
        name=trial.row,
        state=trial.state if trial.state in ENDED or record.state != "interrupted" else "interrupted",
        config=trial.config,
        searched=trial.searched,
        epochs=epochs[-1].epoch if epochs else 0,
        best_epoch=best.epoch if best else 0,
        metrics=dict(best.metrics) if best else {},
        parameters=int(best.metrics.get("parameters", 0)) if best else 0,
        seconds=seconds,
        notes=tuple(notes),
        error=trial.error,
        resampled=resampled,
    )


def _spent_before(ledger: Ledger, trial: TrialRecord, metric: str) -> float:
    """What the trials spent that this one goes on from. Samples are counted through all of them anyway."""
    before, spent = trial.config.get("start_from", ""), 0.0
    while before and metric != "samples_seen":
        parent = ledger.trial(before)
        reports = ledger.epochs(parent.uid)
        spent += reports[-1].metrics.get(metric, 0.0) if reports else 0.0
        before = parent.config.get("start_from", "")
    return spent


def table(
    ledger: Ledger,
    runs: Sequence[str],
    *,
    storage: Path | None = None,
    sort_by: str = "",
    tested: Mapping[str, tuple[Mapping[str, float], str]] | None = None,
    folded: bool = True,
    intervals: Intervals = "objective",
    budget: Budget | None = None,
) -> Table:
    """The comparison of one run, or of several on the same data.

    Args:
        ledger: where they are read.
        runs: their names.
        sort_by: metric that orders the rows; empty: the first run's objective.
        storage: where the checkpoints lie, from whose records intervals come; None: no intervals.
        tested: uid -> metrics of the test split and a warning about them, for a table that shows both splits.
        folded: seeds of one configuration stand as one row.
        intervals: which columns show how sure their numbers are.
        budget: what each trial may have spent; None: all that it did.

    Raises:
        NotFound: there is no such run.
        BadInput: nothing was trained yet, or the runs do not compare.
    """
    records = [ledger.search(run) for run in runs]
    rows = [row for run in runs for row in rows_of(ledger, run, storage=storage, budget=budget)]
    if not rows:
        raise BadInput(f"no trial of {', '.join(runs)} has been started yet: wait for the first.")
    form = _form(records, rows, sort_by=sort_by)
    if tested is not None:
        rows = [_with_test(row, *tested.get(row.uid, ({}, "")), storage=storage) for row in rows]
        shown = tuple(dict.fromkeys((form["objective"], *form["columns"])))[:_TESTED]
        form["columns"] = tuple(name for metric in shown for name in (metric, f"test_{metric}"))
        for key in ("directions", "drawn_with"):
            form[key] = form[key] | {f"test_{k}": v for k, v in form[key].items()}
        today = f"{datetime.now(tz=UTC):%Y-%m-%d}"
        if any(metrics for metrics, _ in tested.values()):
            form["notes"] = [
                *form["notes"],
                f"Columns test_…: test split, read on {today}; validation orders the rows.",
            ]
    # What was chosen by its seeds in a search is not mixed with what confirms it.
    rows = fold(rows, apart=[record.name for record in records if record.confirms]) if folded else rows
    if len({record.family for record in records}) > 1:
        rows = _of_families(rows, records)
    if len(records) == 1 and records[0].confirms:
        form |= _beside_the_search(records[0], rows, form["notes"])
    if budget is not None:
        form["notes"] = [*form["notes"], budget.note()]
    return table_of(rows, sort_by=sort_by, intervals=intervals if storage is not None else "none", **form)


def _form(records: Sequence[SearchRecord], rows: Sequence[RunRow], *, sort_by: str) -> dict[str, Any]:
    """What a table of these runs has: the first run's wishes, or, over several families, what all of them have."""
    first = records[0]
    for record in records:
        record.check_measured(sort_by)
    notes = [*dict.fromkeys(note for record in records for note in record.notes), *notes_on_all(records, rows)]
    if all(record.family == first.family for record in records):
        return {
            "objective": first.objective,
            "further_objectives": first.further_objectives,
            "directions": {metric: way for record in records for metric, way in record.metrics.items()},
            "optional": {m for record in records for m in record.metrics if any(m not in r.metrics for r in records)},
            "base_row": first.base_row if first.base_row in {row.name for row in rows} else "",
            "group_by": first.group_by,
            "columns": _columns(records),
            "parameters": "all" if first.population else "auto",  # all its rows have names, which say nothing of values
            "measured_by": first.measured_by,
            "drawn_with": first.drawn_with,
            "notes": notes,
        }
    shared = {m: way for m, way in first.metrics.items() if all(m in record.metrics for record in records)}
    shared = {} if shared.keys() <= {"val_loss"} else shared  # families that share no more have losses of their own
    objective = sort_by or first.objective
    if objective not in shared:
        named = ", ".join(f"{record.name} ({record.family})" for record in records)
        have = f"the metrics {', '.join(shared)}: name one with --sort" if shared else "no metric"
        raise BadInput(f"{named} are of several families and have not all {objective!r}; they share {have}.")
    measured_by: dict[str, list[str]] = {}
    for record in records:
        for metric, fields in record.measured_by.items():
            measured_by[metric] = [*dict.fromkeys((*measured_by.get(metric, ()), *fields))]
    wanted = dict.fromkeys((objective, *(name for record in records for name in record.columns)))
    return {
        "objective": objective,
        "directions": shared,
        "group_by": "family",
        "columns": tuple(name for name in wanted if name in shared),
        "parameters": "none",
        "measured_by": measured_by,
        "drawn_with": {metric: text for record in records for metric, text in record.drawn_with.items()},
        "notes": notes,
    }


def _columns(records: Sequence[SearchRecord]) -> tuple[str, ...]:
    """The first run's columns, and what only others were asked to measure."""
    first = records[0]
    others = [name for record in records for name in record.columns if name in record.metrics.keys() - first.metrics]
    usual = first.columns or (first.objective, *(["val_loss"] if "val_loss" in first.metrics else []))
    return tuple(dict.fromkeys((*usual, *others))) if others else first.columns


def _beside_the_search(record: SearchRecord, rows: Sequence[RunRow], notes: Sequence[str]) -> dict[str, Any]:
    """What the search had measured of rows that were trained again, and whether their order is still the same."""
    run, values = record.confirms["run"], record.confirms["values"]
    key = f"search_{record.objective}"
    found = {row.name: row.metrics[record.objective] for row in rows if record.objective in row.metrics}
    before, now = (
        sorted((name for name in found if name in values), key=measured.__getitem__, reverse=record.direction == "max")
        for measured in (values, found)
    )
    order = "; the order is the same" if before == now else f"; the order there was {', '.join(before)}"
    order = order if now else ""
    said = f"{key}: what the run {run} measured, from which these rows were chosen as its best{order}."
    return {"beside": {key: values}, "notes": [*notes, said]}


def best_rows(ledger: Ledger, run: str, *, top: int) -> list[RunRow]:
    """The best configurations of a run that finished, the best first; seeds of one compare by their mean.

    Raises:
        NotFound: there is no such run.
        BadInput: nothing has finished.
    """
    record = ledger.search(run)
    rows = [row for row in fold(rows_of(ledger, run)) if row.state == "finished"]
    ranked = [row for row in rows if math.isfinite(row.metrics.get(record.objective, math.nan))]
    if not ranked:
        raise BadInput(f"no trial of {run!r} has finished: there is nothing to confirm yet.")
    ranked.sort(key=lambda row: row.metrics[record.objective], reverse=record.direction == "max")
    return ranked[:top]


def _of_families(rows: Sequence[RunRow], records: Sequence[SearchRecord]) -> list[RunRow]:
    """Rows of several families with the same fields: those that all have, those that metrics hang on, the family."""
    family = {record.name: record.family for record in records}
    common = set.intersection(*({*row.config} for row in rows))
    measuring = {field for record in records for fields in record.measured_by.values() for field in fields}
    return [
        replace(
            row,
            # A field that is off is as good as one that the family has not.
            config={
                "family": family[row.run.partition(",")[0]],  # several runs' seeds may be one row
                **{key: row.config[key] for key in row.config if key in common - measuring},
                **{key: row.config.get(key) or None for key in sorted(measuring)},
            },
            searched=(),
        )
        for row in rows
    ]


def _with_test(row: RunRow, metrics: Mapping[str, float], warning: str, *, storage: Path | None) -> RunRow:
    named = {f"test_{key}": value for key, value in metrics.items()}
    notes = (*row.notes, *([warning] if warning else []))
    resampled = row.resampled
    tested = read_resamples(storage / row.run / "trials" / row.uid / TEST_RESAMPLES) if storage is not None else None
    if resampled is not None and tested is not None:
        of_test = {f"test_{key}": values for key, values in tested.values.items()}
        resampled = replace(resampled, values={**resampled.values, **of_test})
    return replace(row, metrics={**row.metrics, **named}, notes=notes, resampled=resampled)


def best_trial(ledger: Ledger, run: str) -> TrialRecord:
    """The finished trial with the best objective; of several seeds, the best of the best mean. Pruned ones if none
    finished.

    Raises:
        NotFound: there is no such run.
        BadInput: no trial of it ended with a checkpoint.
    """
    record = ledger.search(run)
    sign = -1.0 if record.direction == "max" else 1.0
    costs: dict[int, list[tuple[bool, float, int]]] = {}
    trials = {trial.number: trial for trial in ledger.trials(run)}
    for number, trial in trials.items():
        best = best_report(ledger.epochs(trial.uid))
        if best is not None and trial.state in ("finished", "pruned"):
            cost = sign * best.metrics[record.objective]
            cost = cost if math.isfinite(cost) else math.inf
            costs.setdefault(number // record.seeds, []).append((trial.state != "finished", cost, number))
    if not costs:
        raise BadInput(f"no trial of {run!r} has finished: there is nothing to promote yet.")

    def of_seeds(seeds: Sequence[tuple[bool, float, int]]) -> tuple[bool, float, int]:
        """A single seed may be lucky: configurations compare by the mean of theirs."""
        state, _, number = min(seeds)
        return state, fmean(cost for cut, cost, _ in seeds if cut == state), number

    return trials[min(min(costs.values(), key=of_seeds))[2]]


def write_summary(ledger: Ledger, run: str, storage: Path, *, remarks: str = "", report: str = "") -> dict[str, Any]:
    """Writes the table and the plots of a run into its folder; returns what the tracker is to be told.

    Args:
        ledger: where the run is.
        run: its name.
        storage: its folder lies there.
        remarks: what its note says beside the table, in Markdown.
        report: name of the page in that folder which tells the whole story; empty: there is none.
    """
    from vltune.figures import learning_curves, metric_against_parameters, pareto_fronts, table_picture
    from vltune.study_plots import study_page

    record, folder = ledger.search(run), storage.absolute() / run / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    shown = table(ledger, [run], storage=storage)
    (folder / "table.md").write_text(as_markdown(shown), encoding="utf-8")
    (folder / "table.csv").write_text(as_csv(shown), encoding="utf-8")
    (folder / "table.tex").write_text(as_latex(shown, label=run), encoding="utf-8")
    (folder / "table.html").write_text(as_html(shown, title=run, about=record.question), encoding="utf-8")
    figures = {"table": table_picture(shown)}
    rows = {row.uid: row for row in rows_of(ledger, run)}
    for metric in dict.fromkeys((record.objective, "val_loss", "train_loss")):
        histories = {
            record.title(trial): [(e.epoch, e.metrics[metric]) for e in ledger.epochs(trial.uid) if metric in e.metrics]
            for trial in ledger.trials(run)
            if trial.uid in rows
        }
        histories = {name: points for name, points in histories.items() if points}
        if histories:
            figures[f"curves_{metric}"] = learning_curves(histories, metric)
    searched = sorted({name for row in rows.values() for name in row.searched})
    if searched and sum(bool(row.metrics) for row in rows.values()) > 1:
        figures[f"parameters_{record.objective}"] = metric_against_parameters(
            list(rows.values()), searched, record.objective
        )
    if record.further_objectives and sum(bool(row.metrics) for row in rows.values()) > 1:
        figures["pareto"] = pareto_fronts(list(rows.values()), record.directions)
    if plots := study_page(ledger.url, run, objectives=record.directions):
        (folder / "study.html").write_text(plots, encoding="utf-8")
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    page = f"{folder.name}/{report}" if report else ""
    return _payload(ledger, record, shown, folder, remarks=remarks, page=page)


def _payload(
    ledger: Ledger, record: SearchRecord, shown: Table, folder: Path, *, remarks: str, page: str
) -> dict[str, Any]:
    trials = ledger.trials(record.name)
    payload: dict[str, Any] = {
        "state": "finished",
        "files": str(folder),
        "table": as_columns(shown),
    }
    best = promote = ""
    if any(trial.state in ("finished", "pruned") for trial in trials):
        winner = best_trial(ledger, record.name)
        report = best_report(ledger.epochs(winner.uid))
        assert report is not None, "a best trial has a best epoch"
        payload["best"] = dict(report.metrics)
        value = report.metrics[record.objective]
        if "parameters" in report.metrics:  # captions that another program wrote are no model
            promote = f"vltune promote {record.name}{space_flag(record.space)}"
        best = f"{winner.row or winner.uid} (`{winner.uid}`) with {record.objective} {value:.4g}"
    payload["note"] = search_note(
        question=record.question,
        objective=", ".join(record.directions),
        trials=Counter(trial.state for trial in trials),
        best=best,
        table=as_markdown(folded(shown)),  # MLflow cuts off what is wider than its page
        remarks=remarks,
        report=page,
        promote=promote,
    )
    return payload
