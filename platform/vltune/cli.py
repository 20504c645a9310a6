"""The command line: arguments, errors in one line, exit codes. What commands do stands in ``commands.py``,
in ``launch.py`` for those that train, in ``repeats.py`` for those that train again, in ``reports.py`` for pages.

Nothing heavy is imported before the arguments are read: ``vltune --help`` does not wait for torch.
"""

import argparse
import difflib
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from vltune.strategies import PRUNERS, SAMPLERS

OK, FAILURE, BAD_INPUT, NOT_FOUND, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130


class _Refused(Exception):
    """The arguments are not possible."""

    def __init__(self, text: str, code: int = BAD_INPUT) -> None:
        super().__init__(text)
        self.code = code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise _Refused(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="vltune",
        description="Finds the best image-text model for your data.",
        epilog="example: vltune search quickstart && vltune promote quickstart",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="say the version and end")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, about: str, example: str, *, under: argparse._SubParsersAction | None = None) -> _Parser:
        added = (under or subparsers).add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=f"data_{name}" if under else name, options=added._option_string_actions)  # noqa: SLF001
        added.add_argument(
            "--storage",
            type=Path,
            default=Path(os.environ.get("VLTUNE_STORAGE", "runs")),
            metavar="DIR",
            help="folder of the runs (default: $VLTUNE_STORAGE or runs)",
        )
        added.add_argument("--json", action="store_true", help="one JSON document on standard output")
        return added

    spaces = add("spaces", "list the searches, or show one", "vltune spaces quickstart")
    spaces.add_argument("search", nargs="?", metavar="NAME", help="a search, or the path of your own Python file")

    search = add(
        "search",
        "run a search",
        "vltune search captioning_rnn --data flickr8k --set epochs=5",
    )
    search.add_argument("search", metavar="NAME", help="a shipped search, or the path of your own Python file")
    search.add_argument("--trials", type=_positive, metavar="N", help="trials in all, named rows included")
    search.add_argument(
        "--seeds", type=_positive, default=1, metavar="N", help="seeds of each configuration; their mean counts"
    )
    search.add_argument("--sampler", choices=tuple(SAMPLERS), help="instead of the search's own")
    search.add_argument("--pruner", choices=tuple(PRUNERS), help="instead of the search's own")
    search.add_argument(
        "--objectives",
        metavar="METRICS",
        help="such as cider,parameters: look for the Pareto front; the first one chooses each trial's best epoch",
    )
    search.add_argument("--name", metavar="RUNNAME", help="name of the run (default: the search's, numbered)")

    train = add(
        "train",
        "train one configuration",
        "vltune train captioning_losses --row 'focal, CNN' --set epochs=3",
    )
    train.add_argument("search", metavar="NAME", help="a shipped search, or the path of your own Python file")
    train.add_argument("--row", metavar="ROW", help="named row to train (default: the base row)")
    train.add_argument("--name", metavar="RUNNAME", help="name of the run")
    for parser_ in (search, train):
        parser_.add_argument(
            "--set",
            action="extend",
            nargs="+",
            default=[],
            metavar="KEY=VALUE",
            help="pin fields, which are then no longer searched",
        )

    rerun = add("rerun", "train a trial again from its record", "vltune rerun quickstart-003")
    rerun.add_argument("uid", metavar="UID", help="the trial's uid, as `vltune status RUNNAME` shows it")
    confirm = add(
        "confirm",
        "train the best configurations of a run again, with new seeds",
        "vltune confirm quickstart --top 3 --seeds 5",
    )
    confirm.add_argument("run", metavar="RUNNAME")
    confirm.add_argument("--top", type=_positive, default=5, metavar="N", help="so many configurations (default: 5)")
    confirm.add_argument("--seeds", type=_positive, default=5, metavar="N", help="seeds of each (default: 5)")
    confirm.add_argument("--name", metavar="RUNNAME", help="name of the new run (default: RUNNAME-confirmed)")
    for parser_ in (search, train, rerun, confirm):
        parser_.add_argument(
            "--data", metavar="PATH", help="COCO, Flickr8k or Flickr30k folder (default: generated pictures)"
        )
    for parser_ in (search, train):
        parser_.add_argument("--workers", type=_positive, default=1, metavar="N", help="Train workers of each trial")
        parser_.add_argument(
            "--gpus-per-worker", type=_share, metavar="X", help="may be a fraction with one worker (default: 1, if any)"
        )
        parser_.add_argument("--threads", type=_positive, metavar="N", help="threads of each worker")

    resume = add("resume", "go on with a run that was stopped or killed", "vltune resume quickstart")
    resume.add_argument("run", metavar="RUNNAME")
    resume.add_argument("--trials", type=_positive, metavar="N", help="raise the number of trials in all to this")
    for parser_ in (search, confirm, resume):
        parser_.add_argument("--concurrent", type=_positive, metavar="N", help="trials at the same time")
    for parser_ in (search, train, rerun, confirm, resume):
        parser_.add_argument("--address", metavar="auto", help="join the Ray cluster that runs here")
    for parser_ in (search, train, confirm):
        parser_.add_argument("--isolate", action="store_true", help="fresh processes for every trial (slower)")

    status = add("status", "show where runs stand", "vltune status quickstart")
    status.add_argument("run", nargs="?", metavar="RUNNAME")
    stop = add("stop", "stop a run that another process drives", "vltune stop quickstart")
    stop.add_argument("run", metavar="RUNNAME")

    compare = add("compare", "show runs in one table", "vltune compare quickstart --sort val_loss --format md")
    compare.add_argument("runs", nargs="+", metavar="RUNNAME")
    compare.add_argument("--sort", metavar="METRIC", help="metric that orders the rows (default: the objective)")
    compare.add_argument(
        "--with-test", action="store_true", help="show the test split beside validation, which still orders the rows"
    )
    compare.add_argument(
        "--data", metavar="PATH", help="for --with-test and --gallery: folder of the data set, if it has moved"
    )
    compare.add_argument(
        "--intervals",
        choices=("objective", "all", "none"),
        default="objective",
        help="metrics that show 95 %% bootstrap intervals (default: objective)",
    )
    compare.add_argument("--each-seed", action="store_true", help="a row for each seed, instead of their mean")
    budget = compare.add_mutually_exclusive_group()
    budget.add_argument(
        "--at-seconds", type=_above_zero, metavar="S", help="all trials as they were after S seconds of training"
    )
    budget.add_argument(
        "--at-samples", type=_positive, metavar="N", help="all trials as they were after N training samples"
    )
    compare.add_argument(
        "--format", choices=("table", "md", "csv", "latex", "html"), default="table", help="default: table"
    )
    compare.add_argument(
        "--gallery",
        type=Path,
        metavar="FILE",
        help="write pictures with the captions of all runs: FILE.html or FILE.png",
    )
    report = add(
        "report",
        "write the whole story of a run as one page",
        "vltune report quickstart --out quickstart.html",
    )
    report.add_argument("runs", nargs="+", metavar="RUNNAME", help="a run; several on the same data in one page")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="HTML file (default: comparison/report.html in the run's folder)"
    )
    report.add_argument("--data", metavar="PATH", help="folder of the data set, if it has moved since")

    evaluate = add(
        "evaluate",
        "score captions that another program has written",
        "vltune evaluate --predictions theirs.json --data flickr8k",
    )
    evaluate.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help='results in COCO\'s format, [{"image_id": …, "caption": …}, …]',
    )
    evaluate.add_argument("--data", required=True, metavar="PATH", help="folder of the data set that they are of")
    evaluate.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="validation becomes a run, to compare with others; test is scored and shown, and never orders a table",
    )
    evaluate.add_argument("--metrics", default="", metavar="NAMES", help="further metrics, with commas between them")
    evaluate.add_argument("--name", metavar="RUNNAME", help="name of the run (default: the file's)")
    evaluate.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="what further metrics need, such as glove_file=glove.6B.300d.txt",
    )

    promote = add(
        "promote",
        "score the best model on the test split and register it",
        "vltune promote quickstart --as champion",
    )
    promote.add_argument("runs", metavar="RUNNAME", nargs="+", help="a run; of several, the best trial of all")
    promote.add_argument("--by", metavar="METRIC", help="what the best is best in (default: the runs' objective)")
    promote.add_argument("--trial", metavar="UID", help="this trial instead of the best one")
    promote.add_argument("--as", dest="alias", default="champion", metavar="ALIAS", help="default: champion")
    promote.add_argument("--model", metavar="NAME", help="name of the registered model (default: the search's)")
    promote.add_argument("--data", metavar="PATH", help="folder of the data set, if it has moved since")
    add("models", "list the promoted models", "vltune models")
    predict = add(
        "predict",
        "let a promoted model caption, find or judge pictures and texts",
        "vltune predict quickstart@champion a.jpg",
    )
    predict.add_argument("model", metavar="MODEL", help="NAME@ALIAS, NAME/VERSION, or a model's folder")
    predict.add_argument("sources", nargs="+", metavar="SOURCE", help="pictures; texts, where the model reads texts")
    predict.add_argument("--among", metavar="PATH", help="rank the pictures of this folder, or this file's lines")
    predict.add_argument("--top", type=_positive, default=5, metavar="N", help="with --among: so many (default: 5)")
    for parser_ in (compare, report, promote, predict):
        parser_.add_argument("--space", metavar="FILE", help="your Python file, for a family of your own")
    ui = add("ui", "open MLflow over the runs, on this machine only", "vltune ui --port 5001")
    ui.add_argument("--port", type=_port, default=5000, metavar="N", help="default: 5000")

    data = subparsers.add_parser(
        "data",
        help="look at data sets, or draw one",
        description="Look at data sets, or draw one.",
        epilog="example: vltune data stats flickr8k",
    )
    inside = data.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser, required=True)
    validate = add(
        "validate",
        "find everything that is wrong with a data set",
        "vltune data validate flickr8k",
        under=inside,
    )
    validate.add_argument("path", metavar="PATH")
    stats = add(
        "stats",
        "count and plot a data set",
        "vltune data stats flickr8k --out plots",
        under=inside,
    )
    stats.add_argument("path", metavar="PATH")
    stats.add_argument("--out", default=".", metavar="DIR", help="folder of the plots (default: here)")
    scenes = add(
        "scenes",
        "draw pictures of coloured shapes with captions, as a COCO folder",
        "vltune data scenes scenes --pictures 1600",
        under=inside,
    )
    scenes.add_argument("path", metavar="PATH")
    scenes.add_argument("--pictures", type=_positive, default=1600, metavar="N", help="default: 1600")
    scenes.add_argument("--seed", type=_whole, default=0, metavar="N", help="default: 0")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not (0 <= value < 1 or (value > 0 and value.is_integer())):
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, or a fraction below 1")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} must lie between 1 and 65535")
    return value


