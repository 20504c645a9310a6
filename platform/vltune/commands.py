"""What the commands do that train nothing: they look, compare, promote, predict, and serve.

Each function takes the parsed arguments and a ``Screen``, returns the exit code, and imports what it needs itself, so
that ``vltune --help`` does not wait for torch.
"""

import os
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vltune.errors import BadInput, NotFound
from vltune.screen import Screen, space_flag, storage_flag

if TYPE_CHECKING:
    from vltune.budgets import Budget
    from vltune.compare import Table
    from vltune.ledger import Ledger
    from vltune.registry import Model

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NOTHING_YET = "no run was started here yet: vltune search quickstart"


# -- searches


def spaces(arguments: Namespace, screen: Screen) -> int:
    """Lists the shipped searches, or shows one."""
    from search_spaces import SEARCHES
    from vltune.console import description_text, listing_text
    from vltune.search_files import load_search
    from vltune.space import describe

    if arguments.search is None:
        found = {name: load_search(name, SEARCHES) for name in SEARCHES}
        lines = listing_text({name: search.question for name, search in found.items()}, width=screen.width)
        screen.result(lines, [{"name": n, "question": s.question} for n, s in found.items()])
        return 0
    description = describe(load_search(arguments.search, SEARCHES))
    screen.result(description_text(description, width=screen.width), asdict(description))
    return 0


def status(arguments: Namespace, screen: Screen) -> int:
    """Where the runs stand."""
    from vltune.console import grid_text
    from vltune.ledger import Ledger
    from vltune.summary import best_report

    if not arguments.run and not os.environ.get("VLTUNE_LEDGER") and not (arguments.storage / "ledger.db").is_file():
        screen.result(NOTHING_YET, [])
        return 0
    ledger = Ledger.existing(arguments.storage)
    records = [ledger.search(arguments.run)] if arguments.run else ledger.searches()
    documents = []
    for record in records:
        trials = ledger.trials(record.name)
        driver = ledger.driver(record.name)
        state = "interrupted" if record.state in ("running", "stopping") and driver is None else record.state
        rows = []
        for trial in trials:
            epochs = ledger.epochs(trial.uid)
            best = best_report(epochs)
            ended = trial.state not in ("running",) or driver is not None
            rows.append(
                {
                    "uid": trial.uid,
                    "row": record.title(trial) if trial.row else "",
                    "state": trial.state if ended else "interrupted",
                    "epoch": epochs[-1].epoch if epochs else 0,
                    "epochs": trial.config.get("epochs", 0),
                    **{name: best.metrics.get(name) if best else None for name in record.directions},
                    "error": trial.error,
                }
            )
        values = [row[record.objective] for row in rows if row[record.objective] is not None]
        pick = max if record.direction == "max" else min
        documents.append(
            {
                "run": record.name,
                "state": state,
                "driver": driver,
                "trials": dict(Counter(row["state"] for row in rows)),
                "num_trials": record.num_trials * record.seeds,
                "objective": record.objective,
                "further_objectives": list(record.further_objectives),
                "best": pick(values) if values else None,
                "unsent_to_mlflow": ledger.backlog(record.name),
                "rows": rows,
            }
        )
    if arguments.run:
        document = documents[0]
        head = f"{document['run']}: {document['state']}, {_states(document['trials'])} of {document['num_trials']}"
        waiting = document["unsent_to_mlflow"]
        tail = f"\n{waiting} rows wait for MLflow." if waiting and not document["driver"] else ""
        if document["state"] == "interrupted":
            tail += f"\nGo on with: vltune resume {document['run']}{storage_flag(arguments.storage)}"
        screen.result(f"{head}\n{grid_text(document['rows'], width=screen.width)}{tail}", document)
    else:
        short = [
            {
                "run": d["run"],
                "state": d["state"],
                "trials": f"{_states(d['trials'])} of {d['num_trials']}",
                "best": "" if d["best"] is None else f"{d['objective']} {d['best']:.4g}",
            }
            for d in documents
        ]
        screen.result(grid_text(short, width=screen.width) if short else NOTHING_YET, documents)
    return 0


