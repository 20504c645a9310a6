"""Models as folders, and trials that stand on promoted models or start from their parts."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import Line, LineConfig

from vltune import checkpoints
from vltune.checkpoints import seal
from vltune.columns import read_records
from vltune.contract import NO_MODELS, Draws, Family, Features, Record, Sample
from vltune.errors import BadInput, NotFound
from vltune.library import PromotedModels
from vltune.models import CONFIG, STANDS_ON, read_model, read_record, shelved, write_model
from vltune.preflight import check_models
from vltune.runtime import LocalRuntime, Residents
from vltune.train import Trial, fit


@dataclass(frozen=True, kw_only=True)
class TopConfig(LineConfig):
    """The fields of ``Top``."""

    below: str = ""

    def models(self) -> dict[str, str]:
        return {"below": self.below}


class Top(Line):
    """A head of its own on the picture encoder of another model, which stays as it is."""

    name = "top"
    Config = TopConfig
    uses = {"below": (Line,)}  # noqa: RUF012
    encoded: list[list[str]] = []  # noqa: RUF012 - which samples were encoded, by any instance

    def __init__(self, config: TopConfig, assets: dict[str, str], models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        del self.picture_encoder
        self.below = models["below"]

    def features(self, *, fixed: bool = False) -> Features | None:
        return Features(lambda: checkpoints.hash_tensors(self.below.state_dict())[:16], self.encode)

    def encode(self, samples: Sequence[Sample]) -> np.ndarray:
        self.encoded.append([sample.id for sample in samples])
        pictures = torch.tensor(np.stack([s.picture.reshape(-1) for s in samples if s.picture is not None])) / 255
        with torch.no_grad():
            return self.below.get_submodule("picture_encoder")(pictures.float()).numpy()

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> dict[str, Any]:
        batch = super().collate(samples, draws)
        rows = [s.features if s.features is not None else self.encode([s])[0] for s in samples]
        return {**batch, "features": torch.from_numpy(np.stack(rows))}

    def errors(self, batch: dict[str, Any]) -> torch.Tensor:
        output = self.head(self.dropout(torch.tanh(batch["features"]))).squeeze(1)
        return (output - 3 * batch["pictures"].mean(1)).square()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_flush", lambda path: None)


def promoted(folder: Path, *, seed: int = 3, **assets: str) -> Path:
    """A model as ``promote`` leaves it."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = LineConfig(seed=seed)
    given = {"notes.txt": "ä line\n", **assets}
    record = {"family": "line", "config": config.fields(), "assets": sorted(given)}
    write_model(folder, Line(config, given), record=record, assets=given)
    seal(folder)
    return folder


def run(tmp_path: Path, family: type[Family], config: Any, *, name: str = "t", **runtime: Any) -> LocalRuntime:
    """Trains one configuration as a worker does, after the driver has found what it needs."""
    found = config.find_sources(PromotedModels(tmp_path))
    local = LocalRuntime(cache=str(tmp_path / "cache"), **runtime)
    fit(Trial(name, family, found, tmp_path / "run" / "trials" / name), local)
    return local


def best(tmp_path: Path, name: str = "t") -> Path:
    return next(p for p in (tmp_path / "run" / "trials" / name / "checkpoints").iterdir())


# -- standing on another model


def test_the_model_below_is_referenced_and_stays_as_it_is(tmp_path: Path) -> None:
    below = promoted(tmp_path / "below")
    before = checkpoints.read_tensors(below / checkpoints.MODEL)
    Top.encoded.clear()
    local = run(tmp_path, Top, TopConfig(below=str(below), epochs=2))
    stored = checkpoints.read_tensors(best(tmp_path) / checkpoints.MODEL)
    assert sorted(stored) == ["evaluations", "head.bias", "head.weight"]
    assert checkpoints.read_tensors(below / checkpoints.MODEL).keys() == before.keys()
    metrics = local.reports[-1].metrics
    assert metrics["trainable_parameters"] == 5
    assert metrics["parameters"] == 5 + sum(t.numel() for n, t in before.items() if n != "evaluations")
    model, config = read_model(best(tmp_path), {"top": Top}, cache=str(tmp_path / "cache"))
    assert isinstance(model, Top)
    for name, tensor in model.below.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert config.fields()["source_hashes"] == f"below={checkpoints.sha256(below / checkpoints.MANIFEST)}"


