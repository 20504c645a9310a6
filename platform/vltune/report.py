"""The report of a search: one HTML file, which needs no other and no network, for people who do not program."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from vltune import report_pieces as pieces
from vltune.compare import Table
from vltune.contract import Data, Direction, Family
from vltune.errors import BadInput
from vltune.exhibition import Exhibition, exhibit, open_data
from vltune.findings import Findings, gather, plain
from vltune.forms import amount
from vltune.ledger import Ledger
from vltune.pages import html_table
from vltune.report_answer import answer, numbers
from vltune.report_plots import drawings, modules, plots
from vltune.report_space import configuration, space
from vltune.screen import space_flag, storage_flag
from vltune.space import Description
from vltune.summary import table

REPORT = "report.html"
_MODELS = 4
"""Models in a gallery of a single run."""


@dataclass(frozen=True)
class Report:
    """What was written, and the numbers that it begins with."""

    path: Path
    runs: Mapping[str, Any]
    """Run -> state, counts of trials, the best trial with its objective, interval and p-value."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a report is made from beside the ledger and the storage folder."""

    families: Mapping[str, type[Family]]
    """Those of the runs; pictures are shown of those that are here."""
    spaces: Mapping[str, Description] = field(default_factory=dict)
    """Run -> its space, where that is known."""
    data: str | None = None
    """Where the data lies now; None: where it was."""


def write_report(
    ledger: Ledger,
    runs: Sequence[str],
    *,
    storage: Path,
    sources: Sources,
    out: Path | None = None,
    ended: bool = False,
) -> Report:
    """Writes the page, also of a run that goes on or has failed.

    Args:
        ledger: where the runs are.
        runs: their names; of several, on the same data, the first one's objective orders the table.
        storage: folder of the runs.
        sources: families, spaces and data.
        out: the file; None: in the first run's folder ``comparison``.
        ended: whether the runs have come to their end, whatever the ledger says as yet.

    Raises:
        NotFound: there is no such run.
        BadInput: the runs do not compare, or the file cannot be written.
    """
    kinds = [sources.families.get(ledger.search(run).family) for run in dict.fromkeys(runs)]
    found = [
        gather(ledger, run, storage, family=family, ended=ended)
        for run, family in zip(dict.fromkeys(runs), kinds, strict=True)
    ]
    shown = _table(ledger, found, storage)
    # What is said of a run is its own: beside others its rows may be folded, and its p-values of another base row.
    own = {f.record.name: _table(ledger, [f], storage) if len(found) > 1 else shown for f in found}
    opened = {f.record.name: _opened(f, storage, sources) for f in found}
    text = _page(ledger, found, shown, own, opened, storage=storage, sources=sources)
    names = "-".join(f.record.name for f in found[1:])[:100]
    file = REPORT if not names else f"report-with-{names}.html"
    path = out or storage / found[0].record.name / "comparison" / file
    try:
        if out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--out {path}: it cannot be written ({error.strerror}); choose another file.") from error
    return Report(path, {f.record.name: numbers(f, own[f.record.name]) for f in found})


def _table(ledger: Ledger, found: Sequence[Findings], storage: Path) -> Table | None:
    """The comparison; None before anything was configured."""
    started = [f.record.name for f in found if f.rows]
    return table(ledger, started, storage=storage) if started else None


def _opened(found: Findings, storage: Path, sources: Sources) -> tuple[Data | None, str]:
    family = sources.families.get(found.record.family)
    if family is None:
        return None, f"the family {found.record.family} is not among those that vltune brings"
    config = found.best.config if found.best else next((row.config for row in found.rows), None)
    if config is None:
        return None, "no trial has been configured"
    return open_data(family, found.record, config, storage=storage, data=sources.data)


