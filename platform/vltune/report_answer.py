"""What a report begins with: the answer in words, a few great numbers, and what to be careful with."""

from typing import Any

from vltune import report_pieces as pieces
from vltune.compare import Table
from vltune.findings import Findings, cautions, plain, verdict
from vltune.forms import duration, spread_texts, texts_of

_SETTINGS = 4
"""Settings by which a sentence tells an unnamed trial from others."""


def _p_value(found: Findings, shown: Table | None) -> float | None:
    """The best row's p-value in the table, which is corrected for the number of rows."""
    row = found.row(found.best)
    if shown is None or row is None or "p_value" not in [column.key for column in shown.columns]:
        return None
    own = dict(zip((r.uid for r in shown.rows), shown.column("p_value"), strict=True)).get(row.uid)
    return own if isinstance(own, float) else None


def numbers(found: Findings, shown: Table | None) -> dict[str, Any]:
    """What ``--json`` says of a run: its state, trials, and best trial."""
    said = verdict(found, p=_p_value(found, shown))
    best = None
    if said is not None and found.best is not None:
        best = {
            "uid": found.best.uid,
            "name": found.record.title(found.best),
            "objective": found.record.objective,
            "value": said.value,
            "interval": said.bounds,
            "p": said.p,
            "significant": said.significant,
        }
    return {"state": found.state, "trials": dict(found.counts), "best": best}


def answer(found: Findings, shown: Table | None, *, several: bool) -> str:
    """The beginning of the page, for one run."""
    record = found.record
    said = verdict(found, p=_p_value(found, shown))
    entries = []
    lines = []
    if said is None or found.best is None:
        lines.append("There is no answer yet: no trial has ended with a checkpoint.")
    else:
        value, spread = _as_in_table(found, shown)
        name = record.title(found.best)
        metric = f"`{record.objective}`"
        sure = (
            f" (95\u00a0% interval {spread})" if spread.startswith("[") else f" ({spread} over seeds)" if spread else ""
        )
        lines.append(f"{_named(name)}{_settings(found)} is the best: {metric} {value}{sure}.")
        if said.percent is not None:
            how = {
                True: "a significant difference",
                False: "not a significant difference",
                None: "how sure, is unknown",
            }
            p = "" if said.p is None else f" (p {'< 0.001' if said.p < 0.001 else f'= {said.p:.3f}'})"
            way = "better" if said.percent >= 0 else "worse"
            lines.append(
                f"That is {abs(said.percent):.0f} % {way} than the base row, {_named(record.base_row)}: "
                f"{how[said.significant]}{p}."
            )
        elif found.base is not None:
            lines.append("That is the base row itself: nothing that was tried did better.")
        entries.append((record.objective, value, spread))
    state = {"running": "The search is still running: all of this may change.", "interrupted": _interrupted(found)}
    entries += [("trials", str(len(found.trials)), _counts(found)), ("time", duration(found.seconds), _spent(found))]
    if found.best is not None:
        short = found.best.row or f"trial {found.best.number}"
        entries.append(("best trial", short, f"{found.best.uid}, best epoch {_best_epoch(found)}"))
    lead = " ".join(filter(None, [state.get(found.state, ""), *lines]))
    care = cautions(found, said)
    level = "h3" if several else "h2"
    box = f'<div class="care"><{level}>Read this with care</{level}>{pieces.listed(care)}</div>' if care else ""
    return f'<p class="lead">{pieces.words(lead)}</p>\n{pieces.tiles(entries)}\n{box}'


def _settings(found: Findings) -> str:
    """What an unnamed trial is, in a few of its settings."""
    best = found.best
    if best is None or best.row:
        return ""
    shown = [f"{key} {plain(best.config[key])}" for key in best.searched if key in best.config]
    more = ", …" if len(shown) > _SETTINGS else ""
    return f" ({', '.join(shown[:_SETTINGS])}{more})".replace("`", "'") if shown else ""


def _named(name: str) -> str:
    """A name in a sentence, whatever signs it holds."""
    return f"“{name.replace('`', chr(39))}”"


def _as_in_table(found: Findings, shown: Table | None) -> tuple[str, str]:
    """The best row's objective and how sure it is, letter by letter as the table has them."""
    row = found.row(found.best)
    assert row is not None, "a best trial has a row"
    assert shown is not None, "a row makes a table"
    keys = [column.key for column in shown.columns]
    place = [r.uid for r in shown.rows].index(row.uid)
    if found.record.objective not in keys:
        return f"{row.metrics[found.record.objective]:.4g}", ""
    text = texts_of(shown, spreads=False)[place][keys.index(found.record.objective)]
    return text, spread_texts(shown).get((place, found.record.objective), "")


def _interrupted(found: Findings) -> str:
    return (
        "The search was interrupted before its end: what follows is of the trials that were trained so far. Go on with "
        f"`vltune resume {found.record.name}`."
    )


def _counts(found: Findings) -> str:
    planned = found.record.num_trials * found.record.seeds
    states = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    return states + (f"; {planned} planned" if planned > len(found.trials) else "")


def _spent(found: Findings) -> str:
    return f"{duration(sum(row.seconds for row in found.rows))} of training and evaluation"


def _best_epoch(found: Findings) -> str:
    row = next(row for row in found.rows if found.best is not None and row.uid == found.best.uid)
    return f"{row.best_epoch:g} of {row.config.get('epochs', row.epochs)}"
