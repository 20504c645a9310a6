import json
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from trainables.parts import java, spice
from trainables.parts.java import peer_file
from trainables.parts.spice import score_spice
from trainables.parts.spice_files import spice_hash
from vltune.errors import BadInput, NotFound, TrainingFailure

PROGRAM = """
import json, os, sys, time
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


def test_parses_are_kept_where_a_folder_is_given(program, folder, tmp_path):
    log = program()
    score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
    arguments = json.loads(log.read_text())
    (kept,) = (tmp_path / "cache").glob("spice-*")
    assert arguments[arguments.index("-cache") + 1] == str(kept)
    assert kept.is_dir()


def test_each_machine_keeps_its_own_parses(program, folder, tmp_path, monkeypatch):
    """LMDB must not be shared over a network, and the cache may lie in a folder that is."""
    log, places = program(), []
    for host in ("node-1.cluster", "node-2.cluster", "node/3"):
        monkeypatch.setattr(spice.socket, "gethostname", lambda host=host: host)
        score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
        arguments = json.loads(log.read_text())
        places.append(arguments[arguments.index("-cache") + 1])
    assert [Path(place).name for place in places] == ["spice-node-1.cluster", "spice-node-2.cluster", "spice-node_3"]
    assert {Path(place).parent for place in places} == {tmp_path / "cache"}


BROKEN = """
if "-cache" in arguments and os.listdir(arguments[arguments.index("-cache") + 1]):
    {failure}
"""


@pytest.mark.parametrize("failure", ["sys.exit('org.fusesource.lmdbjni.LMDBException: MDB_CORRUPTED')", "del rows[0]"])
def test_parses_that_it_fails_with_are_set_aside(program, folder, tmp_path, failure):
    program()
    cache = str(tmp_path / "cache")
    expected = score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=cache)
    (kept,) = (tmp_path / "cache").glob("spice-*")
    program(BROKEN.format(failure=failure))
    for content in ("torn", "torn again"):
        (kept / "data.mdb").write_text(content)
        assert score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=cache) == expected
        assert not kept.exists()
        assert (tmp_path / "cache" / f"bad-{kept.name}" / "data.mdb").read_text() == content
        assert score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=cache) == expected
        assert kept.is_dir()


def test_parses_stay_where_they_are_not_at_fault(program, folder, tmp_path):
    program("sys.exit('Exception: what')")
    (tmp_path / "cache").mkdir()
    with pytest.raises(TrainingFailure, match="Exception: what"):
        score_spice(CAPTIONS, REFERENCES, folder=str(folder), cache=str(tmp_path / "cache"))
    assert [path.name[:6] for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["spice-"]


def test_a_folder_below_home_is_found(program, folder, monkeypatch):
    program()
    monkeypatch.setenv("HOME", str(folder.parent))
    assert score_spice(CAPTIONS, REFERENCES, folder="~/jars").metrics == {"spice": 0.5}
    assert spice_hash("~/jars") == spice_hash(str(folder))


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