def test_features_are_made_once_for_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vltune.latency.seconds_for_latency", lambda *_, **__: 0.0)  # it encodes samples on purpose
    below = promoted(tmp_path / "below")
    Top.encoded.clear()
    first = run(tmp_path, Top, TopConfig(below=str(below), epochs=3), name="a")
    samples = [i for ids in Top.encoded for i in ids]
    assert len(samples) - 2 == 10 + 4, "each sample once, and one of each split for the shape"
    Top.encoded.clear()
    second = run(tmp_path, Top, TopConfig(below=str(below), epochs=3), name="b")
    assert sum(map(len, Top.encoded)) == 2
    assert [r.metrics["val_loss"] for r in first.reports] == [r.metrics["val_loss"] for r in second.reports]


def test_features_change_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TopConfig(below=str(promoted(tmp_path / "below")), epochs=2)
    kept = run(tmp_path, Top, config, name="kept")
    monkeypatch.setattr(Top, "features", lambda _: None)
    anew = run(tmp_path, Top, config, name="anew")
    for ours, theirs in zip(kept.reports, anew.reports, strict=True):
        assert ours.metrics["val_loss"] == pytest.approx(theirs.metrics["val_loss"], rel=1e-6)
        assert ours.metrics["train_loss"] == pytest.approx(theirs.metrics["train_loss"], rel=1e-6)


def test_features_that_are_too_large_are_made_anew_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vltune.batches.MAX_FEATURE_BYTES", 10)
    local = run(tmp_path, Top, TopConfig(below=str(promoted(tmp_path / "below")), epochs=1))
    assert len(local.reports[0].notes) == 1
    assert "were not kept" in local.reports[0].notes[0]


def test_the_model_below_is_built_once_in_a_process(tmp_path: Path) -> None:
    below, kept = promoted(tmp_path / "below"), Residents()
    config = TopConfig(below=str(below), epochs=0).find_sources(PromotedModels(tmp_path))
    models = []
    for name in ("a", "b"):
        local = LocalRuntime(cache=str(tmp_path / "cache"), residents=kept)
        fit(Trial(name, Top, config, tmp_path / name), local)
        models.append(next(iter(kept._kept.values())))
    assert models[0] is models[1]
    assert not any(p.requires_grad for p in models[0].parameters())


def test_what_is_kept_longest_without_use_goes_first() -> None:
    kept = Residents(room=2)
    assert [kept(key, lambda k=key: k.upper()) for key in "abab"] == ["A", "B", "A", "B"]
    kept("a", lambda: "not asked")
    kept("c", lambda: "C")
    assert kept("a", lambda: "new") == "A"
    assert kept("b", lambda: "new") == "new"


def test_a_promoted_model_carries_what_it_stands_on(tmp_path: Path) -> None:
    run(tmp_path, Top, TopConfig(below=str(promoted(tmp_path / "below")), epochs=1))
    folder = best(tmp_path)
    hashed = read_record(folder)["config"]["source_hashes"].partition("=")[2]
    shutil.copytree(tmp_path / "cache" / "models" / hashed, folder / STANDS_ON / "below")
    shutil.rmtree(tmp_path / "cache")
    seal(folder)
    model, _ = read_model(folder, {"top": Top})
    assert isinstance(model, Top)


