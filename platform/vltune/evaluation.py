"""What scores captions that another program has written: ``evaluate``.

The function takes the parsed arguments and a ``Screen``, returns the exit code, and imports what it needs itself.
"""

import dataclasses
import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vltune.errors import BadInput, NotFound
from vltune.launch import start
from vltune.screen import Screen

if TYPE_CHECKING:
    from vltune.contract import Search

_ASKED, _FILE = "further_metrics", "predictions"
_ROOM = 50
"""Letters of a file's name that a run may be called by."""


def evaluate(arguments: Namespace, screen: Screen) -> int:
    """Scores a results file: on the validation split as a run that compares with others, on the test split for show."""
    from search_spaces import SEARCHES
    from vltune.ledger import Ledger
    from vltune.search import run_name
    from vltune.search_files import load_search
    from vltune.space import parse_pins

    found = load_search("predictions", SEARCHES)
    pins = parse_pins(arguments.set, found.family.Config)
    if _FILE in pins:
        raise BadInput(f"--predictions and --set {_FILE}=… both name a file of captions; leave the latter out.")
    if arguments.metrics and _ASKED in pins:
        raise BadInput(f"--metrics and --set {_ASKED}=… both say what is measured; give one of them.")
    pins |= {_FILE: arguments.predictions, **({_ASKED: arguments.metrics} if arguments.metrics else {})}
    if not Path(arguments.data).expanduser().exists():
        raise NotFound(f"--data {arguments.data}: there is no such folder; give the folder of a data set.")
    if arguments.split == "test":
        return _show_test(found, pins, arguments, screen)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(arguments.predictions).stem).lstrip("._-")[:_ROOM] or found.name
    name = arguments.name if arguments.name is not None else run_name(Ledger.of(arguments.storage), stem)
    arguments.address = None
    return start(found, arguments, screen, space=found.name, name=name, pins=pins, rows={name: {}})


def _show_test(found: "Search", pins: dict[str, Any], arguments: Namespace, screen: Screen) -> int:
    """Scores the test split. Nothing is written down that could order a table, or choose."""
    from trainables.predictions import Predictions
    from vltune.console import grid_text
    from vltune.library import PromotedModels
    from vltune.objectives import direction_of
    from vltune.space import example
    from vltune.statistics import interval, resample
    from vltune.train import evaluate as score

    if arguments.name is not None:
        raise BadInput("--name names a run, and --split test makes none: leave one of them out.")
    family, cache = found.family, str(arguments.storage.absolute() / "cache")
    config: Any = example(found, pins=family.Config.with_absolute_paths(pins))
    direction_of(family, config, config.objective)  # nothing is ordered by it here, but a typo is one all the same
    config = dataclasses.replace(config, data=str(Path(arguments.data).expanduser().absolute()))
    config = config.find_sources(PromotedModels(arguments.storage))
    data = family.load(config, cache)
    config = dataclasses.replace(config, data_hash=data.hash)
    model: Any = family(config, Predictions.assets_of(config, data, split="test"))
    model.cache = cache
    scores, records = score(model, data.splits["test"], batch_size=config.batch_size)
    drawn = resample(scores, [str(record["id"]) for record in records]).values
    rows = []
    for name, value in scores.metrics.items():
        between = interval(drawn[name]) if name in drawn else None
        low, high = between or (None, None)
        rows.append({"metric": name, "value": value, "low": low, "high": high})
    shown = [
        {
            "metric": row["metric"],
            "value": _number(row["value"]),
            "95 % interval": "" if row["low"] is None else f"[{_number(row['low'])}, {_number(row['high'])}]",
        }
        for row in rows
    ]
    about = f"test split of data {data.hash[:12]}, {len(records)} pictures; this makes no row of a table."
    fixed = [f"interval of {name}: {text}" for name, text in family.drawn_with.items() if name in drawn]
    notes = [*fixed, *(f"data: {note}" for note in data.notes), *model.notes]
    screen.result(
        "\n".join([grid_text(shown, width=screen.width), about, *notes]),
        {"split": "test", "data_hash": data.hash, "pictures": len(records), "metrics": rows, "notes": notes},
    )
    return 0


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4f}"  # words are counted
