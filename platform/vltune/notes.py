"""What a person reads on the page of a run: Markdown from plain values."""

from collections.abc import Mapping, Sequence

LONGEST = 7900
"""Characters of a note; MLflow stores 8000."""

RUN_ID, EXPERIMENT_ID = "{run_id}", "{experiment_id}"
"""What stands in a note for the ids of MLflow's run, which only MLflow knows."""

_PICTURES = 4


def search_note(
    *,
    question: str,
    objective: str,
    trials: Mapping[str, int] | None = None,
    best: str = "",
    table: str = "",
    remarks: str = "",
    report: str = "",
    promote: str = "",
) -> str:
    """The note of a search.

    Args:
        question: what the search asks.
        objective: the metric that it optimises.
        trials: state -> how many trials ended in it; empty while the search runs.
        best: the best row, in one line.
        table: the comparison in Markdown. Its last rows are left out where the note would grow too long.
        remarks: more Markdown.
        report: path of the artifact that tells the whole story, a page; empty: there is none.
        promote: the command that promotes the best model; empty: there is no model.
    """
    parts = [question]
    if report:
        # First, because MLflow folds a note after a few lines. It sends HTML as a file to keep; its tab of artifacts
        # shows the page in place.
        page = f"#/experiments/{EXPERIMENT_ID}/runs/{RUN_ID}/artifacts/{report}?workflowType=machine_learning"
        kept = f"get-artifact?path={report}&run_uuid={RUN_ID}"
        parts = [f"**[Read the report]({page})**, with pictures and plots, or [keep it as a file]({kept}).", question]
    if trials:
        states = ", ".join(f"{count} {state}" for state, count in trials.items())
        parts.append(f"**{sum(trials.values())} trials:** {states}. Objective: `{objective}`.")
    else:
        parts.append(f"The search is running. Objective: `{objective}`.")
    if best:
        parts.append(f"**Best:** {best}")
    end = [remarks] if remarks else []
    if trials:
        end.append(
            "The table with all rows (HTML, Markdown, LaTeX, CSV, picture) is under *Artifacts*, in `comparison`."
        )
    if promote:
        end.append(f"Promote the best model: `{promote}`. Train one row again: `vltune rerun UID`.")
    room = LONGEST - len("\n\n".join([*parts, *end])) - 100
    if table:
        parts.append(_shorten(table.strip(), room))
    return "\n\n".join([*parts, *end])


def trial_note(
    *,
    uid: str,
    state: str,
    searched: Mapping[str, object],
    best_epoch: int | None = None,
    metrics: Mapping[str, float] | None = None,
    captions: Mapping[str, str] | None = None,
    figures: Mapping[str, str] | None = None,
    remarks: str = "",
    error: str = "",
    picture_url: str = "",
) -> str:
    """The note of a trial.

    Args:
        uid: the trial's.
        state: how it ended.
        searched: the values that the sampler chose.
        best_epoch: the epoch that counts.
        metrics: its metrics.
        captions: path of a picture -> what the model said of it.
        figures: path of a figure -> what it shows.
        remarks: more Markdown.
        error: why it failed.
        picture_url: address of a picture with ``{}`` for its path; empty shows paths only.
    """
    where = f", best epoch {best_epoch}" if best_epoch is not None else ""
    parts = [f"Trial `{uid}`: **{state}**{where}. Train it again: `vltune rerun {uid}`."]
    if error:
        parts.append(f"**Error:** {error}")
    if shown := list((captions or {}).items())[:_PICTURES]:
        # MLflow folds a note after a few lines: the pictures come first.
        heads = [_picture(path, picture_url) for path, _ in shown]
        said = [_cell(text)[:300] for _, text in shown]
        parts.append("\n".join([_row(heads), _row(["---"] * len(shown)), _row(said)]))
    if remarks:
        parts.append(remarks)
    if searched:
        parts.append(_pairs("searched", {key: _short(value) for key, value in searched.items()}))
    for path, text in (figures or {}).items():  # a figure that is seen says itself how to read it
        parts.append(_picture(path, picture_url) if picture_url else f"{_picture(path, '')}: {_cell(text)}")
    if metrics:  # last: MLflow shows them itself
        parts.append(_pairs("metric", {key: _short(value) for key, value in metrics.items()}))
    return _shorten("\n\n".join(parts), LONGEST)


def _picture(path: str, url: str) -> str:
    return f"![{path}]({url.format(path)})" if url else f"`{path}`"


def _short(value: object) -> str:
    """A number as people read it; everything else as it is."""
    text = str(value)
    try:
        number = float(text)
    except ValueError:
        return text
    if number.is_integer() and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.4g}"


def _pairs(title: str, values: Mapping[str, object]) -> str:
    rows = [_row([key, _cell(str(value))]) for key, value in values.items()]
    return "\n".join([_row([title, "value"]), _row(["---", "---"]), *rows])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shorten(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    lines = text.split("\n")
    kept = 0
    while kept < len(lines) and len("\n".join(lines[: kept + 1])) <= room:
        kept += 1
    return "\n".join(lines[:kept]) + f"\n\n({len(lines) - kept} more lines are left out here.)"