def _page(
    ledger: Ledger,
    found: Sequence[Findings],
    shown: Table | None,
    own: Mapping[str, Table | None],
    opened: Mapping[str, tuple[Data | None, str]],
    *,
    storage: Path,
    sources: Sources,
) -> str:
    several = len(found) > 1
    names = [f.record.name for f in found]

    def each(make: Callable[[Findings], str], level: int = 3) -> str:
        """A part of every run; of several, each below its name."""
        parts = [(f.record.name, make(f)) for f in found]
        heads = [f"<h{level}>Run {escape(name)}</h{level}>\n" if several else "" for name, _ in parts]
        return "\n".join(head + body for head, (_, body) in zip(heads, parts, strict=True) if body)

    question = found[0].record.question or f"What came of {found[0].record.name}?"
    head = (
        f'<p class="eyebrow">vltune report · {"runs" if several else "run"} {escape(", ".join(names))} · '
        f"{time.strftime('%d %B %Y, %H:%M', time.localtime())}</p>\n"
        f"<h1>{escape(question if not several else f'{len(found)} runs on the same data, side by side')}</h1>\n"
    )
    head += each(lambda f: answer(f, own[f.record.name], several=several), level=2)
    gallery = gallery_of(ledger, found, storage=storage, data={name: data for name, (data, _) in opened.items()})
    described = {name: sources.spaces.get(name) for name in names}
    families = {f.record.name: sources.families.get(f.record.family) for f in found}
    sections = [
        ("data", "The question and the data", each(lambda f: _data(f, *opened[f.record.name], several=several))),
        ("space", "What was tried", each(lambda f: space(f, described[f.record.name], families[f.record.name]))),
        ("table", "All results", _results(shown)),
        ("plots", "How it went", each(lambda f: plots(ledger, f))),
        ("gallery", "What the models say", _gallery(gallery)),
        ("best", "Inside the best trial", each(lambda f: drawings(f, storage, captions=gallery is None))),
        ("model", "The model and its configuration", each(lambda f: _model(f, storage, families[f.record.name]))),
        ("again", "Do it again, and use it", each(lambda f: _again(f, storage, families[f.record.name]))),
    ]
    foot = "This page needs no network and no other file. All numbers are those of the run's ledger."
    title = f"{', '.join(names)} – vltune report"
    return pieces.page(title=title, head=head, sections=sections, foot=foot)


# -- data, table, gallery


def _data(found: Findings, data: Data | None, trouble: str, *, several: bool) -> str:
    record = found.record
    entries = [("folder", f"<code>{escape(record.data)}</code>", "")]
    if data is not None:
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
        entries = [("name", escape(data.name), ""), *entries, ("samples", escape(sizes), "")]
    else:
        entries.append(("samples", "not known", f"The data could not be opened: {trouble}."))
    entries.append(("hash", f"<code>{escape(record.data_hash[:16])}…</code>", "Equal hashes mean equal data."))
    goals = [
        (name, "higher is better" if way == "max" else "lower is better", _meaning(name, found))
        for name, way in record.directions.items()
    ]
    asked = f"<p>{pieces.words(record.question)}</p>" if several and record.question else ""
    asked += "<p>What the search was after:</p>" + pieces.facts([(n, escape(w), about) for n, w, about in goals])
    return asked + "<p>The data that it was trained and judged on:</p>" + pieces.facts(entries) + _notes(record.notes)


def _meaning(metric: str, found: Findings) -> str:
    return found.explained.get(metric, "")


def _notes(notes: Sequence[str]) -> str:
    return pieces.listed(notes, kind="notes")


def _results(shown: Table | None) -> str:
    if shown is None:
        return "<p>No trial has been started yet.</p>"
    read = (
        "<p>One row for each configuration, the best first. What has to be known about the numbers stands below the "
        "table.</p>"
    )
    return read + html_table(shown)


def gallery_of(
    ledger: Ledger,
    found: Sequence[Findings],
    *,
    storage: Path,
    data: Mapping[str, Data | None],
    of_each: int = 3,
) -> Exhibition | None:
    """The same pictures as the best rows caption them: of one run its best, its base row and the best of its groups, of
    several runs the best of each. Of many groups the best ones are shown, and a note names the others.

    Args:
        ledger: where the runs are.
        found: the runs.
        storage: folder of the runs.
        data: run -> its data; None: gone.
        of_each: pictures of each kind.
    """
    models, left_out = {}, []
    if len(found) == 1:
        (one,) = found
        roles = [("best", one.best), ("base row", one.first_seen(one.record.base_row))]
        groups = one.best_of_groups()
        roles += [(f"best with {one.record.group_by}={group}", trial) for group, trial in groups.items()]
        for role, trial in roles:
            if trial is not None and trial.uid not in {known.uid for known in models.values()}:
                models[f"{one.record.title(trial)} ({role})"] = trial
        models, left_out = dict([*models.items()][:_MODELS]), [*models][_MODELS:]
    else:
        models = {f"{f.record.name}: {f.record.title(f.best)}": f.best for f in found if f.best is not None}
    if not models:
        return None
    first = found[0].record
    known: dict[str, Direction] = {name: way for f in found for name, way in f.record.metrics.items()}
    ordered: dict[str, Direction] = {
        name: known[name] for name in dict.fromkeys((*first.columns, *known)) if name in known
    }
    opened = next((data[f.record.name] for f in found if data.get(f.record.name) is not None), None)
    shown = exhibit(
        ledger, models, storage=storage, objective=first.objective, metrics=ordered, data=opened, of_each=of_each
    )
    if shown is None or not left_out:
        return shown
    note = f"No more than {_MODELS} models are shown. Left out, because others were better: {', '.join(left_out)}."
    return replace(shown, notes=(*shown.notes, note))


