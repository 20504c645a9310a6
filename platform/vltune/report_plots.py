"""The plots of a report, and what the best trial left to look at."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from vltune import report_pieces as pieces
from vltune.compare import COMPETING
from vltune.contract import RunRow
from vltune.figures import metric_against_parameters, pareto_fronts
from vltune.findings import Findings, ranked
from vltune.illustrations import FIGURES, FOLDER, INDEX, MODULES
from vltune.inline import figure_uri
from vltune.ledger import Ledger
from vltune.report_figures import NARROW, WIDE, curves, history, series
from vltune.study_plots import FEWEST, importances, study_page
from vltune.summary import trial_folder
from vltune.vectors import inline_svg

_CAPTIONS = "captions.png"


def plots(ledger: Ledger, found: Findings) -> str:
    """History, learning curves, importances, the objective against each parameter, front, times; and Optuna's own."""
    record = found.record
    if not any(found.epochs.values()):
        return "<p>No trial has ended an epoch yet: there is nothing to plot.</p>" if found.trials else ""
    parts = [_history(found), *_curves(found)]
    shares = importances(ledger.url, record.name, objectives=record.directions)
    for objective, share in shares.items():
        parts.append(
            f"<h3>What decides <code>{escape(objective)}</code></h3><p class='read'>How much each setting decides "
            "whether a trial is among the better ones. With few trials this is a hint and no more.</p>"
            + pieces.bars(share)
        )
    parts += [_against(found, [*shares.get(record.objective, {})]), _front(found), _times(found)]
    page = study_page(ledger.url, record.name, objectives=record.directions)
    if page:
        summary = "Interactive plots of the search (Optuna): point at them for values"
        parts.append(pieces.inner_page(summary, page, title=f"Optuna's plots of {record.name}"))
    elif record.num_trials >= FEWEST:
        parts.append(
            f"<p class='read'>Optuna's interactive plots come with {FEWEST} finished trials that were not pruned.</p>"
        )
    return "\n".join(filter(None, parts))


def _history(found: Findings) -> str:
    record, base = found.record, found.base
    values = []
    for trial in found.trials:
        row = next((row for row in found.rows if row.uid == trial.uid), None)
        value = row.metrics.get(record.objective, math.nan) if row else math.nan
        if math.isfinite(value):
            values.append((trial.number, value, found.state_of(trial)))
    if len(values) < 2:
        return ""
    level = base.metrics[record.objective] if base else math.nan
    marks = [("a finished trial", "var(--c0)", "dot"), ("the best so far", "var(--c1)", "line")]
    marks += (
        [("a trial that was stopped, pruned or still runs", "var(--faint)", "cross")] if _unfinished(values) else []
    )
    marks += [(f"the base row, {record.base_row}", "var(--faint)", "dashes")] if base else []
    text = f"{record.objective} of {len(values)} trials in the order in which they began"
    drawn = [
        inline_svg(
            history(values, record.objective, record.direction, base=level, width=width),
            name=f"history{kind}{record.name}",
            text=text,
            kind=kind,
        )
        for kind, width in (("wide", WIDE), ("narrow", NARROW))
    ]
    reads = "Each trial's value, in the order in which trials began."
    return pieces.plot("The way to the best", reads, drawn, pieces.legend(marks))


def _unfinished(values: Sequence[tuple[int, float, str]]) -> bool:
    return any(state != "finished" for _, _, state in values)


def _curves(found: Findings) -> list[str]:
    """The objective at full width; the losses, which say whether more training would help, side by side below."""
    record = found.record
    first, *losses = dict.fromkeys((record.objective, "val_loss", "train_loss"))
    parts = [_curve(found, first, (("wide", WIDE), ("narrow", NARROW)))]
    beside = [part for metric in losses if (part := _curve(found, metric, (("", NARROW),)))]
    return parts + (
        [f'<div class="panels two">{"".join(f"<div>{part}</div>" for part in beside)}</div>'] if beside else []
    )


def _curve(found: Findings, metric: str, widths: Sequence[tuple[str, float]]) -> str:
    """The learning curves of all trials, the best ones named; an empty text where nobody has it for two epochs."""
    record = found.record
    order = [row.uid for row in ranked(found.rows, record.objective, record.direction)]
    order += [trial.uid for trial in found.trials if trial.uid not in order]
    titles = {trial.uid: record.title(trial) for trial in found.trials}
    histories: dict[str, list[tuple[int, float]]] = {}
    for uid in order:
        points = [(e.epoch, e.metrics[metric]) for e in found.epochs[uid] if metric in e.metrics]
        points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        if points:
            # Segments of a population may share a name.
            histories[titles[uid] if titles[uid] not in histories else f"{titles[uid]} ({uid})"] = points
    if all(len(points) < 2 for points in histories.values()):  # also where there are none
        return ""
    text = f"{metric} of {len(histories)} trials after each epoch"
    drawn = [
        inline_svg(
            curves([*histories.values()], metric, width=width),
            name=f"curves{metric}{kind}{record.name}",
            text=text,
            kind=kind,
        )
        for kind, width in widths
    ]
    way = record.metrics.get(metric, "min")
    reads = f"After each epoch; {'higher' if way == 'max' else 'lower'} is better."
    reads = f"{found.explained[metric]} {reads}" if metric in found.explained else reads
    return pieces.plot(f"Learning curves: {metric}", reads, drawn, pieces.legend(series(histories)))


