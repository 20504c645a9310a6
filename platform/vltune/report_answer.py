"""What a report begins with: the answer in words, a few great numbers, and what to be careful with."""

import math
from typing import Any

from vltune import report_pieces as pieces
from vltune.compare import Table
from vltune.contract import is_better
from vltune.findings import Findings, Verdict, cautions, plain, verdict
from vltune.forms import duration, spread_texts, texts_of

_SETTINGS = 4
"""Settings by which a sentence tells an unnamed trial from others."""


def _p_value(found: Findings, shown: Table | None) -> float | None:
    """The best row's p-value in the run's own table, which is corrected for the number of its rows."""
    row = found.row(found.best)
    if shown is None or row is None or "p_value" not in [column.key for column in shown.columns]:
        return None
    own = dict(zip((r.uid for r in shown.rows), shown.column("p_value"), strict=True)).get(row.uid)
    return own if isinstance(own, float) else None


def numbers(found: Findings, shown: Table | None) -> dict[str, Any]:
    """What ``--json`` says of a run: its state, trials, and what is best: a configuration, with the trial of it that
    promotion would take. Values are the means over so many seeds as have finished.

    Args:
        found: the run.
        shown: its own table; None: nothing was configured yet.
    """
    said = verdict(found, p=_p_value(found, shown))
    best = None
    row = found.row(found.best)
    if said is not None and found.best is not None and row is not None:
        best = {
            "uid": found.best.uid,
            "name": row.name or row.uid,
            "seeds": max(1, len(row.seeds)),
            "objective": found.record.objective,
            "value": said.value,
            "interval": said.bounds,
            "p": said.p,
            "significant": said.significant,
        }
    return {"state": found.state, "trials": dict(found.counts), "best": best}


def answer(found: Findings, shown: Table | None, *, several: bool) -> str:
    """The beginning of the page, for one run.

    Args:
        found: the run.
        shown: its own table; None: nothing was configured yet.
        several: whether the page tells of other runs too.
    """
    record, row = found.record, found.row(found.best)
    said = verdict(found, p=_p_value(found, shown))
    entries = []
    lines = []
    if said is None or found.best is None or row is None:
        lines.append("There is no answer yet: no trial has ended with a checkpoint.")
    else:
        value, spread = _as_in_table(found, shown)
        metric = f"`{record.objective}`"
        sure = (
            f" (95\u00a0% interval {spread})" if spread.startswith("[") else f" ({spread} over seeds)" if spread else ""
        )
        name, alone = f"{_named(row.name or row.uid)}{_settings(found)}", len(found.folded) == 1
        if alone and not found.promotable:
            lines.append(f"{name}: captions that were made elsewhere, scored here: {metric} {value}{sure}.")
        else:
            lines.append(f"{name} is the best: {metric} {value}{sure}.")
        if not math.isnan(said.base):
            how = {
                True: "a significant difference",
                False: "not a significant difference",
                None: "how sure, is unknown",
            }
            p = "" if said.p is None else f" (p {'< 0.001' if said.p < 0.001 else f'= {said.p:.3f}'})"
            beside = f"{_named(record.base_row)}" + (f", which has {said.base:.4g}" if said.percent is None else "")
            lines.append(f"That is {_difference(found, said)} than the base row, {beside}: {how[said.significant]}{p}.")
        elif found.base is not None and not alone:
            lines.append("That is the base row itself: nothing that was tried did better.")
        entries.append((record.objective, value, spread))
    state = {"running": "The search is still running: all of this may change.", "interrupted": _interrupted(found)}
    entries += [("trials", str(len(found.trials)), _counts(found)), ("time", duration(found.seconds), _spent(found))]
    if found.best is not None:
        short = record.title(found.best) if found.best.row else f"trial {found.best.number}"
        epoch = f", best epoch {_best_epoch(found)}" if len(found.epochs[found.best.uid]) > 1 else ""
        entries.append(("best trial", short, f"{found.best.uid}{epoch}"))
    lead = " ".join(filter(None, [state.get(found.state, ""), *lines]))
    care = cautions(found, said)
    level = "h3" if several else "h2"
    box = f'<div class="care"><{level}>Read this with care</{level}>{pieces.listed(care)}</div>' if care else ""
    return f'<p class="lead">{pieces.words(lead)}</p>\n{pieces.tiles(entries)}\n{box}'


def _difference(found: Findings, said: Verdict) -> str:
    """How much better the best row is; of a base row that scored 0 there is no per cent."""
    if said.percent is None:
        better = is_better(said.value, said.base, found.record.direction)
        return "better" if better else "no better"
    return f"{abs(said.percent):.0f} % {'better' if said.percent >= 0 else 'worse'}"


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
