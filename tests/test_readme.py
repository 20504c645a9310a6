"""What README.md tells a person to type is taken from it and tried, as far as that goes without training.

The pages must also name what there is.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from search_spaces import SEARCHES
from trainables.parts.scenes import write_scenes
from trainables.parts.scoring_fields import FURTHER
from vltune.cli import _parser
from vltune.errors import BadInput, lookup
from vltune.search_files import load_search
from vltune.space import check, parse_pins

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0].strip()
    for block in _blocks("console")
    for line in block.splitlines()
    if line.startswith("$ ")
]
OURS = [command for command in COMMANDS if command.startswith(("vltune ", ".venv/bin/vltune "))]
MADE = sorted(set(re.findall(r"\bmake ([a-z]+)\b", " ".join(COMMANDS))))


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """README's example of a search of one's own."""
    (code,) = _blocks("python")
    path = tmp_path / "layers.py"
    path.write_text(code, encoding="utf-8")
    return path


def test_the_readme_shows_every_command() -> None:
    shown = {shlex.split(command)[1] for command in OURS}
    parser = _parser()
    known = next(action.choices for action in parser._actions if action.choices and action.dest != "help")
    assert known is not None
    assert shown == set(known)


@pytest.mark.parametrize("command", OURS)
def test_its_commands_are_understood(command: str, own_file: Path) -> None:
    arguments = _parser().parse_args(shlex.split(command)[1:])
    name = getattr(arguments, "search", None)
    if name is None:
        return
    search = load_search(str(own_file) if name == "layers.py" else name, SEARCHES)
    check(search, pins=parse_pins(getattr(arguments, "set", []), search.family.Config))
    if getattr(arguments, "row", None):
        lookup(search.rows, arguments.row, "row")


def test_its_own_search_asks_for_what_it_shows(own_file: Path) -> None:
    search = load_search(str(own_file), SEARCHES)
    check(search, pins={})
    with pytest.raises(BadInput, match="head"):
        check(search, pins={"heads": 3})  # 128 is no multiple of 3: the check does look at the space


def test_make_knows_its_targets() -> None:
    assert {"quickstart", "test"} <= set(MADE)
    for target in MADE:
        assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), target


def test_its_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_the_architecture_page_names_every_file_of_the_engine() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "platform" / "vltune").glob("*.py")} - {"__init__.py"}
    assert {name for name in files if f"`{name}`" not in page} == set()


def test_every_shipped_search_and_every_further_metric_is_listed() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", README, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"\w+", row)}
    assert listed == {*SEARCHES, *FURTHER}


def test_the_followed_parameter_is_found_where_it_says() -> None:
    """The lines of its grep are lines of the sources, cut where the page ends."""
    (block,) = (block for block in _blocks("console") if "$ grep" in block)
    found = re.findall(r"^([\w/]+\.py):(.*)$", block, re.MULTILINE)
    assert len(found) >= 5
    for file, text in found:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        assert any(line.startswith(text) for line in lines), (file, text)


def test_quickstart_captions_pictures_that_it_has_not_seen(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "quickstart", f"VLTUNE_STORAGE={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = [Path(text) for text in re.findall(r"\S+\.jpg", done.stdout)]
    assert len(shown) == 3
    write_scenes(str(tmp_path / "scenes"))
    images = json.loads((tmp_path / "scenes" / "dataset_coco.json").read_text())["images"]
    test_split = [f"{image['filepath']}/{image['filename']}" for image in images if image["split"] == "test"]
    assert [f"{path.parent.name}/{path.name}" for path in shown] == test_split[:3]
    assert all(path.is_file() for path in shown)
