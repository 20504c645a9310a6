"""Optuna's own plots of a study, as one page that opens offline."""

import html
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import TrialState

from vltune.contract import Direction

FEWEST = 4
"""Trials with a score from which on there is something to plot."""
_SHOWN = 6
"""Parameters in plots that have a panel for each; of more, the most important ones."""
_PAIRED = 3
"""Parameters in plots that have a panel for each pair."""

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
h1{{font-size:1.5rem}}h2{{font-size:1.1rem;margin:2.2rem 0 .2rem}}p{{margin:.2rem 0 .6rem;opacity:.8}}
div.figure{{background:#fff;border-radius:8px;overflow:auto;padding:.3rem}}
</style><h1>{title}</h1><p>{intro}</p>{sections}</html>
"""


@dataclass(frozen=True)
class _Plot:
    title: str
    reads: str
    draw: Callable[[], Any]


def study_page(url: str, run: str, *, objectives: Mapping[str, Direction]) -> str:
    """History, importances, parallel coordinates, slices, contours, ranks, times and Pareto fronts of a study.

    Args:
        url: of the ledger's database.
        run: its name, which is the study's.
        objectives: objective -> which way it is better, the first objective first.

    Returns:
        An HTML page with all that it needs, or an empty text where fewer than ``FEWEST`` trials have a score.
    """
    study, scored = _scored(url, run)
    if len(scored) < FEWEST:
        return ""
    sections, left_out = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls some of its plots experimental, and plotly some of theirs old
        for plot in _plots(study, scored, objectives):
            try:
                figure = plot.draw()
            except (ValueError, RuntimeError) as error:  # such as importances of parameters that never changed
                left_out.append(f"{plot.title}: {' '.join(str(error).split())}")
                continue
            figure.update_layout(template="plotly_white", title=None, margin={"t": 30})
            drawn = figure.to_html(full_html=False, include_plotlyjs=not sections, config={"responsive": True})
            sections.append(
                f'<h2>{html.escape(plot.title)}</h2><p>{html.escape(plot.reads)}</p><div class="figure">{drawn}</div>'
            )
    if left_out:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in left_out)
        sections.append(f"<h2>Not drawn</h2><ul>{items}</ul>")
    goals = ", ".join(f"{name} ({'higher' if way == 'max' else 'lower'} is better)" for name, way in objectives.items())
    intro = f"{len(scored)} trials that ended with a score; {goals}. Trials are numbered as they began."
    return _PAGE.format(title=html.escape(f"Study {run}"), intro=html.escape(intro), sections="\n".join(sections))


def importances(url: str, run: str, *, objectives: Mapping[str, Direction]) -> dict[str, dict[str, float]]:
    """How much each parameter decides whether a trial is among the better ones (PED-ANOVA,
    https://arxiv.org/abs/2304.10255), for each objective: parameter -> its share, the greatest first.

    Objectives of which that cannot be said are left out: too few trials, parameters that never changed, or trials that
    are all alike.

    Args:
        url: of the ledger's database.
        run: its name, which is the study's.
        objectives: objective -> which way it is better, the first objective first.
    """
    study, scored = _scored(url, run)
    if len(scored) < FEWEST:
        return {}
    found = {name: _shares(study, _cost(number, way)) for number, (name, way) in enumerate(objectives.items())}
    return {name: shares for name, shares in found.items() if shares}


def _shares(study: optuna.Study, cost: Callable[[optuna.trial.FrozenTrial], float]) -> dict[str, float]:
    """Parameter -> its share in what makes a trial cheap, the greatest first; empty where nothing is known of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that low is better, which we mean, and that raw values are experimental
            # Normalised by Optuna, parameters that decide nothing would share the whole among them.
            found = optuna.importance.get_param_importances(study, target=cost, normalize=False)
    except (ValueError, RuntimeError):
        return {}
    whole = sum(found.values())
    return {name: value / whole for name, value in found.items()} if whole > 0 else {}


def _value(number: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    """What a trial has of an objective."""
    return lambda trial: trial.values[number] if trial.values else math.nan


def _cost(number: int, direction: Direction) -> Callable[[optuna.trial.FrozenTrial], float]:
    """The same, lower is better: Optuna takes whatever it is given to rank trials by for a cost."""
    value, sign = _value(number), -1.0 if direction == "max" else 1.0
    return lambda trial: sign * value(trial)


def _scored(url: str, run: str) -> tuple[optuna.Study, list[optuna.trial.FrozenTrial]]:
    """A study, and its trials that ended with a score."""
    study = optuna.load_study(study_name=run, storage=url)
    return study, [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]


def _plots(
    study: optuna.Study, scored: Sequence[optuna.trial.FrozenTrial], objectives: Mapping[str, Direction]
) -> list[_Plot]:
    found: list[_Plot] = []
    for number, (name, way) in enumerate(objectives.items()):
        own: dict[str, Any] = {"target": _value(number) if len(objectives) > 1 else None, "target_name": name}
        cost = _cost(number, way)
        ranked = _by_importance(study, scored, cost)
        shown, paired = {**own, "params": ranked[:_SHOWN]}, {**own, "params": ranked[:_PAIRED]}
        found += [
            _Plot(
                f"{name}: history",
                "Each trial's value in the order in which trials began; the line is the best so far.",
                lambda own=own: visualization.plot_optimization_history(study, **own),
            ),
            _Plot(
                f"{name}: importance of parameters",
                "How much each parameter decides whether a trial is among the better ones (PED-ANOVA).",
                lambda cost=cost, name=name: _importance_plot(study, cost, name),
            ),
        ]
        if ranked:
            found += [
                _Plot(
                    f"{name}: parallel coordinates",
                    "A line for each trial through all its settings; dark lines are good ones.",
                    lambda shown=shown: visualization.plot_parallel_coordinate(study, **shown),
                ),
                _Plot(
                    f"{name}: slices",
                    "The value against each parameter; colour is the number of the trial.",
                    lambda shown=shown: visualization.plot_slice(study, **shown),
                ),
            ]
        if len(ranked) > 1:
            found += [
                _Plot(
                    f"{name}: contours",
                    "The value over pairs of the most important parameters, interpolated between trials.",
                    lambda paired=paired: visualization.plot_contour(study, **paired),
                ),
                _Plot(
                    f"{name}: ranks",
                    "Trials over pairs of the most important parameters, coloured by their rank.",
                    lambda paired=paired: visualization.plot_rank(study, **paired),
                ),
            ]
    if len(objectives) in (2, 3):
        found.append(
            _Plot(
                "Pareto front",
                "Trials that are best in one objective given the others.",
                lambda: visualization.plot_pareto_front(study, target_names=list(objectives)),
            )
        )
    elif any(len(trial.intermediate_values) > 1 for trial in scored):
        found.append(
            _Plot(
                "Values epoch by epoch",
                "What pruning decided by.",
                lambda: visualization.plot_intermediate_values(study),
            )
        )
    found.append(_Plot("Times", "When each trial ran, and how it ended.", lambda: visualization.plot_timeline(study)))
    return found


def _importance_plot(study: optuna.Study, cost: Callable[[optuna.trial.FrozenTrial], float], name: str) -> Any:
    """Optuna's bars.

    Raises:
        ValueError: there is nothing that they could show.
    """
    if not _shares(study, cost):
        raise ValueError("no parameter is known to decide it")
    return visualization.plot_param_importances(study, target=cost, target_name=name)


def _by_importance(
    study: optuna.Study,
    scored: Sequence[optuna.trial.FrozenTrial],
    cost: Callable[[optuna.trial.FrozenTrial], float],
) -> list[str]:
    """Parameters that took several values, the most important first; those of which that is not known come last."""
    values: dict[str, set[Any]] = {}
    for trial in scored:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    changing = [name for name, seen in values.items() if len(seen) > 1]
    shares = _shares(study, cost)
    return sorted(changing, key=lambda name: (-shares.get(name, 0.0), name))
