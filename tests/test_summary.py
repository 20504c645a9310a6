"""Tables over several families, and of both splits, from a ledger that was filled by hand."""

from pathlib import Path
from typing import Any

import pytest

from vltune.contract import EpochReport
from vltune.errors import BadInput, NotFound
from vltune.ledger import Ledger, SearchRecord
from vltune.promotion import winner
from vltune.summary import table

CAPTIONS = {"cider": "max", "val_loss": "min", "bleu_4": "max"}


def fill(ledger: Ledger, name: str, family: str, metrics: dict[str, Any], rows: dict[str, dict[str, float]]) -> None:
    """A run whose rows have finished with these metrics."""
    record = SearchRecord(
        name=name,
        search=name,
        space=name,
        source="",
        question="",
        objective="cider" if "cider" in metrics else next(iter(metrics)),
        direction="max",
        num_trials=len(rows),
        sampler="tpe",
        pruner="none",
        seed=0,
        pins={},
        data="x",
        data_hash="d" * 64,
        family=family,
        metrics=metrics,
        measured_by={"val_loss": ["min_word_count"], "cider": ["score_prompt"]},
        rows={row: {} for row in rows},
        columns=("cider", "val_loss") if "val_loss" in metrics else (),
    )
    ledger.create_search(record)
    own = {"captioning": {"min_word_count": 2}, "decoding": {"score_prompt": False, "top_k": 5}}.get(family, {})
    for number, (row, values) in enumerate(rows.items()):
        config = {"data": "x", "data_hash": "d" * 64, "seed": 0, **own}
        trial = ledger.add_trial(name, number, row=row, config=config, searched=(), notes=())
        ledger.start_attempt(trial.uid, time=1.0)
        told = {**values, "parameters": 10.0, "train_seconds": 1.0}
        ledger.record_epoch(trial.uid, EpochReport(epoch=1, metrics=told, time=1.0, last=True, best=True))
        ledger.end_trial(trial.uid, "finished")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.of(tmp_path)
    fill(ledger, "seen", "captioning", CAPTIONS, {"GRU": {"cider": 0.9, "val_loss": 2.0, "bleu_4": 0.2}})
    without_loss = {"cider": "max", "bleu_4": "max", "caption_length": "max"}
    written = {"beam": {"cider": 1.1, "bleu_4": 0.1, "caption_length": 9.0}}
    fill(ledger, "written", "decoding", without_loss, {**written, "greedy": {**written["beam"], "cider": 0.5}})
    fill(ledger, "found", "retrieval", {"mean_recall": "max"}, {"dual": {"mean_recall": 0.4}})
    return ledger


def test_captioners_of_several_families_stand_in_one_table(ledger: Ledger) -> None:
    shown = table(ledger, ["seen", "written"])
    assert shown.column("name") == ["beam", "GRU", "greedy"]
    assert shown.column("family") == ["decoding", "captioning", "decoding"]
    assert shown.column("cider") == [1.1, 0.9, 0.5]
    assert "val_loss" not in [column.key for column in shown.columns], "not all have it"
    assert shown.marks[0, "cider"] == "●"


def test_what_measures_differently_is_said(ledger: Ledger) -> None:
    words = {"plain": {"cider": 1.0, "val_loss": 3.0, "bleu_4": 0.3}}
    fill(ledger, "texts", "capdec", CAPTIONS, words)
    shown = table(ledger, ["seen", "texts"])
    assert any("min_word_count" in note and "val_loss" in note for note in shown.notes)
    assert not any("score_prompt" in note for note in shown.notes), "it is off in all"


def test_families_without_the_metric_are_refused_in_one_line(ledger: Ledger) -> None:
    with pytest.raises(BadInput, match=r"seen \(captioning\), found \(retrieval\).*have not all 'cider'.*no metric"):
        table(ledger, ["seen", "found"])
    with pytest.raises(BadInput, match=r"have not all 'val_loss'; they share the metrics cider, bleu_4"):
        table(ledger, ["seen", "written"], sort_by="val_loss")


def test_the_test_split_stands_beside_validation_and_orders_nothing(ledger: Ledger) -> None:
    uids = {trial.row: trial.uid for trial in ledger.trials("written")}
    tested = {
        uids["beam"]: ({"cider": 0.2, "bleu_4": 0.1}, "validation and test disagree: …"),
        uids["greedy"]: ({"cider": 0.6, "bleu_4": 0.1}, ""),
    }
    shown = table(ledger, ["written"], tested=tested)
    assert shown.column("name") == ["beam", "greedy"]
    assert shown.column("test_cider") == [0.2, 0.6]
    assert shown.marks[1, "test_cider"] == "●"
    assert any("test split, read on" in note for note in shown.notes)
    assert "validation and test disagree" in str(shown.column("remark")[0])


def test_a_trial_without_test_scores_has_empty_cells(ledger: Ledger) -> None:
    shown = table(ledger, ["written"], tested={})
    assert shown.column("test_cider") == [None, None]


def test_the_winner_is_the_best_of_all_runs(ledger: Ledger) -> None:
    assert winner(ledger, ["seen", "written"]) == ("written", "written-000")
    assert winner(ledger, ["written", "seen"], by="bleu_4") == ("seen", "seen-000")
    assert winner(ledger, ["seen"]) == ("seen", "seen-000")
    with pytest.raises(BadInput, match="seen' is after cider and 'found' after mean_recall: say with --by"):
        winner(ledger, ["seen", "found"])
    with pytest.raises(NotFound, match="unknown metric of found 'cider'"):
        winner(ledger, ["seen", "found"], by="cider")
