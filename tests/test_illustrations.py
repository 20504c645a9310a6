"""What a trial leaves to look at: drawn from its best epoch, never in its way."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import Line, LineConfig
from PIL import Image

from tests.test_train import Killed, Watched, curve, untimed
from vltune import checkpoints, illustrations, train
from vltune.columns import read_records
from vltune.contract import Record, Sample
from vltune.drawings import Curve, Drawing, Matrix, Points
from vltune.illustrations import FIGURES, FOLDER, INDEX, MODULES
from vltune.runtime import LocalRuntime
from vltune.train import Trial, fit


def a_curve(name: str, values: Sequence[float]) -> Curve:
    return Curve(name=name, title="T", reads="R.", x=range(len(values)), x_title="x", lines={"a": values}, y_title="y")


class Shown(Line):
    """A line that draws, draws lots, and spoils what it can."""

    seen: list[Any] = []  # noqa: RUF012

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.train()
        torch.manual_seed(0)
        values = [record["val_loss"] for record in records]
        weights = torch.cat([p.flatten() for p in self.parameters()]).clone()
        Shown.seen.append((len(samples), [record["id"] for record in records], values, weights))
        return [a_curve("errors", values)]


class Broken(Line):
    """Its second drawing cannot be drawn."""

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        bad = Matrix(
            name="bad", title="", reads="", rows=[], columns=[], values=np.zeros((0, 0)), row_title="", column_title=""
        )
        return [a_curve("good", [1.0]), bad, a_curve("good_too", [1.0])]


class Raising(Line):
    """It cannot say what to draw."""

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        raise RuntimeError("no\nluck " + "x" * 500)


class Losing(Line):
    """Drawing costs it the device."""

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        raise torch.AcceleratorError("an illegal memory access was encountered")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_flush", lambda path: None)
    Shown.seen.clear()


def run(
    family: type[Line], folder: Path, *, runtime: LocalRuntime | None = None, known_epoch: int = -1, **fields: Any
) -> LocalRuntime:
    runtime = runtime or LocalRuntime(cache="")
    fit(Trial("t", family, LineConfig.from_fields(fields), folder, known_epoch=known_epoch), runtime)
    return runtime


def listed(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / FOLDER / FIGURES / INDEX).read_text())


def test_figures_and_modules_are_files_beside_the_checkpoints(tmp_path: Path) -> None:
    runtime = run(Shown, tmp_path, epochs=2)
    assert listed(tmp_path) == [{"file": "errors.png", "title": "T", "reads": "R.", "head": 71}]
    with Image.open(tmp_path / FOLDER / FIGURES / "errors.png") as image:
        assert min(image.size) > 200
    total = runtime.reports[-1].metrics["parameters"]
    assert (tmp_path / FOLDER / MODULES).read_text().splitlines()[-1].startswith(f"{total:,} parameters")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert runtime.reports[-1].notes == ()


def test_they_show_the_best_epoch_and_its_records(tmp_path: Path) -> None:
    script = "1 0.25 3 4"
    runtime = run(Shown, tmp_path, epochs=4, script=script)
    ((count, ids, values, weights),) = Shown.seen
    best = checkpoints.latest(tmp_path / "checkpoints")
    assert best is not None
    assert best.epoch == 2
    kept = checkpoints.read_tensors(best.folder / checkpoints.MODEL)
    wanted = torch.cat([kept[name].flatten() for name, _ in Line(LineConfig(), {}).named_parameters()])
    torch.testing.assert_close(weights, wanted)
    records = read_records(best.folder / checkpoints.RECORDS)
    assert ids == [record["id"] for record in records]
    assert values == [0.25] * count
    assert curve(runtime) == [1, 0.25, 3, 4]


def test_an_early_stop_is_an_end_too(tmp_path: Path) -> None:
    run(Shown, tmp_path, epochs=9, patience=1, script="1 2 3 4")
    assert len(Shown.seen) == 1


def test_a_trial_that_is_stopped_from_outside_draws_its_best_epoch(tmp_path: Path) -> None:
    run(Shown, tmp_path, runtime=Watched(cache="", stops_after=3), epochs=9, script="2 1 3 4")
    ((_, _, values, _),) = Shown.seen
    assert set(values) == {1.0}
    assert listed(tmp_path)


def test_a_trial_that_others_have_ended_draws_nothing(tmp_path: Path) -> None:
    class Taken(LocalRuntime):
        def exchange(self, epoch: int, told: Any) -> Any:
            return False, None

    run(Shown, tmp_path, runtime=Taken(cache=""), epochs=3)
    assert not Shown.seen
    assert not (tmp_path / FOLDER).exists()


def test_a_trial_that_goes_on_after_a_stop_leaves_no_figures_of_before(tmp_path: Path) -> None:
    run(Shown, tmp_path, runtime=Watched(cache="", stops_after=1), epochs=3)
    assert listed(tmp_path)
    with pytest.raises(Killed):
        run(Shown, tmp_path, runtime=Watched(cache="", dies_after=2), epochs=3)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize(
    "fields", [{}, {"ema_decay": 0.5}, {"dropout": 0.5}, {"until_epoch": 2}, {"precision": "bf16"}]
)
def test_the_numbers_are_those_of_a_trial_without_figures(
    tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_figures = run(Shown, tmp_path / "with", epochs=3, **fields)
    state = torch.get_rng_state()
    monkeypatch.setattr(train, "illustrate", lambda *_, **__: [])
    without = run(Line, tmp_path / "without", epochs=3, **fields)
    assert untimed(with_figures) == untimed(without)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("stops_after", [None, 1])
def test_a_device_that_is_lost_while_drawing_costs_the_process_and_not_the_trial(
    tmp_path: Path, stops_after: int | None
) -> None:
    runtime = LocalRuntime(cache="") if stops_after is None else Watched(cache="", stops_after=stops_after)
    with pytest.raises(torch.AcceleratorError):
        run(Losing, tmp_path, runtime=runtime, epochs=2)
    assert len(runtime.reports) == (stops_after or 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()], "what was told is there"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    if stops_after is None:
        assert runtime.reports[-1].last
        assert runtime.reports[-1].notes == ("no figures: AcceleratorError: an illegal memory access was encountered",)


def test_what_a_killed_process_has_begun_to_draw_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f".{FOLDER}" / FIGURES).mkdir(parents=True)
    run(Shown, tmp_path, epochs=2)
    assert listed(tmp_path)
    assert not (tmp_path / f".{FOLDER}").exists()


def test_modes_come_back(tmp_path: Path) -> None:
    run(Line, tmp_path, epochs=1)
    best = checkpoints.latest(tmp_path / "checkpoints")
    assert best is not None
    model = Shown(LineConfig(), {})
    model.head.eval()
    modes = [module.training for module in model.modules()]
    samples = Line.load(LineConfig(), "").splits["validation"]
    assert illustrations.illustrate(model, samples, best, tmp_path / "x", device=torch.device("cpu")) == []
    assert [module.training for module in model.modules()] == modes
    assert True in modes
    assert False in modes


def test_a_figure_that_cannot_be_drawn_is_a_note_and_the_others_are_there(tmp_path: Path) -> None:
    runtime = run(Broken, tmp_path, epochs=1)
    assert [entry["file"] for entry in listed(tmp_path)] == ["good.png", "good_too.png"]
    (note,) = runtime.reports[-1].notes
    assert note.startswith("no figure bad: ")
    assert runtime.reports[-1].last


def test_a_family_that_fails_to_draw_is_a_note_of_one_line(tmp_path: Path) -> None:
    runtime = run(Raising, tmp_path, epochs=1)
    (note,) = runtime.reports[-1].notes
    assert note.startswith("no figures: RuntimeError: no luck xxx")
    assert len(note) <= 200
    assert "\n" not in note
    assert (tmp_path / FOLDER / MODULES).is_file()


def test_a_disk_that_takes_nothing_fails_no_trial(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    run(Line, tmp_path / "trial", epochs=1)
    best = checkpoints.latest(tmp_path / "trial" / "checkpoints")
    assert best is not None
    samples = Line.load(LineConfig(), "").splits["validation"]
    notes = illustrations.illustrate(Line(LineConfig(), {}), samples, best, file / "x", device=torch.device("cpu"))
    assert len(notes) == 1
    assert notes[0].startswith("no figures: NotADirectoryError")


def test_after_a_kill_at_the_last_report_all_is_drawn_anew(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(Shown, tmp_path, runtime=Watched(cache="", dies_after=2), epochs=2)
    stale = tmp_path / FOLDER / FIGURES / "stale.png"
    stale.touch()
    again = run(Shown, tmp_path, epochs=2, known_epoch=1)
    assert len(Shown.seen) == 2
    assert not stale.exists()
    assert [report.epoch for report in again.reports] == [2]
    assert listed(tmp_path)


def test_the_default_is_to_draw_nothing(tmp_path: Path) -> None:
    run(Line, tmp_path, epochs=1)
    assert listed(tmp_path) == []


def test_points_are_drawn_too(tmp_path: Path) -> None:
    class Pointed(Line):
        def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
            return [Points(name="p", title="日本語", reads="x", panels={"a": {"b": np.zeros((3, 2))}})]

    runtime = run(Pointed, tmp_path, epochs=1)
    assert runtime.reports[-1].notes == ()
