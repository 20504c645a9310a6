import json
import socket
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from trainables.parts import java
from trainables.parts.java import peer_file
from trainables.parts.spice import score_spice
from trainables.parts.spice_files import spice_hash
from vltune.errors import BadInput, NotFound, TrainingFailure

PROGRAM = """
import json, sys, time
arguments = sys.argv[1:]
json.dump(arguments, open({log!r}, "w"))
asked = json.load(open(arguments[arguments.index("edu.anu.spice.SpiceScorer") + 1]))
out = arguments[arguments.index("-out") + 1]
def scored(row):
    words = set(row["test"].split())
    f = len(words & set(" ".join(row["refs"]).split())) / max(1, len(words))
    return {{"image_id": row["image_id"], "scores": {{"All": {{"f": f, "pr": f, "re": f, "tp": 1}}}}}}
rows = [scored(row) for row in asked]
{body}
json.dump(rows, open(out, "w"))
"""


@pytest.fixture
def folder(tmp_path):
    """Jars by name only, and one that announces a script engine."""
    path = tmp_path / "jars"
    path.mkdir()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        with zipfile.ZipFile(path / name, "w") as jar:
            jar.writestr("empty", "")
    with zipfile.ZipFile(path / "nashorn-core-15.4.jar", "w") as jar:
        jar.writestr("META-INF/services/javax.script.ScriptEngineFactory", "a.b.C")
    return path


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Takes the place of Java by a program that writes what SPICE's documentation says of its output."""

    def replace(body=""):
        path = tmp_path / "java"
        path.write_text(f"#!{sys.executable}\n" + PROGRAM.format(body=body, log=str(tmp_path / "log")))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(java, "JAVA", path)
        return tmp_path / "log"

    return replace


CAPTIONS = ["a dog runs", "red", "the cat"]
REFERENCES = [["a dog", "it runs"], ["blue"], ["the dog"]]


def test_scores_of_the_whole_and_of_each(program, folder):
    log = program("rows.reverse()")
    scores = score_spice(CAPTIONS, REFERENCES, folder=str(folder))
    assert scores.records == [{"spice": 1.0}, {"spice": 0.0}, {"spice": 0.5}]
    assert scores.metrics == {"spice": 0.5}
    arguments = json.loads(log.read_text())
    assert {"-Xmx8G", "--add-opens=java.base/java.lang=ALL-UNNAMED", "-Duser.language=en"} <= set(arguments)
    path = arguments[arguments.index("-cp") + 1].split(":")
    assert {str(jar) for jar in folder.iterdir()} < set(path)
    assert str(peer_file("spice", "spice-1.0.jar")) == path[0]
    assert all(Path(jar).is_file() for jar in path)
    assert "-cache" not in arguments
    # nothing stays behind
    assert not Path(arguments[arguments.index("-out") + 1]).parent.exists()


def test_parses_are_kept_where_a_folder_is_given(program, folder, tmp_path, monkeypatch):
    log = program()
    score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
    arguments = json.loads(log.read_text())
    parses = Path(arguments[arguments.index("-cache") + 1])
    assert parses.is_dir()
    assert parses.is_relative_to(tmp_path / "cache" / "spice")
    # two machines do not share them
    monkeypatch.setattr(socket, "gethostname", lambda: "another/machine")
    score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
    arguments = json.loads(log.read_text())
    others = Path(arguments[arguments.index("-cache") + 1])
    assert others.is_dir()
    assert (others.parent, others.name) == (parses.parent, "another%2Fmachine")


def test_damaged_parses_are_put_away(program, folder, tmp_path):
    log = program()
    expected = score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
    arguments = json.loads(log.read_text())
    parses = Path(arguments[arguments.index("-cache") + 1])
    (parses / "data.mdb").write_text("damaged")
    damaged = "import os; '-cache' in arguments and os.listdir(arguments[-1]) and sys.exit('MDB_CORRUPTED')"
    program(damaged)
    assert score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache")) == expected
    assert not parses.exists()
    program("sys.exit('no memory')")
    with pytest.raises(TrainingFailure, match="no memory"):
        score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
    assert parses.exists(), "they were not to blame"


def test_a_folder_below_home(program, folder, tmp_path, monkeypatch):
    program()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert score_spice(CAPTIONS, REFERENCES, folder="~/jars").metrics == {"spice": 0.5}
    assert len(spice_hash("~/jars")) == 64


def test_what_is_missing_is_said_in_one_line(folder, tmp_path):
    with pytest.raises(
        NotFound, match=r"^SPICE needs stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models"
    ) as e:
        score_spice(["a"], [["b"]], folder="")
    assert "\n" not in str(e.value)
    assert f"in {peer_file('spice', 'lib')}: " in str(e.value)
    (tmp_path / "other").mkdir()
    with pytest.raises(
        NotFound, match=r"^SPICE needs .*models.jar and a JavaScript engine .* in .*/other: .*copy them"
    ):
        score_spice(["a"], [["b"]], folder=str(tmp_path / "other"))
    (folder / "nashorn-core-15.4.jar").write_bytes(b"no archive")
    with pytest.raises(NotFound, match=r"^SPICE needs a JavaScript engine \(nashorn-core and asm jars\) in .*/jars: "):
        score_spice(["a"], [["b"]], folder=str(folder))
    with pytest.raises(NotFound, match=r"^/no/where: there is no such folder"):
        score_spice(["a"], [["b"]], folder="/no/where")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("rows[1]['scores']['All']['f'] = None", "gave picture 1 no number"),
        ("rows[2]['scores']['All']['f'] = float('inf')", "gave picture 2 no number"),
        ("del rows[1]", "scored 2 of 3 pictures"),
        ("del rows[1]['scores']", r"wrote no scores that can be read: KeyError\('scores'\)"),
        ("sys.exit(0)", "wrote no scores that can be read: FileNotFoundError"),
        ("sys.exit('Parsing\\nException: what\\n\\tat here')", "failed with exit status 1: Exception: what$"),
        ("time.sleep(60)", r"did not answer in 3 s and was stopped\.$"),
    ],
)
def test_what_goes_wrong_is_said(program, folder, body, message):
    program(body)
    with pytest.raises(TrainingFailure, match=f"^SPICE {message}"):
        score_spice(CAPTIONS, REFERENCES, folder=str(folder), timeout=3.0 if "sleep" in body else 120.0)


def test_refusals(folder):
    with pytest.raises(BadInput, match="no pictures"):
        score_spice([], [], folder=str(folder))


@pytest.mark.integration
def test_the_program_itself_starts_and_asks_for_the_parser(folder):
    with pytest.raises(TrainingFailure, match=r"^SPICE failed with exit status 1: .*edu.stanford.nlp"):
        score_spice(["a dog"], [["a cat"]], folder=str(folder))
