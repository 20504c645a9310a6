"""The commands that make pages and pictures of runs: ``report``, and the gallery of ``compare``.

Each function takes the parsed arguments and a ``Screen``, and imports what it needs itself.
"""

from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vltune.errors import BadInput
from vltune.screen import Screen

if TYPE_CHECKING:
    from vltune.contract import Search
    from vltune.ledger import Ledger
    from vltune.ledger_records import SearchRecord

_PICTURE, _PAGE = ".png", ".html"


def report(arguments: Namespace, screen: Screen) -> int:
    """Writes the story of one or several runs as a page."""
    from vltune.ledger import Ledger
    from vltune.report import write_report

    ledger = Ledger.existing(arguments.storage)
    out = arguments.out
    if out is not None and not out.absolute().parent.is_dir():
        raise BadInput(f"--out {out}: there is no folder {out.absolute().parent}; make it, or choose another file.")
    if out is not None and out.is_dir():
        raise BadInput(f"--out {out}: this is a folder; give the name of a file in it, such as {out / 'report.html'}.")
    sources = _sources(ledger, arguments)
    written = write_report(ledger, arguments.runs, storage=arguments.storage, sources=sources, out=out)
    lines = [f"{written.path} ({written.path.stat().st_size / 1e6:.1f} MB)"]
    for name, run in written.runs.items():
        best = run["best"]
        answer = f"best {best['name']}, {best['objective']} {best['value']:.4g}" if best else "no trial has ended yet"
        lines.append(f"  {name}: {run['state']}; {answer}")
    document = {"path": str(written.path.absolute()), "runs": written.runs}
    if len(written.runs) == 1:
        (name, run), *_ = written.runs.items()
        document = {"path": document["path"], "run": name, **run}
    screen.result("\n".join(lines), document)
    return 0


def write_gallery(arguments: Namespace, ledger: "Ledger", screen: Screen) -> None:
    """Writes the pictures that the best trials of some runs caption, as a page or as a picture."""
    from vltune.exhibition import open_data
    from vltune.figures import captions_gallery
    from vltune.findings import gather
    from vltune.report import gallery_of
    from vltune.report_pieces import gallery_page, heading

    out: Path = arguments.gallery
    if out.suffix not in (_PICTURE, _PAGE):
        raise BadInput(f"--gallery {out}: end the file's name in {_PAGE} or {_PICTURE}.")
    sources = _sources(ledger, arguments)
    runs = [ledger.search(run) for run in dict.fromkeys(arguments.runs)]
    if len({record.data_hash for record in runs}) > 1:
        raise BadInput("--gallery shows the same pictures by all models: name runs of one data set.")
    found = [gather(ledger, record.name, arguments.storage) for record in runs]
    data = {}
    for one in found:
        family = sources.families.get(one.record.family)
        config = one.best.config if one.best else {}
        opened = family and open_data(family, one.record, config, storage=arguments.storage, data=sources.data)
        data[one.record.name] = opened[0] if opened else None
    shown = gallery_of(ledger, found, storage=arguments.storage, data=data)
    if shown is None:
        raise BadInput(
            f"--gallery: no captions of {', '.join(arguments.runs)} are here: their families write none, nothing has "
            "ended, or the checkpoints are gone."
        )
    try:
        if out.suffix == _PAGE:
            out.write_text(gallery_page(shown, title=", ".join(arguments.runs)), encoding="utf-8")
        else:
            groups = {heading(kind): items for kind, items in shown.groups.items()}
            captions_gallery(groups).savefig(out, dpi=110)
    except OSError as error:
        raise BadInput(f"--gallery {out}: it cannot be written ({error.strerror}); choose another file.") from error
    for note in shown.notes:
        screen.say(note)
    screen.say(f"gallery: {out}")


def _sources(ledger: "Ledger", arguments: Namespace) -> Any:
    """What reports are made from: the families and spaces that vltune brings, and those of people's own files."""
    from search_spaces import SEARCHES
    from trainables import FAMILIES
    from vltune.report import Sources
    from vltune.search_files import load_search
    from vltune.space import describe

    families: dict[str, Any] = dict(FAMILIES)
    spaces = {}
    if arguments.space is not None:
        own = load_search(arguments.space, SEARCHES)
        families[own.family.name] = own.family
    for run in arguments.runs:
        record = ledger.search(run)
        search = _same_search(record)
        if search is not None:
            with suppress(BadInput):  # a file that fails now has no word on what it asks for
                spaces[record.name] = describe(search, pins=record.pins)
            families.setdefault(record.family, search.family)
    return Sources(families=families, spaces=spaces, data=arguments.data)


def _same_search(record: "SearchRecord") -> "Search | None":
    """The space of a run, if it still is what it was; a person's own file is not run otherwise."""
    from vltune.launch import same_search

    if record.space.endswith(".py"):
        try:
            if Path(record.space).read_text(encoding="utf-8") != record.source:
                return None
        except (OSError, UnicodeDecodeError):
            return None
    try:
        return same_search(record)
    except BadInput:
        return None