def _gallery(shown: Exhibition | None) -> str:
    if shown is None:
        return ""
    several = len(shown.models) > 1
    score = f"the mean `{shown.metric}` of the captions of a picture" if several else f"its caption's `{shown.metric}`"
    by = f"They are ordered by {score}." if shown.metric else ""
    who = "several models caption" if several else "the model captions"
    what = "The same validation pictures" if several else "Validation pictures"
    read = f"{what} as {who} them, chosen from {shown.pictures:,} so that one sees the good and the bad. {by}"
    return f"<p>{pieces.words(read)}</p>\n{pieces.gallery(shown)}"


# -- the model, and what to do with it


def _model(found: Findings, storage: Path, family: type[Family] | None) -> str:
    if found.best is None:
        return ""
    row = next(row for row in found.rows if row.uid == found.best.uid)
    size = f"<p>“{escape(found.record.title(found.best))}”, of the family <code>{escape(found.record.family)}</code>"
    size += f", has {amount(row.parameters)} parameters.</p>" if row.parameters else ".</p>"
    return size + (modules(found, storage) if row.parameters else "") + configuration(found, family)


def _again(found: Findings, storage: Path, family: type[Family] | None) -> str:
    record, flag = found.record, storage_flag(storage)
    if found.best is None:
        return pieces.command(f"vltune resume {record.name}{flag}", "Go on with the search:") if found.trials else ""
    best, model = found.best, f"{record.search}@champion"
    config = best.config
    parts = []
    if not found.promotable:
        beside = f"vltune report {record.name} RUN{flag}"
        parts.append(
            pieces.command(
                beside,
                "These captions were written elsewhere: there is no model to train again or to promote. Put them "
                "beside models of the same data, with the name of their run in place of `RUN`:",
            )
        )
    else:
        flags = space_flag(record.space) + flag
        again = (
            "Train the best trial again, from its record: on a CPU with as many threads the weights come out the same."
        )
        parts.append(pieces.command(f"vltune rerun {best.uid}{flag}", again))
        if found.confirmable:
            confirms = f"vltune confirm {record.name} --top 3 --seeds 5{flag}"
            parts.append(pieces.command(confirms, "Is the best really the best?"))
        keeps = "Score the best model on the test split, once, and keep it under a name:"
        parts.append(pieces.command(f"vltune promote {record.name}{flags}", keeps))
        looks = f"vltune predict {model} PICTURE.jpg{flags}"
        parts.append(pieces.command(looks, "Then use it, with your own picture in place of `PICTURE.jpg`:"))
        if family is not None and family.rank is not Family.rank:
            asks = f'vltune predict {model} "a dog in the snow" --among FOLDER --top 3{flags}'
            parts.append(pieces.command(asks, "Or let it find the pictures of a folder that fit a text:"))
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    entries = [
        ("run", escape(record.name), ""),
        ("trial", escape(best.uid), ""),
        (
            "seed",
            escape(plain(config.get("seed", record.seed))),
            "Of the trial. The search's own seed chose what to try.",
        ),
        ("search seed", escape(str(record.seed)), ""),
        ("data hash", f"<code>{escape(record.data_hash)}</code>", ""),
        ("threads", escape(str(record.threads or "as many as there were")), "Of each worker."),
        ("versions", escape(versions) or "not recorded", ""),
    ]
    if found.checkpoint is None and found.promotable:
        lost = "The best checkpoint is gone: train the trial again before promoting it."
        parts.insert(0, f"<p>{lost}</p>")
    if found.checkpoint is not None:
        entries.append(("checkpoint", f"<code>{escape(str(found.checkpoint))}</code>", ""))
    return "".join(parts) + pieces.facts(entries)