def _against(found: Findings, ranked_names: Sequence[str]) -> str:
    """A panel for each setting, those that matter most first."""
    metric = found.record.objective
    rows = [row for row in found.folded if math.isfinite(row.metrics.get(metric, math.nan))]
    names = sorted({name for row in rows for name in row.searched})
    names = [name for name in names if len({repr(row.config[name]) for row in rows if name in row.searched}) > 1]
    names.sort(key=lambda name: ranked_names.index(name) if name in ranked_names else len(ranked_names))
    if len(rows) < 2 or not names:
        return ""
    panels = "".join(f'<figure class="plot">{_panel(found, rows, name)}</figure>' for name in names)
    reads = "A point for each trial. A line is the median of the trials that share a value."
    return (
        f"<h3><code>{escape(metric)}</code> against each setting</h3><p class='read'>{reads}</p>"
        f'<div class="panels">{panels}</div>'
    )


def _panel(found: Findings, rows: Sequence[RunRow], name: str) -> str:
    figure = metric_against_parameters(rows, [name], found.record.objective)
    figure.set_size_inches(3.4, 2.7)
    text = f"{found.record.objective} against {name}"
    return inline_svg(figure, name=f"against{name}{found.record.name}", text=text)


def _front(found: Findings) -> str:
    directions = found.record.directions
    rows = [
        r
        for r in found.folded
        if r.state in COMPETING and all(math.isfinite(r.metrics.get(m, math.nan)) for m in directions)
    ]
    if len(directions) < 2 or len(rows) < 2:
        return ""
    text = f"Pareto front of {', '.join(directions)}"
    drawn = [inline_svg(pareto_fronts(rows, directions), name=f"front{found.record.name}", text=text)]
    reads = (
        "Filled points are on the front: no other trial is better in one objective and as good in the others. Choose "
        "one of them by how much each objective matters."
    )
    return pieces.plot("The front", reads, drawn)


def _times(found: Findings) -> str:
    trials = [trial for trial in found.trials if trial.uid in found.times]
    spans = [(found.record.title(trial), found.state_of(trial), *found.times[trial.uid]) for trial in trials]
    reads = "From the first start to the last word of each trial."
    return f"<h3>When each trial ran</h3><p class='read'>{reads}</p>{pieces.timeline(spans)}" if spans else ""


def drawings(found: Findings, storage: Path, *, captions: bool) -> str:
    """What the best trial drew of itself.

    Args:
        found: the run.
        storage: folder of the runs.
        captions: whether its own gallery of captions is shown too; not beside one of several models.
    """
    if found.best is None:
        return ""
    folder = trial_folder(storage, found.best) / FOLDER / FIGURES
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        why = "a pruned trial draws nothing" if found.best.state == "pruned" else "they are gone"
        return f"<p>There are no drawings of {escape(found.record.title(found.best))}: {why}.</p>"
    parts = [_drawing(folder, entry) for entry in index if captions or entry["file"] != _CAPTIONS]
    head = f"<p>What “{escape(found.record.title(found.best))}” drew of itself, with the weights of its best epoch.</p>"
    return head + "\n".join(parts) if parts else ""


def _drawing(folder: Path, entry: Mapping[str, str | int]) -> str:
    title, reads = str(entry["title"]), str(entry["reads"])
    try:
        uri, width, height = figure_uri(folder / Path(str(entry["file"])).name, head=int(entry.get("head", 0)))
    except OSError:
        return f"<h3>{escape(title)}</h3><p>The file {escape(str(entry['file']))} is gone.</p>"
    return pieces.drawing(uri, width=width, height=height, title=title, reads=reads)


def modules(found: Findings, storage: Path) -> str:
    """The tree of the best trial's modules, folded."""
    assert found.best is not None, "the modules are those of the best trial"
    try:
        tree = (trial_folder(storage, found.best) / FOLDER / MODULES).read_text(encoding="utf-8")
    except OSError:
        return ""
    return pieces.folded("All its modules, with shapes and parameters", f'<pre tabindex="0">{escape(tree)}</pre>')