def test_another_family_below_is_refused_before_training(tmp_path: Path) -> None:
    other = promoted(tmp_path / "other")
    text = (other / CONFIG).read_text().replace('"line"', '"poem"')
    (other / CONFIG).write_text(text)
    seal(other)
    config = TopConfig(below=str(other)).find_sources(PromotedModels(tmp_path))
    with pytest.raises(BadInput, match=r"below=.*is a model of the family 'poem': top stands on one of line"):
        check_models(config, Top, pins=(), cache=str(tmp_path / "cache"))


# -- the library


def test_a_model_is_known_by_its_content_wherever_it_lay(tmp_path: Path) -> None:
    library = PromotedModels(tmp_path)
    one = library.find(str(promoted(tmp_path / "one")))
    assert library.find(str(promoted(tmp_path / "same"))) == one
    assert library.find(str(promoted(tmp_path / "other", seed=4))) != one


def test_what_was_recorded_is_used_whatever_became_of_the_reference(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "one")
    config = TopConfig(below=str(folder)).find_sources(PromotedModels(tmp_path))
    shutil.rmtree(folder)
    assert config.find_sources(PromotedModels(tmp_path)) == config
    promoted(folder, seed=9)
    assert config.find_sources(PromotedModels(tmp_path)) == config
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(BadInput, match="is not the model that was recorded"):
        config.find_sources(PromotedModels(tmp_path))


def test_a_reference_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no promoted model 'nothing'"):
        PromotedModels(tmp_path).find("nothing@champion")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no model"):
        PromotedModels(tmp_path).find(str(tmp_path / "empty"))


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "one")
    (folder / "notes.txt").write_text("another")
    with pytest.raises(BadInput, match="is not sound"):
        PromotedModels(tmp_path).find(str(folder))


# -- starting from parts


def test_a_part_starts_with_the_weights_of_another_model(tmp_path: Path) -> None:
    source = promoted(tmp_path / "source")
    theirs = checkpoints.read_tensors(source / checkpoints.MODEL)
    config = LineConfig(init_from=f"picture_encoder={source}", epochs=0)
    run(tmp_path, Line, config, name="started")
    run(tmp_path, Line, LineConfig(epochs=0), name="random")
    started, random = (checkpoints.read_tensors(best(tmp_path, n) / checkpoints.MODEL) for n in ("started", "random"))
    torch.testing.assert_close(started["picture_encoder.weight"], theirs["picture_encoder.weight"], rtol=0, atol=0)
    torch.testing.assert_close(started["head.weight"], random["head.weight"], rtol=0, atol=0)
    assert not torch.equal(random["picture_encoder.weight"], theirs["picture_encoder.weight"])


def test_a_part_brings_its_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "part_assets", {"picture_encoder": ("notes.txt",)})
    source = promoted(tmp_path / "source", **{"notes.txt": "their own\n"})
    run(tmp_path, Line, LineConfig(init_from=f"picture_encoder={source}", epochs=0))
    assert (best(tmp_path) / "notes.txt").read_text() == "their own\n"
    monkeypatch.setattr(Line, "part_assets", {"picture_encoder": ("tokenizer.json",)})
    config = LineConfig(init_from=f"picture_encoder={source}").find_sources(PromotedModels(tmp_path))
    with pytest.raises(BadInput, match=r"that model has no tokenizer\.json"):
        check_models(config, Line, pins=(), cache=str(tmp_path / "cache"))


def test_what_an_asset_was_made_with_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "part_assets", {"picture_encoder": ("notes.txt",)})
    monkeypatch.setattr(Line, "asset_fields", {"notes.txt": ("script",)})
    source = promoted(tmp_path / "source")
    config = LineConfig(init_from=f"picture_encoder={source}", epochs=0, script="1").find_sources(
        PromotedModels(tmp_path)
    )
    cache = str(tmp_path / "cache")
    check_models(config, Line, pins=("epochs",), cache=cache)
    with pytest.raises(BadInput, match=r"script='1' has no effect: picture_encoder of init_from brings .* script=''"):
        check_models(config, Line, pins=("script",), cache=cache)
    local = run(tmp_path, Line, config)
    assert "script is '', as it came with picture_encoder, not '1'" in local.reports[0].notes


