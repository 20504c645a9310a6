"""Tables over several families, and of both splits, from a ledger that was filled by hand."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from vltune.budgets import Budget
from vltune.checkpoints import RESAMPLES, TEST_RESAMPLES
from vltune.columns import write_resamples
from vltune.contract import EpochReport, Resampled
from vltune.errors import BadInput, NotFound
from vltune.ledger import Ledger
from vltune.ledger_records import SearchRecord
from vltune.promotion import winner
from vltune.summary import table, trial_folder

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
        drawn_with={"cider": "words stay as rare"},
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


def test_a_trial_of_an_interrupted_run_does_not_run(ledger: Ledger) -> None:
    trial = ledger.add_trial("seen", 1, row="next", config=ledger.trials("seen")[0].config, searched=(), notes=())
    ledger.start_attempt(trial.uid, time=1.0)
    assert table(ledger, ["seen"]).rows[-1].state == "running"
    ledger.set_state("seen", "interrupted")
    assert table(ledger, ["seen"]).rows[-1].state == "interrupted"
    assert table(ledger, ["seen"]).rows[0].state == "finished"


def test_what_was_set_for_all_rows_is_said(ledger: Ledger) -> None:
    assert not any("Set for" in note for note in table(ledger, ["seen"]).notes)
    ledger.change("seen", pins={"dropout": 0.5, "seed": 4})
    assert "Set for all rows: dropout=0.5." in table(ledger, ["seen"]).notes
    whole = ledger.trials("written")[0].config  # as of a record that is trained again
    ledger.change("written", pins=whole)
    told = [note for note in table(ledger, ["seen", "written"]).notes if "Set for" in note]
    assert told == ["Set for all rows of seen: dropout=0.5."]


def test_families_without_the_metric_are_refused_in_one_line(ledger: Ledger) -> None:
    with pytest.raises(BadInput, match=r"seen \(captioning\), found \(retrieval\).*have not all 'cider'.*no metric"):
        table(ledger, ["seen", "found"])
    fill(
        ledger,
        "judged",
        "matching",
        {"accuracy": "max", "val_loss": "min"},
        {"pairs": {"accuracy": 0.5, "val_loss": 1}},
    )
    with pytest.raises(BadInput, match=r"have not all 'val_loss'; they share no metric"):
        table(ledger, ["seen", "judged"], sort_by="val_loss")
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


# -- how sure the numbers are


def keep(ledger: Ledger, storage: Path, run: str, values: dict[str, float]) -> None:
    """Checkpoints of a run's trials, with resamples that lie around the value of each row."""
    for trial in ledger.trials(run):
        (report,) = ledger.epochs(trial.uid)
        folder = trial_folder(storage, trial) / "checkpoints" / f"epoch-0001.{trial.number:08x}"
        folder.mkdir(parents=True)
        ledger.record_epoch(trial.uid, dataclasses.replace(report, checkpoint=folder.name))
        around = values[trial.row] + np.linspace(-0.1, 0.1, 41)
        write_resamples(folder / RESAMPLES, Resampled({"cider": around}, 50, "k"))


def test_intervals_come_from_the_checkpoints(ledger: Ledger, tmp_path: Path) -> None:
    keep(ledger, tmp_path, "written", {"beam": 1.1, "greedy": 0.5})
    shown = table(ledger, ["written"], storage=tmp_path)
    assert shown.spreads[0, "cider"].interval == pytest.approx((1.1 - 0.095, 1.1 + 0.095))
    assert "[…]: 95 % bootstrap interval over 50 samples; cider: words stay as rare." in shown.notes
    assert not table(ledger, ["written"]).spreads
    both = table(ledger, ["seen", "written"], storage=tmp_path)
    assert "No interval: the checkpoint of GRU is gone." in both.notes
    shutil.rmtree(tmp_path / "written")
    none = table(ledger, ["written"], storage=tmp_path)
    assert "No intervals: no checkpoint that they come from is left." in none.notes


