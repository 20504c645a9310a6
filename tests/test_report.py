"""The report of a run: a page that needs nothing else, tells the truth, and lets no text become markup."""

import dataclasses
import itertools
import re
import shlex
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_runs import HOSTILE, IDS, Toy, add, fill, pictures, small_run
from test_cli import Say, say  # noqa: F401 - a fixture

from trainables import FAMILIES
from vltune import conclusion, report_plots
from vltune import report as reporting
from vltune.checkpoints import RECORDS
from vltune.columns import read_records, write_records
from vltune.errors import BadInput, NotFound
from vltune.findings import cautions, gather, verdict
from vltune.inline import picture_uri, shown_picture
from vltune.ledger import Ledger
from vltune.parameters import Parameter
from vltune.promotion import promote, winner
from vltune.report import Report, Sources, write_report
from vltune.report_answer import answer
from vltune.report_space import range_words
from vltune.search_files import load_search
from vltune.summary import table, trial_folder, write_summary

VOID = ("meta", "wbr", "img", "br", "use", "path", "circle")
SOURCES = Sources(families={"captioning": Toy})


class Reader(HTMLParser):
    """What a page says, points to and shows; every tag has to be closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.pictures: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.inner: list[str] = []
        self.tags: list[str] = []
        self.rows: list[dict[str, str]] = []
        """Of the table of results: title of the column -> what stands in it."""
        self.cell = ""
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.inner += [found["data-page"] or ""] if "data-page" in found else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag == "tr":
            self.rows.append({})
        if tag == "td":
            self.cell = found["data-title"] or ""
            self.rows[-1][self.cell] = ""
        if tag == "img":
            self.pictures.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "td" in self.open:
            self.rows[-1][self.cell] += data
        if self.headings and self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, said = self.headings[-1]
            self.headings[-1] = level, said + data


@pytest.fixture(autouse=True)
def _data() -> None:
    Toy.data = pictures()


def report(ledger: Ledger, storage: Path, *runs: str, sources: Sources = SOURCES, ended: bool = False) -> Reader:
    written = write_report(ledger, runs or ["toy"], storage=storage, sources=sources, ended=ended)
    return sound(written.path.read_text(encoding="utf-8"))


def sound(text: str) -> Reader:
    """A page, after all that is true of every page was checked."""
    page = Reader(text)
    assert all(link.startswith(("#", "data:image/")) for link in page.links), "nothing is asked of a network"
    assert not re.search(r"@import|url\((?!#)|<link|<base", text.split("data-page=")[0])
    assert {link[1:] for link in page.links if link.startswith("#")} <= {*page.ids}
    assert len(page.ids) == len({*page.ids}), "an id names one thing"
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1, "a page has one title, first"
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels)), "no level is left out"
    assert all(said.strip() for _, said in page.headings)
    assert all(picture.get("alt") for picture in page.pictures)
    assert "script" not in page.tags, "what users wrote stays text"
    assert "bold</b>" not in text.split("data-page=")[0]
    return page


def test_the_story_of_a_run(tmp_path: Path) -> None:
    page = report(small_run(tmp_path), tmp_path, ended=True)
    text = " ".join(page.text.split())
    assert "“toy-001” (dropout 0.25, decoder gru) is the best: cider 0.5000 (95 % interval [0.405, 0.595])." in text
    assert "That is 25 % better than the base row, “LSTM”: a significant difference (p < 0.001)." in text
    assert "2 finished, 1 pruned, 1 failed" in text
    assert "failed: no room: <memory>" in text
    assert "train 40, validation 40, test 3" in text
    assert f"Which is best? {HOSTILE}" in text
    assert "How alike <captions> are." in text
    for command in ("rerun toy-001", "confirm toy --top 3", "promote toy", "predict toy@champion PICTURE.jpg"):
        assert f"vltune {command} " in text
    assert "module tree <of> all" in text
    assert [said for level, said in page.headings if said in ("Searched", "Set by hand")] == ["Searched", "Set by hand"]
    assert [said for level, said in page.headings if level == 2] == [
        "Read this with care",
        "The question and the data",
        "What was tried",
        "All results",
        "How it went",
        "What the models say",
        "Inside the best trial",
        "The model and its configuration",
        "Do it again, and use it",
    ]


def test_the_table_has_the_numbers_of_the_best_epochs(tmp_path: Path) -> None:
    _, *rows = report(small_run(tmp_path), tmp_path).rows
    found = {row["name"]: row for row in rows}
    assert [*found] == ["toy-001", "LSTM", "toy-002", "toy-003"], "the best first, what failed last"
    for name, cider in (("toy-001", 0.5), ("LSTM", 0.4), ("toy-002", 0.1)):
        for metric, value in (("cider", cider), ("bleu_4", cider / 2), ("val_loss", 3 - cider)):
            shown = re.match(r"[\d.]+", found[name][metric])
            assert shown is not None
            assert float(shown[0]) == pytest.approx(value, abs=5e-5)
    assert found["toy-003"]["cider"] == "–"
    assert found["toy-001"]["% over base"].startswith("+25")
    assert found["toy-003"]["remark"] == "failed: no room: <memory>"


def test_it_is_careful(tmp_path: Path) -> None:
    ledger = fill(tmp_path)
    add(ledger, tmp_path, row="LSTM", values=(0.49,))
    for i in range(5):
        add(ledger, tmp_path, values=(0.50 - 0.01 * i,), dropout=0.1 * i)
    found = gather(ledger, "toy", tmp_path)
    lines = " ".join(cautions(found, verdict(found, p=0.4)))
    assert "not significant (n.s.)" in lines
    assert "The best of 6 configurations is also the luckiest" in lines
    assert "`vltune confirm toy`" in lines
    assert "one seed" in lines
    assert "only 40 samples" in lines
    assert "Nobody has read the test split yet" in lines
    sure = " ".join(cautions(found, verdict(found, p=0.001)))
    assert "n.s." not in sure


@pytest.mark.parametrize(
    ("different", "words"),
    [(1, "wrote one and the same caption for 40 pictures"), (4, "wrote only 4 captions for 40 pictures"), (5, "")],
)
def test_a_model_that_says_the_same_of_all_pictures_is_told(tmp_path: Path, different: int, words: str) -> None:
    ledger = fill(tmp_path)
    add(ledger, tmp_path, row="LSTM")
    checkpoint = gather(ledger, "toy", tmp_path).checkpoint
    assert checkpoint is not None
    said = read_records(checkpoint / RECORDS)
    write_records(checkpoint / RECORDS, [r | {"caption": f"dog {i % different}"} for i, r in enumerate(said)])
    found = gather(ledger, "toy", tmp_path)
    lines = " ".join(cautions(found, verdict(found, p=None)))
    assert ("The best model" in lines) == bool(words)
    assert words in lines
    if words:
        assert report(ledger, tmp_path).text.count(words) == 2, "above, and beside the captions"


def test_the_test_split_is_told_once_it_was_read(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    best = ledger.trial("toy-001")
    (trial_folder(tmp_path, best) / "test_scores.json").write_text('{"metrics": {"cider": 0.25}, "warning": ""}')
    text = report(ledger, tmp_path).text
    assert "the best trial's cider is 0.25: worse than the 0.5 of the validation split" in text
    assert "Nobody has read" not in text


def test_a_run_that_nobody_has_started(tmp_path: Path) -> None:
    page = report(fill(tmp_path), tmp_path)
    assert "There is no answer yet" in page.text
    assert "No trial has been started yet" in page.text


def test_a_run_whose_trials_all_failed(tmp_path: Path) -> None:
    ledger = fill(tmp_path)
    add(ledger, tmp_path, values=(), state="failed")
    page = report(ledger, tmp_path, ended=True)
    assert "There is no answer yet" in page.text
    assert "no room: <memory>" in page.text


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    ledger = fill(tmp_path)
    add(ledger, tmp_path, row="LSTM")
    add(ledger, tmp_path, values=(0.3,), state="running")
    ledger.acquire("toy")
    page = report(ledger, tmp_path)
    assert "The search is still running" in page.text
    ledger.release("toy")
    assert "was interrupted before its end" in report(ledger, tmp_path).text


def test_the_best_may_be_the_base_row(tmp_path: Path) -> None:
    ledger = fill(tmp_path)
    add(ledger, tmp_path, row="LSTM", values=(0.9,))
    add(ledger, tmp_path, values=(0.3,))
    assert "That is the base row itself" in report(ledger, tmp_path).text


def test_checkpoints_that_are_gone_are_missed(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    shutil.rmtree(tmp_path / "toy" / "trials")
    page = report(ledger, tmp_path)
    assert "No intervals: no checkpoint that they come from is left." in page.text
    assert "is not known: its checkpoint is gone" in page.text
    assert "train the trial again before promoting it" in page.text
    assert "There are no drawings of toy-001: they are gone." in page.text
    assert not page.pictures


def test_one_model_without_its_checkpoint_is_named(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    shutil.rmtree(trial_folder(tmp_path, ledger.trial("toy-000")) / "checkpoints")
    text = report(ledger, tmp_path).text
    assert "The captions of LSTM (base row) are not shown: its checkpoint is gone." in text


def test_the_gallery_says_who_said_what(tmp_path: Path) -> None:
    page = report(small_run(tmp_path), tmp_path)
    shown = [picture for picture in page.pictures if str(picture["alt"]).startswith("People wrote: people say ")]
    assert len(shown) == 12, "three of each kind"
    assert [said for level, said in page.headings if said in ("Best", "Usual", "Worst")] == ["Best", "Usual", "Worst"]
    # the scores of the models on one picture lie apart by its place modulo three, and by 0.1 i / 40
    assert "Where the models differ most" in [said for _, said in page.headings]
    assert f"{HOSTILE} 38" in page.text
    assert "toy-001 (best)" in page.text


def test_the_gallery_has_the_best_of_many_groups(tmp_path: Path) -> None:
    ledger = fill(tmp_path, group_by="dropout")
    add(ledger, tmp_path, row="LSTM", values=(0.1,))
    for value in (0.3, 0.6, 0.2, 0.5, 0.4):
        add(ledger, tmp_path, values=(value,), dropout=value)
    text = report(ledger, tmp_path).text
    shown = ("toy-002 (best)", "LSTM (base row)", "toy-004 (best with dropout=0.5)", "toy-005 (best with dropout=0.4)")
    for model in shown:
        assert f"{model}cider" in text
    left_out = "toy-001 (best with dropout=0.3), toy-003 (best with dropout=0.2)"
    assert f"No more than 4 models are shown. Left out, because others were better: {left_out}." in text


def test_without_the_data_the_kept_pictures_are_shown(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    Toy.data = dataclasses.replace(pictures(), hash="another")
    page = report(ledger, tmp_path)
    assert "is not what it was when the run was started" in page.text
    assert "the few pictures that checkpoints keep" in page.text
    assert "chosen from 10 so that" in page.text
    ids = {
        int(str(picture["alt"]).rsplit(" ", 1)[1]) for picture in page.pictures if "people say" in str(picture["alt"])
    }
    assert ids <= {*range(10)}, "those that checkpoints keep"
    assert ids


def test_pictures_come_as_they_were_given(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    wide = np.zeros((600, 1200, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "a.png")
    Toy.data = dataclasses.replace(pictures(), files=dict.fromkeys(IDS, str(tmp_path / "a.png")))
    assert shown_picture(tmp_path / "a.png").shape == (240, 480, 3)
    page = report(ledger, tmp_path)
    assert picture_uri(shown_picture(tmp_path / "a.png")) in [picture["src"] for picture in page.pictures]


def test_a_family_without_captions_shows_its_own_drawings(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    page = report(ledger, tmp_path, sources=Sources(families={}))
    headings = [said for _, said in page.headings]
    assert f"Errors {HOSTILE}" in headings
    assert "the family captioning is not among those that vltune brings" in page.text
    for file in tmp_path.rglob("records.parquet"):
        file.unlink()
    headings = [said for _, said in report(ledger, tmp_path).headings]
    assert {"Captions", f"Errors {HOSTILE}"} <= {*headings}, "its own gallery, for want of a common one"
    assert "What the models say" not in headings


def test_optunas_plots_lie_folded_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def plots(url: str, run: str, *, objectives: dict[str, str]) -> str:
        asked.append((url, run, objectives))
        return f"<!doctype html><title>{HOSTILE}</title>"

    monkeypatch.setattr(report_plots, "study_page", plots)
    ledger = small_run(tmp_path)
    assert report(ledger, tmp_path).inner == [f"<!doctype html><title>{HOSTILE}</title>"]
    assert asked == [(ledger.url, "toy", {"cider": "max"})]
    monkeypatch.setattr(report_plots, "study_page", lambda *_, **__: "")
    assert report(ledger, tmp_path).inner == []


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    ledger = fill(tmp_path, further_objectives=("parameters",), pruner="none")
    for i in range(4):
        add(ledger, tmp_path, row="LSTM" if i == 0 else "", values=(0.2 + 0.1 * i,), dropout=0.1 * i)
    page = report(ledger, tmp_path)
    assert "The front" in [said for _, said in page.headings]
    assert "The search had 2 objectives." in page.text
    assert "a measure of its size" in page.text


def test_several_seeds_are_one_answer(tmp_path: Path) -> None:
    ledger = fill(tmp_path, seeds=2)
    for seed, value in ((0, 0.3), (1, 0.5)):
        add(ledger, tmp_path, row="LSTM", values=(value,), seed=seed)
    for seed, value in ((0, 0.6), (1, 0.8)):
        add(ledger, tmp_path, row="GRU", values=(value,), seed=seed, decoder="gru")
    text = report(ledger, tmp_path).text
    assert "cider 0.7000 (±0.141 over seeds)" in text  # the sample deviation of 0.6 and 0.8
    assert "75 % better than the base row" in text  # 0.7 of 0.4
    assert "one seed" not in text


def test_a_seed_is_not_told_for_the_mean(tmp_path: Path) -> None:
    ledger = fill(tmp_path, seeds=2)
    for seed, value in ((0, 0.3), (1, 0.5)):
        add(ledger, tmp_path, row="LSTM", values=(value,), seed=seed)
    uids = [
        add(ledger, tmp_path, row="GRU", values=(value,), seed=seed, decoder="gru")
        for seed, value in ((0, 0.6), (1, 0.8))
    ]
    (trial_folder(tmp_path, ledger.trial(uids[1])) / "test_scores.json").write_text('{"metrics": {"cider": 0.75}}')
    shutil.rmtree(trial_folder(tmp_path, ledger.trial(uids[0])) / "checkpoints")
    written = write_report(ledger, ["toy"], storage=tmp_path, sources=SOURCES)
    text = sound(written.path.read_text()).text
    assert "“GRU” is the best: cider 0.7000 (±0.141 over seeds)" in text
    assert "the best trial's cider is 0.75: worse than the 0.8 of the validation split" in text
    assert "would change the best value, is not known: the checkpoint of one of its seeds is gone" in text
    assert "cannot be resampled" not in text
    best = written.runs["toy"]["best"]
    assert (best["name"], best["seeds"], best["uid"], best["value"]) == ("GRU", 2, uids[1], pytest.approx(0.7))


def commands(ledger: Ledger, storage: Path) -> dict[str, str]:
    """Name of a command that the page of a run offers -> its line."""
    text = write_report(ledger, ["toy"], storage=storage, sources=SOURCES).path.read_text()
    lines = map(unescape, re.findall(r'<pre class="wrap"><code>(vltune .*?)</code>', text))
    return {line.split()[1]: line for line in lines}


def test_captions_from_elsewhere_are_not_promoted(tmp_path: Path) -> None:
    ledger = fill(tmp_path, space="predictions", base_row="", rows={})
    for value in (0.4, 0.3, 0.2, 0.1, 0.05):
        add(ledger, tmp_path, values=(value,), model=False)
    assert commands(ledger, tmp_path).keys() == {"report"}
    text = report(ledger, tmp_path).text
    assert "weights come out the same" not in text
    shutil.rmtree(tmp_path / "toy" / "trials")
    assert "train the trial again" not in report(ledger, tmp_path).text
    lines = " ".join(cautions(found := gather(ledger, "toy", tmp_path), verdict(found, p=None)))
    assert "The best of 5 configurations is also the luckiest" in lines
    for word in ("one seed", "confirm", "Promotion"):
        assert word not in lines
    note = write_summary(ledger, "toy", tmp_path)["note"]
    assert "toy-000" in note
    assert "promote" not in note
    with pytest.raises(BadInput, match="written elsewhere: there is no model to promote"):
        promote(tmp_path, "toy", uid=None, name=None, alias="a", data=None, families={}, say=print)
    fill(tmp_path, "models", base_row="", rows={})
    add(ledger, tmp_path, run="models", values=(0.1,))
    heard: list[str] = []
    assert winner(ledger, ["toy", "models"], say=heard.append) == ("models", "models-000")
    assert heard == ["the run toy is left out: its captions were written elsewhere, so there is no model to promote."]


def test_a_run_of_named_rows_alone_has_searched_nothing(tmp_path: Path) -> None:
    ledger = fill(tmp_path, base_row="", rows={"theirs": {}}, num_trials=1, pins={"seed": 4}, seeds=2)
    add(ledger, tmp_path, row="theirs", values=(0.4,))
    text = report(ledger, tmp_path).text
    assert "One named configuration ran to the end: “theirs”." in text
    for words in ("sampler", "Searched", "Set by hand", "Learning curves", ", best epoch", "interactive plots"):
        assert words not in text
    searched = fill(tmp_path, "long", base_row="", rows={"theirs": {}}, pins={"seed": 4})
    add(searched, tmp_path, run="long", row="theirs")
    text = report(searched, tmp_path, "long").text
    for words in (
        "chosen by the sampler",
        "ran first, and to the end",
        "Set by hand",
        "Learning curves",
        ", best epoch",
    ):
        assert words in text


@pytest.mark.parametrize("model", [True, False])
def test_a_row_alone_is_compared_with_nothing(tmp_path: Path, model: bool) -> None:
    ledger = fill(tmp_path, base_row="theirs", rows={"theirs": {}}, num_trials=1)
    add(ledger, tmp_path, row="theirs", values=(0.4,), model=model)
    shown = table(ledger, ["toy"], storage=tmp_path)
    text = Reader(answer(gather(ledger, "toy", tmp_path, ended=True), shown, several=False)).text.replace("\u00a0", " ")
    said = "“theirs” is the best: " if model else "“theirs”: captions that were made elsewhere, scored here: "
    assert text.startswith(f"{said}cider 0.4000 (95 % interval [0.305, 0.495]).")
    assert "base row" not in text


def test_a_population_is_not_confirmed(tmp_path: Path) -> None:
    ledger = fill(tmp_path, population={"size": 5, "segment_epochs": 1})
    for value in (0.4, 0.3, 0.2, 0.1, 0.05):
        add(ledger, tmp_path, values=(value,))
    assert commands(ledger, tmp_path).keys() == {"rerun", "promote", "predict"}
    found = gather(ledger, "toy", tmp_path)
    assert "vltune confirm" not in " ".join(cautions(found, verdict(found, p=None)))


def test_a_family_of_ones_own_is_named_with_its_file(tmp_path: Path) -> None:
    file = "/my files/toy.py"
    ledger = fill(tmp_path, space=file)
    add(ledger, tmp_path)
    found = commands(ledger, tmp_path)
    assert found.keys() == {"rerun", "confirm", "promote", "predict"}
    for name, line in found.items():
        given = shlex.split(line)
        assert ("--space" in given) == (name in ("promote", "predict"))
        assert "--space" not in given or given[given.index("--space") + 1] == file
    assert "`vltune promote toy --space '/my files/toy.py'`" in write_summary(ledger, "toy", tmp_path)["note"]


def test_a_base_row_may_score_nothing(tmp_path: Path) -> None:
    ledger = fill(tmp_path)
    add(ledger, tmp_path, row="LSTM", values=(0.0,))
    add(ledger, tmp_path, values=(0.5,), decoder="gru")
    text = report(ledger, tmp_path).text
    assert "That is better than the base row, “LSTM”, which has 0: a significant difference (p < 0.001)." in text
    assert "nothing that was tried did better" not in text


@pytest.mark.parametrize("dropout", [0.1, 0.3], ids=["a configuration of both", "another one"])
def test_a_run_says_beside_others_what_it_says_alone(tmp_path: Path, dropout: float) -> None:
    """The common table folds what both have, and its p-values are of the first base row, corrected for all rows."""
    ledger = fill(tmp_path)
    add(ledger, tmp_path, row="LSTM", values=(0.2,), seed=3)
    add(ledger, tmp_path, row="GRU", values=(0.5,), decoder="gru", seed=3, dropout=0.1)
    fill(tmp_path, "again")
    add(ledger, tmp_path, run="again", row="LSTM", values=(0.5,), dropout=0.4, seed=4)
    add(ledger, tmp_path, run="again", row="GRU", values=(0.51,), decoder="gru", seed=4, dropout=dropout)
    alone = {}
    for run in ("toy", "again"):
        alone |= write_report(ledger, [run], storage=tmp_path, sources=SOURCES).runs
    both = write_report(ledger, ["toy", "again"], storage=tmp_path, sources=SOURCES)
    assert both.runs == alone
    text = " ".join(sound(both.path.read_text()).text.split())
    assert "“GRU” is the best: cider 0.5000 (95 % interval [0.405, 0.595])" in text
    assert "“GRU” is the best: cider 0.5100" in text
    assert "150 % better than the base row" in text
    assert "2 % better than the base row" in text


def test_runs_of_one_data_set_stand_side_by_side(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    fill(tmp_path, "other", base_row="", rows={})
    add(ledger, tmp_path, run="other", values=(0.7,), decoder="transformer", captions="a cat")
    page = report(ledger, tmp_path, "toy", "other")
    assert "toy: toy-001" in page.text
    assert "a cat 3" in page.text
    assert page.headings[0] == (1, "2 runs on the same data, side by side")
    fill(tmp_path, "else", data_hash="e" * 64)
    add(ledger, tmp_path, run="else", values=(0.7,), hash="e" * 64)
    with pytest.raises(BadInput, match="scores on different data do not compare"):
        report(ledger, tmp_path, "toy", "else")


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    with pytest.raises(BadInput, match=r"--out .*nowhere/a\.html: it cannot be written \(No such file"):
        write_report(ledger, ["toy"], storage=tmp_path, sources=SOURCES, out=tmp_path / "nowhere" / "a.html")
    with pytest.raises(NotFound, match="there is no run 'tyo' here; did you mean 'toy'"):
        write_report(ledger, ["tyo"], storage=tmp_path, sources=SOURCES)


def test_ranges_are_words() -> None:
    words = {
        Parameter(name="a", kind="float", low=1e-4, high=3e-3, log=True): "a number from 0.0001 to 0.003, evenly over "
        "orders of magnitude",
        Parameter(name="a", kind="int", low=16, high=32, step=8): "a whole number from 16 to 32, in steps of 8",
        Parameter(name="a", kind="categorical", choices=("lstm", "gru", True)): "lstm, gru or true",
        Parameter(name="a", kind="categorical", choices=("imagenet",)): "always imagenet",
    }
    assert [range_words(parameter) for parameter in words] == [*words.values()]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_metrics_say_is_of_metrics_that_there_are(name: str) -> None:
    """Families that write captions share their words, and not all measure all that these explain."""
    there_are = {metric for family in FAMILIES.values() for metric in family.metrics}
    assert {*FAMILIES[name].explained} <= {*there_are, "train_loss"}


def test_the_runs_note_leads_to_the_report(tmp_path: Path) -> None:
    ledger = small_run(tmp_path)
    written = write_report(ledger, ["toy"], storage=tmp_path, sources=SOURCES)
    payload = write_summary(ledger, "toy", tmp_path, report=written.path.name)
    assert written.path.parent == Path(payload["files"])
    assert payload["note"].startswith("**[Read the report](#/experiments/{experiment_id}/runs/{run_id}/artifacts/")
    assert "comparison/report.html?" in payload["note"]
    assert "Read the report" not in write_summary(ledger, "toy", tmp_path)["note"]


# -- the command


def test_the_command_tells_where_the_page_is(say: Say, tmp_path: Path) -> None:  # noqa: F811
    small_run(tmp_path)
    out = tmp_path / "page.html"
    code, said, err = say("report", "toy", "--storage", tmp_path, "--out", out, "--json")
    assert (code, err) == (0, "")
    assert f'"path": "{out}"' in said
    assert '"uid": "toy-001"' in said
    sound(out.read_text())
    code, said, _ = say("report", "toy", "--storage", tmp_path)
    assert code == 0
    assert (tmp_path / "toy" / "comparison" / "report.html").is_file()
    assert "toy: interrupted; best toy-001, cider 0.5" in said


def test_a_space_is_told_with_the_constants_of_the_run(say: Say, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "long.py"
    file.write_text(LONG)
    small_run(tmp_path)
    for name, pins in (("long", {"epochs": 20}), ("broken", {})):
        ledger = fill(tmp_path, name, space=str(file), source=LONG, pins=pins, base_row="", rows={})
        add(ledger, tmp_path, run=name, dropout=0.25)
        code, _, err = say("report", name, "--storage", tmp_path)
        assert (code, err) == (0, "")
    told = [(tmp_path / name / "comparison" / "report.html").read_text() for name in ("long", "broken")]
    assert "a number from 0 to 0.5" in told[0]
    assert "these are the values that trials had" not in told[0]
    assert "these are the values that trials had" in told[1], "it breaks the rule of the 10 epochs"


def test_a_search_tells_its_space_with_its_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, told, said = tmp_path / "long.py", {}, []
    file.write_text(LONG)
    ledger = fill(tmp_path, "long", pins={"epochs": 20}, base_row="", rows={})

    def write(*_: Any, sources: Sources, **__: Any) -> Report:
        told.update(sources.spaces)
        return Report(tmp_path / "report.html", {})

    monkeypatch.setattr(reporting, "write_report", write)
    add(ledger, tmp_path, run="long")
    monkeypatch.setattr(conclusion, "write_summary", lambda *_, report, **__: {"report": report})
    search = load_search(str(file), {})
    conclusion.conclude(ledger, ledger.search("long"), search, tmp_path, generations=None, say=said.append)
    assert said == [], "without its constants it breaks the rule of the 10 epochs"
    assert ledger.pending("long", after=0, limit=99)[-1].payload == {"report": "report.html"}
    assert [str(parameter) for parameter in told["long"].parameters] == ["dropout: float 0 to 0.5"]
    assert told["long"].fixed["epochs"] == 20


LONG = '''"""Which rate of dropout?"""

from trainables.captioning import Captioning, CaptioningConfig
from vltune.contract import Search
from vltune.errors import BadInput


class LongConfig(CaptioningConfig):
    def __post_init__(self):
        super().__post_init__()
        if self.epochs <= 10:
            raise BadInput("epochs has to be more than 10")


class Long(Captioning):
    Config = LongConfig


def define(trial):
    return LongConfig(epochs=10, dropout=trial.suggest_float("dropout", 0, 0.5))


SEARCH = Search(name="long", family=Long, define=define, objective="cider", num_trials=2)
'''
"""A space that is possible only with more epochs than it says itself."""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["report", "tyo"], 3, "did you mean 'toy'"),
        (["report", "toy", "--out", "nowhere/at/all.html"], 2, "--out nowhere/at/all.html"),
        (["report", "toy", "--out", "."], 2, "this is a folder"),
        (["compare", "toy", "--gallery", "a.gif"], 2, "end the file's name in .html or .png"),
        (["compare", "toy", "--gallery", "nowhere/a.png"], 2, "--gallery nowhere/a.png"),
    ],
)
def test_what_is_wrong_is_one_line(say: Say, tmp_path: Path, arguments: list[str], code: int, text: str) -> None:  # noqa: F811
    small_run(tmp_path)
    found, out, err = say(*arguments, "--storage", tmp_path)
    assert (found, out) == (code, "")
    assert text in err.strip().splitlines()[-1]


def test_a_gallery_is_a_page_or_a_picture(say: Say, tmp_path: Path) -> None:  # noqa: F811
    ledger = small_run(tmp_path)
    fill(tmp_path, "other", base_row="", rows={})
    add(ledger, tmp_path, run="other", values=(0.7,), captions="a cat")
    code, _, err = say("compare", "toy", "other", "--storage", tmp_path, "--gallery", tmp_path / "g.html")
    assert code == 0
    assert "gallery: " in err
    page = sound((tmp_path / "g.html").read_text())
    assert "a cat 3" in page.text
    assert f"{HOSTILE} 3" in page.text
    code, _, err = say("compare", "toy", "--storage", tmp_path, "--gallery", tmp_path / "g.png")
    assert code == 0
    with Image.open(tmp_path / "g.png") as image:
        assert image.width > 800