def test_going_on_reads_no_first_weights(tmp_path: Path) -> None:
    source = promoted(tmp_path / "source")
    config = LineConfig(init_from=f"picture_encoder={source}", epochs=1)
    run(tmp_path, Line, config)
    trained = checkpoints.read_tensors(best(tmp_path) / checkpoints.MODEL)
    theirs = checkpoints.read_tensors(source / checkpoints.MODEL)
    assert not torch.equal(trained["picture_encoder.weight"], theirs["picture_encoder.weight"])
    run(tmp_path, Line, config)
    again = checkpoints.read_tensors(best(tmp_path) / checkpoints.MODEL)
    torch.testing.assert_close(again["picture_encoder.weight"], trained["picture_encoder.weight"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ("picture_encoder", "is no NAME=VALUE"),
        ("picture_encoder={source},picture_encoder={source}", "is given twice"),
        ("picture_encodr={source}", r"the family 'line' has no part 'picture_encodr'; did you mean 'picture_encoder'"),
        ("dropout={source}", r"that model has no part 'dropout'"),
    ],
)
def test_bad_parts_are_one_line(tmp_path: Path, parts: str, text: str) -> None:
    source = promoted(tmp_path / "source")
    with pytest.raises(BadInput, match=text) as caught:
        run(tmp_path, Line, LineConfig(init_from=parts.format(source=source), epochs=1))
    assert "\n" not in str(caught.value)


def test_a_part_of_another_shape_is_one_line(tmp_path: Path) -> None:
    source = promoted(tmp_path / "source")
    tensors = checkpoints.read_tensors(source / checkpoints.MODEL)
    checkpoints.write_tensors(source / checkpoints.MODEL, {**tensors, "picture_encoder.bias": torch.zeros(7)})
    seal(source)
    with pytest.raises(BadInput, match=r"bias is of shape \(7,\) there and of shape \(4,\) here; give both models"):
        run(tmp_path, Line, LineConfig(init_from=f"picture_encoder={source}", epochs=1))


def test_references_to_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    fields = LineConfig.with_absolute_paths({"init_from": "a=here,b=gone@champion", "epochs": 1})
    assert fields == {"init_from": f"a={tmp_path / 'here'},b=gone@champion", "epochs": 1}


# -- records


def test_arrays_of_a_record_are_for_the_score_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    predict, score = Line.predict, Line.score

    def with_array(self: Line, batch: dict[str, Any]) -> list[Record]:
        return [{**record, "_array": np.zeros(3)} for record in predict(self, batch)]

    def watched(self: Line, records: Sequence[Record]) -> Any:
        seen.extend(record["_array"] for record in records)
        return score(self, records)

    monkeypatch.setattr(Line, "predict", with_array)
    monkeypatch.setattr(Line, "score", watched)
    run(tmp_path, Line, LineConfig(epochs=1))
    assert len(seen) == 4
    assert "_array" not in read_records(best(tmp_path) / checkpoints.RECORDS)[0]


def test_training_seconds_add_up(tmp_path: Path) -> None:
    local = run(tmp_path, Line, LineConfig(epochs=3))
    spent = [report.metrics["train_seconds"] for report in local.reports]
    assert [r.metrics["training_seconds"] for r in local.reports] == pytest.approx(np.cumsum(spent))


def test_notes_of_a_model_reach_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "notes", ("made of straw",))
    assert run(tmp_path, Line, LineConfig(epochs=1)).reports[0].notes == ("made of straw",)


# -- segments


def segment(tmp_path: Path, name: str, **fields: Any) -> LocalRuntime:
    shared = {"epochs": 4, "schedule": "cosine", "optimizer": "adam", "dropout": 0.3, "objective": "score"}
    return run(tmp_path, Line, LineConfig(**{**shared, **fields}), name=name)