def test_the_test_split_has_intervals_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    keep(ledger, tmp_path, "written", {"beam": 1.1, "greedy": 0.5})
    tested = {trial.uid: ({"cider": 0.3, "bleu_4": 0.1}, "") for trial in ledger.trials("written")}
    trial = ledger.trials("written")[0]
    around = Resampled({"cider": np.linspace(0.2, 0.4, 41)}, 9, "test")
    write_resamples(trial_folder(tmp_path, trial) / TEST_RESAMPLES, around)
    shown = table(ledger, ["written"], tested=tested, storage=tmp_path)
    assert shown.spreads[0, "test_cider"].interval == pytest.approx((0.205, 0.395))
    assert (1, "test_cider") not in shown.spreads
    assert shown.spread_columns == ("cider", "test_cider")


def test_rows_at_the_same_budget(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, "long", "captioning", CAPTIONS, {"slow": {"cider": 0.1, "val_loss": 1.0, "bleu_4": 0.1}})
    (trial,) = ledger.trials("long")
    for epoch, cider in ((2, 0.8), (3, 0.5), (4, 0.9)):
        told = {"cider": cider, "val_loss": 1.0, "bleu_4": 0.1, "parameters": 10.0, "train_seconds": 1.0}
        spent = {"training_seconds": 10.0 * epoch, "samples_seen": 64.0 * epoch}
        ledger.record_epoch(trial.uid, EpochReport(epoch=epoch, metrics=told | spent, time=1.0, last=False, best=True))
    old = table(ledger, ["long"], budget=Budget("samples_seen", 200))
    assert old.column("remark") == ["samples_seen was not recorded"], "the first epoch is of an older version"
    assert old.column("cider") == [None]
    first = ledger.epochs(trial.uid)[0]
    spent = {"training_seconds": 10.0, "samples_seen": 64.0}
    with ledger._engine.begin() as connection:
        payload = dataclasses.asdict(dataclasses.replace(first, metrics={**first.metrics, **spent}))
        update = sa.text("UPDATE vltune_event SET payload = :p WHERE uid = :u AND occurrence = 1 AND kind = 'epoch'")
        connection.execute(update, {"p": json.dumps(payload), "u": trial.uid})
    shown = table(ledger, ["long"], budget=Budget("samples_seen", 200))
    assert shown.column("cider") == [0.8]
    assert shown.column("epochs") == [3]
    assert shown.column("seconds") == [3.0]
    assert any(note.startswith("Same budget: of each trial the best epoch among those") for note in shown.notes)
    within = table(ledger, ["long"], budget=Budget("training_seconds", 99.0))
    assert within.column("cider") == [0.9]
    assert within.column("remark") == ["ended at 40 s, within the budget"]


def test_seeds_of_several_runs_and_families_stand_in_one_table(ledger: Ledger) -> None:
    fill(ledger, "seen-2", "captioning", CAPTIONS, {"GRU": {"cider": 0.7, "val_loss": 3.0, "bleu_4": 0.4}})
    with ledger._engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE vltune_trial SET config = replace(config, '\"seed\": 0', '\"seed\": 1') WHERE search = 'seen-2'"
            )
        )
    shown = table(ledger, ["seen", "seen-2", "written"])
    assert shown.column("name") == ["beam", "GRU", "greedy"]
    assert shown.column("cider") == [1.1, pytest.approx(0.8), 0.5]
    assert shown.column("family") == ["decoding", "captioning", "decoding"]
    assert shown.rows[1].run == "seen, seen-2"


def test_runs_that_measure_more_stand_beside_others(ledger: Ledger) -> None:
    more = {"cider": 0.9, "val_loss": 2.0, "bleu_4": 0.3, "meteor": 0.25}
    fill(ledger, "more", "captioning", {**CAPTIONS, "meteor": "max"}, {"asked": more})
    ledger.change("more", columns=("cider", "val_loss", "meteor"))
    ledger.change("seen", unasked={"meteor": "further_metrics=meteor"})
    shown = table(ledger, ["seen", "more"])
    by_name = dict(zip(shown.column("name"), shown.column("meteor"), strict=True))
    assert by_name.pop("asked") == 0.25
    assert set(by_name.values()) == {None}
    assert "meteor" not in [column.key for column in table(ledger, ["seen"]).columns]
    for ask in (
        lambda: table(ledger, ["seen"], sort_by="meteor"),
        lambda: table(ledger, ["more", "seen"], sort_by="meteor"),
        lambda: winner(ledger, ["seen"], by="meteor"),
    ):
        with pytest.raises(BadInput, match=r"run 'seen' has no meteor: .* --set further_metrics=meteor"):
            ask()