for _check in (_positive, _whole, _above_zero, _share, _port):
    _check.__name__ = "number"  # argparse names the type by its function


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = _parser()
        arguments = _arguments(parser, argv)
    except _Refused as error:
        return _fail(error, error.code)
    if arguments.version:
        return _version()
    if not hasattr(arguments, "command"):
        parser.print_help()
        return OK
    return _run(arguments)


def _arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; a command or an option that is misspelt is answered with the nearest one."""
    known = next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001
    assert known is not None
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        raise _Refused(f"unknown command {argv[0]!r}{_nearest(argv[0], known)}", NOT_FOUND)
    arguments, extra = parser.parse_known_args(argv)
    if extra:
        word, options = extra[0].partition("=")[0], getattr(arguments, "options", ["--help", "--version"])
        hint = _nearest(word, (o for o in options if o.startswith("--"))) if word.startswith("-") else "; leave it out."
        raise _Refused(f"{parser.prog} does not know the argument {word!r}{hint}")
    return arguments


def _nearest(name: str, choices: Iterable[str]) -> str:
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ".") + f" Choose one of: {', '.join(choices)}."


def _run(arguments: argparse.Namespace) -> int:
    from vltune import commands, evaluation, launch, repeats, reports
    from vltune.errors import BadInput, NotFound, TrainingFailure, Unreachable
    from vltune.screen import Screen

    screen = Screen(arguments.json, width=shutil.get_terminal_size((100, 24)).columns)
    try:
        places = (launch, repeats, evaluation, reports, commands)
        where = next(place for place in places if hasattr(place, arguments.command))
        return getattr(where, arguments.command)(arguments, screen)
    except NotFound as error:
        return _fail(error, NOT_FOUND)
    except BadInput as error:
        return _fail(error, BAD_INPUT)
    except Unreachable as error:
        return _fail(error, UNREACHABLE)
    except (TrainingFailure, TimeoutError) as error:
        return _fail(error, FAILURE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _version() -> int:
    from importlib.metadata import version

    print(f"vltune {version('vltune')}")
    return OK


def _fail(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