def _states(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "0"


def stop(arguments: Namespace, screen: Screen) -> int:
    """Stops a run that another process drives."""
    from vltune.ledger import Ledger

    ledger = Ledger.existing(arguments.storage)
    ledger.search(arguments.run)
    driver = ledger.driver(arguments.run)
    if driver is None:
        raise BadInput(f"the run {arguments.run!r} is not being driven: there is nothing to stop.")
    ledger.ask_to_stop(arguments.run)
    deadline = time.monotonic() + 60
    while ledger.driver(arguments.run) == driver and time.monotonic() < deadline:
        time.sleep(0.3)
    if ledger.driver(arguments.run) == driver:
        raise TimeoutError(f"{driver} has not stopped {arguments.run!r} within a minute")
    text = f"stopped {arguments.run}. Go on with: vltune resume {arguments.run}{storage_flag(arguments.storage)}"
    screen.result(text, {"run": arguments.run, "state": ledger.state(arguments.run)})
    return 0


def compare(arguments: Namespace, screen: Screen) -> int:
    """Shows runs in one table."""
    from vltune.console import as_text
    from vltune.forms import as_csv, as_json, as_markdown
    from vltune.latex import as_latex
    from vltune.ledger import Ledger
    from vltune.pages import as_html
    from vltune.reports import write_gallery
    from vltune.summary import table

    ledger = Ledger.existing(arguments.storage)
    budget = _budget(arguments)
    tested = _tested(arguments, ledger, screen) if arguments.with_test else None
    shown: Table = table(
        ledger,
        arguments.runs,
        storage=arguments.storage,
        sort_by=arguments.sort or "",
        tested=tested,
        folded=not arguments.each_seed,
        intervals=arguments.intervals,
        budget=budget,
    )
    runs = ", ".join(arguments.runs)
    forms: dict[str, Callable[[], str]] = {
        "table": lambda: as_text(shown, width=screen.width),
        "md": lambda: as_markdown(shown),
        "csv": lambda: as_csv(shown),
        "latex": lambda: as_latex(shown, label=runs),
        "html": lambda: as_html(shown, title=runs, about=ledger.search(arguments.runs[0]).question),
    }
    if arguments.gallery is not None:
        write_gallery(arguments, ledger, screen)
    screen.result(forms[arguments.format]().rstrip("\n"), as_json(shown))
    return 0


def _budget(arguments: Namespace) -> "Budget | None":
    """What each trial may have spent."""
    from vltune.budgets import Budget

    if arguments.at_seconds is None and arguments.at_samples is None:
        return None
    if arguments.with_test:
        raise BadInput(
            "--with-test scores the best model of a trial's whole training, not that of a part: leave it out, or leave "
            "out --at-seconds and --at-samples."
        )
    if arguments.at_seconds is not None:
        return Budget("training_seconds", arguments.at_seconds)
    return Budget("samples_seen", arguments.at_samples)


def _tested(arguments: Namespace, ledger: "Ledger", screen: Screen) -> dict[str, tuple[dict[str, float], str]]:
    """What finished trials score on the test split, which is read once for each, or why they have no scores of it."""
    from vltune.promotion import score_trial, why_untested

    trials = [trial for run in arguments.runs for trial in ledger.trials(ledger.search(run).name)]
    finished = [trial for trial in trials if trial.state == "finished"]
    given = {"families": _families(arguments), "data": arguments.data}
    # Of all before any split is read, which is done once.
    reasons = {trial.uid: why_untested(arguments.storage, ledger, trial, **given) for trial in finished}
    found: dict[str, tuple[dict[str, float], str]] = {uid: ({}, reason) for uid, reason in reasons.items() if reason}
    scored = [trial for trial in finished if trial.uid not in found]
    for number, trial in enumerate(scored, start=1):
        screen.say(f"test split: {trial.row or trial.uid} ({number} of {len(scored)})")
        scores = score_trial(arguments.storage, ledger, trial, **given, say=lambda _: None)[1]
        found[trial.uid] = scores.metrics, scores.warning
    return found


# -- models


def promote(arguments: Namespace, screen: Screen) -> int:
    """Scores a model on the test split and makes it a version of a registered model."""
    from vltune.ledger import Ledger
    from vltune.promotion import promote as promote_trial
    from vltune.promotion import winner

    if arguments.trial and arguments.by:
        raise BadInput("--trial and --by both say which trial: give one of them.")
    run, uid = arguments.runs[0], arguments.trial
    if not uid:
        run, uid = winner(Ledger.existing(arguments.storage), arguments.runs, by=arguments.by or "", say=screen.say)
    elif len(arguments.runs) > 1:
        raise BadInput("--trial needs its run alone: leave the other runs out.")
    model, found = promote_trial(
        arguments.storage,
        run,
        uid=uid,
        name=arguments.model,
        alias=arguments.alias,
        data=arguments.data,
        families=_families(arguments),
        say=screen.say,
    )
    shown = ", ".join(f"{key} {value:.4g}" for key, value in found.metrics.items())
    reference = f"{model.name}@{arguments.alias}"
    text = f"{reference} is version {model.version} now: trial {model.trial_uid}\ntest split: {shown}"
    screen.result(text, {"reference": reference, "test": found.metrics, "warning": found.warning, **asdict(model)})
    if found.warning:
        screen.say(f"warning: {found.warning}")
    flags = f"{space_flag(arguments.space or '')}{storage_flag(arguments.storage)}"
    screen.say(f"use it: vltune predict {reference} PICTURE{flags}")
    return 0


def _families(arguments: Namespace) -> dict[str, Any]:
    """The shipped families, and that of a person's own file."""
    from search_spaces import SEARCHES
    from trainables import FAMILIES
    from vltune.search_files import load_search

    if getattr(arguments, "space", None) is None:
        return dict(FAMILIES)
    family = load_search(arguments.space, SEARCHES).family
    return {**FAMILIES, family.name: family}


def models(arguments: Namespace, screen: Screen) -> int:
    """Lists what was promoted."""
    from vltune.console import grid_text
    from vltune.registry import Registry
    from vltune.tracking import Tracker

    found = Registry(Tracker(arguments.storage)).models()
    rows = [
        {
            "model": f"{model.name}/{model.version}",
            "alias": ", ".join(f"@{alias}" for alias in model.aliases),
            "trial": model.trial_uid,
            "test split": _test_scores(model),
            "promoted": time.strftime("%Y-%m-%d %H:%M", time.localtime(model.created)),
        }
        for model in found
    ]
    empty = "nothing was promoted yet: vltune promote RUNNAME"
    screen.result(grid_text(rows, width=screen.width) if rows else empty, [asdict(model) for model in found])
    return 0


def _test_scores(model: "Model") -> str:
    """The objective, and the loss that all families have. Models of several families stand in one list."""
    keys = [key for key in dict.fromkeys((model.objective, "val_loss")) if f"test_{key}" in model.metrics]
    return ", ".join(f"{key} {model.metrics[f'test_{key}']:.4g}" for key in keys)


def predict(arguments: Namespace, screen: Screen) -> int:
    """Lets a promoted model say what it thinks of new pictures."""
    from vltune.promotion import load_promoted, predict_samples

    model = load_promoted(arguments.storage, arguments.model, families=_families(arguments))
    records = predict_samples(model, model.read(arguments.sources))
    if arguments.among is not None:
        others = predict_samples(model, model.read(_gallery(arguments.among)))
        found = model.rank(records, others, top=arguments.top)
        lines = [
            line
            for query in found
            for line in (f"{query['id']}:", *(f"  {best['similarity']:.3f}  {best['id']}" for best in query["best"]))
        ]
        screen.result("\n".join(lines), found)
        return 0
    shown = [{k: v for k, v in record.items() if not k.startswith("_")} for record in records]
    screen.result("\n".join(f"{r['id']}: {model.said(r)}" for r in records), [{"source": r["id"], **r} for r in shown])
    return 0


def _gallery(path: str) -> list[str]:
    """The pictures of a folder, or the lines of a text file."""
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            found = sorted(str(p) for p in place.rglob("*") if p.suffix.lower() in PICTURES)
        else:
            found = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise NotFound(f"--among {path}: there is no such folder or file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--among {path}: give a folder of pictures, or a file with a text in each line.") from error
    if not found:
        raise BadInput(f"--among {path}: there is no picture ({', '.join(PICTURES)}) or line of text in it.")
    return found


def ui(arguments: Namespace, screen: Screen) -> int:
    """Serves MLflow's pages over the storage folder, on this machine only."""
    from vltune.ui import database, ui_command

    if os.environ.get("MLFLOW_TRACKING_URI"):
        raise BadInput(f"MLFLOW_TRACKING_URI is set: the runs are at {os.environ['MLFLOW_TRACKING_URI']}, open that.")
    if not database(arguments.storage).exists():
        raise NotFound(f"{arguments.storage} holds no runs yet: start with `vltune search quickstart`.")
    screen.say(f"MLflow at http://127.0.0.1:{arguments.port} (Ctrl-C ends it)")
    screen.say("click 'Model training' there, at the top left, once: MLflow remembers it, and shows searches as runs")
    command = ui_command(arguments.storage, port=arguments.port)
    os.execv(command[0], command)  # noqa: S606 (no shell is wanted)


# -- data


def data_validate(arguments: Namespace, screen: Screen) -> int:
    """Looks a data set over."""
    from trainables.parts.inspection import validate_folder

    findings = validate_folder(arguments.path)
    lines = [f"{finding.kind}: {finding.text}" for finding in findings]
    lines.append(f"{arguments.path}: {len(findings)} findings" if findings else f"{arguments.path}: nothing is wrong")
    screen.result("\n".join(lines), [asdict(finding) for finding in findings])
    return 2 if findings else 0


def data_stats(arguments: Namespace, screen: Screen) -> int:
    """Counts a data set and plots its picture sizes and caption lengths."""
    from trainables.parts.inspection import folder_stats
    from vltune.figures import caption_lengths, picture_sizes

    stats = folder_stats(arguments.path)
    out = Path(arguments.out)
    plots = {"picture_sizes": picture_sizes(stats), "caption_lengths": caption_lengths(stats)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in plots.items():
            figure.savefig(out / f"{name}.png", dpi=130)
    except OSError as error:
        raise BadInput(
            f"--out {out}: the plots cannot be written ({error.strerror}); choose another folder."
        ) from error
    sizes = [sorted(stats["widths"]), sorted(stats["heights"])]
    (widths, heights), middle = sizes, len(sizes[0]) // 2
    lengths = [length for length, count in stats["caption_lengths"].items() for _ in range(count)]
    lines = [
        f"{stats['name']}: {stats['pictures']} pictures, {stats['captions']} captions, "
        f"{stats['vocabulary']} different words",
        *(f"  {name}: {c['pictures']} pictures, {c['captions']} captions" for name, c in stats["splits"].items()),
        f"pictures: {widths[0]} to {widths[-1]} wide (median {widths[middle]}), "
        f"{heights[0]} to {heights[-1]} high (median {heights[middle]}) pixels",
        f"captions: {lengths[0]} to {lengths[-1]} words (median {lengths[len(lengths) // 2]})",
        *stats["notes"],
        *(f"plot: {out / name}.png" for name in plots),
    ]
    screen.result("\n".join(lines), {**stats, "plots": [str(out / f"{name}.png") for name in plots]})
    return 0


def data_scenes(arguments: Namespace, screen: Screen) -> int:
    """Draws the generated pictures."""
    from trainables.parts.scenes import write_scenes

    write_scenes(arguments.path, pictures=arguments.pictures, seed=arguments.seed)
    text = f"{arguments.path}: {arguments.pictures} generated pictures with five captions each"
    screen.result(text, {"path": arguments.path, "pictures": arguments.pictures, "seed": arguments.seed})
    return 0