def trained(tmp_path: Path, name: str, epoch: int) -> Mapping[str, torch.Tensor]:
    found = next(p for p in (tmp_path / "run" / "trials" / name / "checkpoints").glob(f"epoch-{epoch:04d}*"))
    return checkpoints.read_tensors(found / checkpoints.MODEL)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_segments_without_changes_are_one_training(tmp_path: Path, ema_decay: float) -> None:
    whole = segment(tmp_path, "whole", ema_decay=ema_decay)
    first = segment(tmp_path, "first", until_epoch=2, ema_decay=ema_decay)
    second = segment(tmp_path, "second", start_from="first", until_epoch=3, ema_decay=ema_decay)
    third = segment(tmp_path, "third", start_from="second", ema_decay=ema_decay)
    parts = [*first.reports, *second.reports, *third.reports]
    assert [r.epoch for r in parts] == [1, 2, 3, 4]
    assert [r.last for r in parts] == [False, True, True, True]
    for key in ("train_loss", "val_loss", "learning_rate"):
        assert [r.metrics[key] for r in parts] == [r.metrics[key] for r in whole.reports]


def test_a_changed_learning_rate_counts_from_the_segment_on(tmp_path: Path) -> None:
    segment(tmp_path, "first", until_epoch=2)
    same = segment(tmp_path, "same", start_from="first")
    changed = segment(tmp_path, "changed", start_from="first", learning_rate=0.1)
    rates = [[r.metrics["learning_rate"] for r in run_.reports] for run_ in (same, changed)]
    assert rates[1] == pytest.approx([2 * rate for rate in rates[0]])
    assert trained(tmp_path, "first", 2).keys() == trained(tmp_path, "same", 4).keys() | set()


def test_a_segment_needs_the_state_of_its_parent(tmp_path: Path) -> None:
    segment(tmp_path, "whole")
    with pytest.raises(Exception, match="start_from=whole: that trial has kept no state to go on from"):
        segment(tmp_path, "next", start_from="whole")
    with pytest.raises(BadInput, match="until_epoch"):
        dataclasses.replace(LineConfig(epochs=2), until_epoch=3)


def test_an_alias_that_moves_while_a_search_runs_changes_nothing(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "one")
    started = PromotedModels(tmp_path)
    first = started.find(str(folder))
    shutil.rmtree(folder)
    promoted(folder, seed=9)
    assert PromotedModels(tmp_path, known=started.found).find(str(folder)) == first
    assert PromotedModels(tmp_path).find(str(folder)) != first


def test_what_a_model_stands_on_is_put_beside_it(tmp_path: Path) -> None:
    upper, lower = promoted(tmp_path / "upper"), promoted(tmp_path / "lower", seed=5)
    shutil.copytree(lower, upper / STANDS_ON / "below")
    seal(upper)
    PromotedModels(tmp_path).find(str(upper))
    assert (tmp_path / "cache" / "models" / checkpoints.sha256(lower / checkpoints.MANIFEST) / CONFIG).is_file()


@pytest.mark.parametrize("text", ["/etc", "../..", "0" * 63, ""])
def test_a_hash_that_is_a_path_leads_nowhere(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="is no content hash"):
        shelved(str(tmp_path), text)


def test_a_model_from_other_data_is_said(tmp_path: Path) -> None:
    source = promoted(tmp_path / "source")
    text = (source / CONFIG).read_text().replace('"data_hash": ""', f'"data_hash": "{"e" * 64}"')
    (source / CONFIG).write_text(text)
    seal(source)
    own = Line.load(LineConfig(), "").hash
    local = run(tmp_path, Line, LineConfig(init_from=f"picture_encoder={source}", epochs=1, data_hash=own))
    assert any("picture_encoder was trained on other data (eeeeeeeeeeee)" in note for note in local.reports[0].notes)
