"""The training loop: sums, schedules, ends, going on after a kill, and two workers against one."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from families import Line, LineConfig
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainables.captioning import Captioning
from trainables.parts.scenes import write_scenes
from vltune import checkpoints, models
from vltune.columns import read_resamples
from vltune.contract import Draws, EpochReport
from vltune.errors import BadInput, TrainingFailure
from vltune.runtime import LocalRuntime, Progress
from vltune.statistics import RESAMPLES
from vltune.train import Trial, evaluate, fit

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "picture_size": 24,
    "min_word_count": 1,
    "cnn_width": 4,
    "embedding_width": 12,
    "hidden_width": 12,
    "attention_width": 8,
    "feedforward_width": 16,
    "heads": 2,
    "dropout": 0.0,
    "batch_size": 7,
    "epochs": 2,
    "learning_rate": 3e-3,
}
TIMES = ("train_seconds", "samples_per_second", "evaluate_seconds", "training_seconds", "peak_memory_mb", "latency_ms")


class Killed(BaseException):
    """The worker is gone."""


@dataclass
class Watched(LocalRuntime):
    """Dies, or is told to stop, after the commit of an epoch and before its report has arrived."""

    dies_after: int = 0
    stops_after: int = 0

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
        assert told is not None
        if epoch == self.dies_after:
            raise Killed
        super().exchange(epoch, told)
        return epoch != self.stops_after, told[1]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_scenes(str(folder / "scenes"), pictures=32, picture_size=32)
    return folder


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_flush", lambda path: None)  # tests/test_checkpoints.py tests it


@pytest.fixture
def gradients() -> Iterator[list[list[torch.Tensor]]]:
    """Those that the optimizer was given, step after step."""
    steps: list[list[torch.Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        given = [p.grad for group in optimizer.param_groups for p in group["params"]]
        steps.append([g.detach().clone() for g in given if g is not None])

    handle = register_optimizer_step_pre_hook(keep)
    yield steps
    handle.remove()


def line(folder: Path, *, runtime: LocalRuntime | None = None, known_epoch: int = -1, **fields: Any) -> LocalRuntime:
    """A run of the test's own family."""
    runtime = runtime or LocalRuntime(cache="")
    fit(Trial("t", Line, LineConfig.from_fields(fields), folder, known_epoch=known_epoch), runtime)
    return runtime


def caption(
    folder: Path, scenes: Path, *, runtime: LocalRuntime | None = None, known_epoch: int = -1, **fields: Any
) -> LocalRuntime:
    """A run of a small captioner."""
    runtime = runtime or LocalRuntime(cache=str(scenes / "cache"))
    config = Captioning.Config.from_fields(SMALL | {"data": str(scenes / "scenes")} | fields)
    fit(Trial("t", Captioning, config, folder, known_epoch=known_epoch), runtime)
    return runtime


def curve(runtime: LocalRuntime, key: str = "val_loss") -> list[float]:
    return [report.metrics[key] for report in runtime.reports]


def untimed(runtime: LocalRuntime) -> list[dict[str, float]]:
    return [{k: v for k, v in report.metrics.items() if k not in TIMES} for report in runtime.reports]


def kept(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "checkpoints").iterdir() if p.name.startswith("epoch-"))


def weights_of(folder: Path) -> list[str]:
    return [checkpoints.sha256(p / checkpoints.MODEL) for p in kept(folder)]


def new_line(config: LineConfig) -> Line:
    torch.manual_seed(config.seed)
    return Line(config, {})


def whole_split(model: Line) -> dict[str, Any]:
    return model.collate(Line.load(model.config, "").splits["train"], None)


# -- gradients


@pytest.mark.parametrize("micro", [0, 1, 3, 4, 100])
def test_gradient_is_that_of_the_mean_over_the_whole_batch(
    tmp_path: Path, gradients: list[list[torch.Tensor]], micro: int
) -> None:
    runtime = line(tmp_path, epochs=1, batch_size=10, micro_batch_size=micro)
    model = new_line(LineConfig())
    batch = whole_split(model)
    loss = (model.errors(batch) * batch["weights"]).sum() / batch["weights"].sum()
    loss.backward()
    groups = [p for p in model.parameters() if p.dim() > 1] + [p for p in model.parameters() if p.dim() == 1]
    torch.testing.assert_close(gradients[0], [p.grad for p in groups])
    assert curve(runtime, "train_loss")[0] == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_micro_batches_of_unequal_captions_train_as_the_whole_batch(
    tmp_path: Path, scenes: Path, gradients: list[list[torch.Tensor]], decoder: str
) -> None:
    whole = caption(tmp_path / "whole", scenes, decoder=decoder)
    parts = caption(tmp_path / "parts", scenes, decoder=decoder, micro_batch_size=2)
    half = len(gradients) // 2
    assert half == 8, "24 pictures, 7 at a time, twice"
    torch.testing.assert_close(gradients[0], gradients[half], atol=1e-6, rtol=1e-4)
    for key in ("train_loss", "val_loss"):
        assert curve(whole, key) == pytest.approx(curve(parts, key), rel=1e-4)


def test_gradient_clip_limits_the_norm_and_keeps_the_direction(
    tmp_path: Path, gradients: list[list[torch.Tensor]]
) -> None:
    line(tmp_path / "free", epochs=1, batch_size=10)
    line(tmp_path / "clipped", epochs=1, batch_size=10, gradient_clip=0.01)
    free, clipped = (torch.cat([g.flatten() for g in step]) for step in gradients)
    assert free.norm() > 0.1
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())


@pytest.mark.parametrize("part", ["all", "picture_encoder"])
def test_penalties_are_the_gradients_of_their_definition(
    tmp_path: Path, gradients: list[list[torch.Tensor]], part: str
) -> None:
    line(tmp_path, epochs=1, batch_size=10, micro_batch_size=3, l1_penalty=0.02, l2_penalty=0.3, penalty_part=part)
    model = new_line(LineConfig())
    batch = whole_split(model)
    loss = (model.errors(batch) * batch["weights"]).sum() / batch["weights"].sum()
    layers = [model.picture_encoder, model.head] if part == "all" else [model.picture_encoder]
    for layer in layers:
        loss = loss + 0.02 * layer.weight.abs().sum() + 0.3 * layer.weight.square().sum()
    loss.backward()
    wanted = [model.picture_encoder.weight.grad, model.head.weight.grad]
    torch.testing.assert_close(gradients[0][:2], wanted)


# -- schedule and end


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse_sqrt", "plateau"])
def test_every_optimizer_and_schedule_learns(tmp_path: Path, optimizer: str, schedule: str) -> None:
    untrained = curve(line(tmp_path / "untrained", epochs=0))[0]
    fields: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "epochs": 8, "weight_decay": 1e-3}
    assert curve(line(tmp_path / "trained", **fields))[-1] < 0.5 * untrained


def test_cosine_falls_over_all_steps_of_all_epochs(tmp_path: Path) -> None:
    rates = curve(line(tmp_path, schedule="cosine", warmup_fraction=0.25, epochs=4), "learning_rate")
    # Two steps an epoch, eight in all, two of warm-up; the rate that is told is that of an epoch's second step.
    wanted = [1.0, *(0.5 * (1 + math.cos(math.pi * (step - 2) / 6)) for step in (3, 5, 7))]
    assert rates == pytest.approx([0.05 * factor for factor in wanted])


def test_plateau_lowers_the_rate_after_patience_and_counts_anew(tmp_path: Path) -> None:
    script = "5 4 4 4 4 4 3 3"
    fields: dict[str, Any] = {"schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.1, "epochs": 8}
    runtime = line(tmp_path, script=script, **fields)
    factors = [rate / 0.05 for rate in curve(runtime, "learning_rate")]
    # Best in epoch 2; stale 3, 4 -> falls for 5; stale 5, 6 -> falls for 7; better in 7.
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [r.best for r in runtime.reports] == [True, True, False, False, False, False, True, False]


def test_patience_ends_early_and_says_so(tmp_path: Path) -> None:
    runtime = line(tmp_path, script="5 4 6 4 9 9", patience=2, epochs=6)
    assert [r.epoch for r in runtime.reports] == [1, 2, 3, 4]
    assert [r.last for r in runtime.reports] == [False, False, False, True]
    assert runtime.reports[-1].notes == ("stopped early after epoch 4 of 6",)
    assert not runtime.reports[0].notes


def test_objective_that_is_to_rise_is_best_at_its_highest(tmp_path: Path) -> None:
    runtime = line(tmp_path, script="1 3 2", objective="score", epochs=3)
    assert [r.best for r in runtime.reports] == [True, False, False]


def test_best_and_last_are_kept_and_in_the_end_the_best(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        line(tmp_path, script="5 3 4 4 4", epochs=5, runtime=Watched("", dies_after=4))
    assert [p.name[:10] for p in kept(tmp_path)] == ["epoch-0002", "epoch-0004"]
    runtime = line(tmp_path, script="5 3 4 4 4", epochs=5)
    assert [p.name for p in kept(tmp_path)] == [runtime.reports[1].checkpoint]
    checkpoints.verify(kept(tmp_path)[0])


def test_resamples_of_the_best_epoch_lie_beside_it(tmp_path: Path) -> None:
    runtime = line(tmp_path, script="3 1 2", epochs=3)
    found = read_resamples(kept(tmp_path)[0] / checkpoints.RESAMPLES)
    assert found is not None
    assert found.values.keys() == {"val_loss"}, "the score has no values of single samples"
    assert found.values["val_loss"] == pytest.approx(np.full(RESAMPLES, runtime.reports[1].metrics["val_loss"]))
    assert found.samples == 4


def test_samples_seen_are_counted(tmp_path: Path) -> None:
    assert curve(line(tmp_path, epochs=2, train_pictures=7), "samples_seen") == [7, 14]


def test_stopped_trial_keeps_its_best_checkpoint_alone(tmp_path: Path) -> None:
    runtime = line(tmp_path, script="5 3 4 1", epochs=4, runtime=Watched("", stops_after=3))
    assert [r.epoch for r in runtime.reports] == [1, 2, 3]
    assert [p.name[:10] for p in kept(tmp_path)] == ["epoch-0002"]


def test_no_epochs_evaluate_the_untrained_model(tmp_path: Path, gradients: list[list[torch.Tensor]]) -> None:
    runtime = line(tmp_path, epochs=0)
    assert [(r.epoch, r.last, r.best) for r in runtime.reports] == [(0, True, True)]
    assert not gradients
    assert "train_loss" not in runtime.reports[0].metrics
    model, config = models.read_model(kept(tmp_path)[0], {"line": Line})
    assert isinstance(model, Line)
    assert isinstance(config, LineConfig)
    torch.testing.assert_close(model.head.weight, new_line(LineConfig()).head.weight)
    scores, _ = evaluate(model, Line.load(config, "").splits["validation"], batch_size=3)
    assert scores.metrics["val_loss"] == pytest.approx(curve(runtime)[0])


def test_train_pictures_takes_the_first_of_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    collate = Line.collate

    def watched(self: Line, samples: Any, draws: Draws | None) -> dict[str, Any]:
        seen.extend(s.id for s in samples if draws is not None)
        return collate(self, samples, draws)

    monkeypatch.setattr(Line, "collate", watched)
    line(tmp_path, train_pictures=4, epochs=2)
    assert sorted(seen) == sorted(["s0", "s1", "s2", "s3"] * 2)
    with pytest.raises(BadInput, match="train_pictures=11 is more than the 10 of the training split"):
        line(tmp_path / "more", train_pictures=11)


def test_each_epoch_sees_all_samples_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    collate = Line.collate

    def watched(self: Line, samples: Any, draws: Draws | None) -> dict[str, Any]:
        seen.extend(s.id for s in samples if draws is not None)
        return collate(self, samples, draws)

    monkeypatch.setattr(Line, "collate", watched)
    line(tmp_path, epochs=2, batch_size=4)
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == sorted(f"s{i}" for i in range(10))
    assert first != second


def test_loss_that_is_not_finite_fails_the_trial(tmp_path: Path) -> None:
    runtime = LocalRuntime("")
    with pytest.raises(TrainingFailure, match=r"training loss is not finite \(nan\) in epoch 2"):
        line(tmp_path, breaks=True, epochs=3, runtime=runtime)
    assert [r.epoch for r in runtime.reports] == [1]


def test_objective_that_is_not_finite_fails_the_trial(tmp_path: Path) -> None:
    for value in ("nan", "-inf"):
        runtime = LocalRuntime("")
        with pytest.raises(TrainingFailure, match="val_loss is not finite"):
            line(tmp_path / value, script=f"1 {value}", runtime=runtime)
        assert len(runtime.reports) == 1


def test_changed_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has changed since the trial was recorded"):
        line(tmp_path, data_hash="0" * 64)


# -- going on after a kill

LIVELY: dict[str, Any] = {
    "epochs": 4,
    "dropout": 0.3,
    "augmentation": "improved",
    "schedule": "plateau",
    "plateau_patience": 1,
    "objective": "bleu_4",
    "weight_decay": 0.1,
    "captions_per_picture": 2,
    "cnn_batch_norm": True,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> tuple[Path, LocalRuntime]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, caption(folder, scenes, **LIVELY)


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_trial_ends_bit_identically(
    tmp_path: Path, scenes: Path, undisturbed: tuple[Path, LocalRuntime], epoch: int
) -> None:
    wanted_folder, wanted = undisturbed
    assert len({report.metrics["learning_rate"] for report in wanted.reports}) > 1, "the plateau is part of the test"
    first = Watched(str(scenes / "cache"), dies_after=epoch)
    with pytest.raises(Killed):
        caption(tmp_path, scenes, runtime=first, **LIVELY)
    assert [r.epoch for r in first.reports] == list(range(1, epoch))
    second = caption(tmp_path, scenes, known_epoch=epoch - 1, **LIVELY)
    assert [r.epoch for r in second.reports] == list(range(epoch, 5)), "the epoch that nobody heard of is told again"
    assert untimed(first) + untimed(second) == untimed(wanted)
    assert weights_of(tmp_path) == weights_of(wanted_folder)


def test_used_process_gives_what_a_fresh_one_gives(
    tmp_path: Path, scenes: Path, undisturbed: tuple[Path, LocalRuntime]
) -> None:
    torch.rand(17)  # whatever ran before
    again = caption(tmp_path, scenes, **LIVELY)
    assert untimed(again) == untimed(undisturbed[1])
    assert weights_of(tmp_path) == weights_of(undisturbed[0])


def test_epoch_that_was_heard_of_is_not_told_again(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        line(tmp_path, epochs=3, runtime=Watched("", dies_after=2))
    assert [r.epoch for r in line(tmp_path, epochs=3, known_epoch=2).reports] == [3]


def test_last_epoch_that_nobody_heard_of_is_told_and_not_trained_again(
    tmp_path: Path, gradients: list[list[torch.Tensor]]
) -> None:
    with pytest.raises(Killed):
        line(tmp_path, script="1 2 3 4", epochs=4, runtime=Watched("", dies_after=4))
    gradients.clear()
    runtime = line(tmp_path, script="1 2 3 4", epochs=4, known_epoch=3)
    assert [(r.epoch, r.last) for r in runtime.reports] == [(4, True)]
    assert not gradients
    assert [p.name[:10] for p in kept(tmp_path)] == ["epoch-0001"]


def test_damaged_checkpoint_is_set_aside_and_the_one_before_used(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"epochs": 4, "dropout": 0.5, "objective": "score"}
    wanted = line(tmp_path / "whole", **fields)
    with pytest.raises(Killed):
        line(tmp_path / "cut", script="1 2 3 4", runtime=Watched("", dies_after=3), **fields)
    last = kept(tmp_path / "cut")[-1]
    file = last / checkpoints.OPTIMIZER
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    runtime = line(tmp_path / "cut", known_epoch=2, script="1 2 3 4", **fields)
    assert [r.epoch for r in runtime.reports] == [2, 3, 4], "the best one, of epoch 1, was before it"
    assert curve(runtime, "train_loss") == curve(wanted, "train_loss")[1:]
    assert (tmp_path / "cut" / "checkpoints" / f"bad-{last.name}").is_dir()


# -- precision and memory


def test_bf16_on_the_cpu_stays_close_to_float32(tmp_path: Path, scenes: Path) -> None:
    exact = caption(tmp_path / "float32", scenes, epochs=1)
    coarse = caption(tmp_path / "bf16", scenes, epochs=1, precision="bf16")
    assert curve(coarse) != curve(exact)
    assert curve(coarse) == pytest.approx(curve(exact), rel=0.02)
    stored = load_file(kept(tmp_path / "bf16")[0] / checkpoints.MODEL)
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float32}


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"fp16.*needs a GPU"):
        line(tmp_path, precision="fp16")


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_gradient_checkpointing_changes_no_loss(tmp_path: Path, scenes: Path, decoder: str) -> None:
    fields: dict[str, Any] = {"decoder": decoder, "dropout": 0.3, "cnn_batch_norm": True, "epochs": 1}
    plain = caption(tmp_path / "plain", scenes, **fields)
    saving = caption(tmp_path / "saving", scenes, gradient_checkpointing=True, **fields)
    for key in ("train_loss", "val_loss"):
        assert curve(saving, key) == pytest.approx(curve(plain, key), rel=1e-5)


# -- two workers

CASES: dict[str, dict[str, Any]] = {
    "lstm": {"decoder": "lstm"},
    "transformer": {"decoder": "transformer", "augmentation": "improved", "captions_per_picture": 3, "epochs": 1},
    "micro-batches": {"micro_batch_size": 2, "l2_penalty": 1e-3, "batch_size": 11, "epochs": 1},
    "batch norm, whole split": {"cnn_batch_norm": True, "batch_size": 24, "epochs": 1},
    "batch norm, uneven": {"cnn_batch_norm": True, "train_pictures": 13, "batch_size": 5},
    "epochs=0": {"epochs": 0},
    "early": {"patience": 1, "epochs": 6, "learning_rate": 1e-6, "objective": "token_accuracy"},
    "step too small": {"train_pictures": 3, "batch_size": 2},
}


@dataclass
class Together(LocalRuntime):
    """One of several workers; what rank 0 tells reaches the others."""

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
        if told is not None and self.rank == 0:
            self.reports.append(told[0])
        said = [told[1] if told is not None and self.rank == 0 else None]
        dist.broadcast_object_list(said, src=0)
        assert said[0] is not None
        return True, said[0]


def work(rank: int, folder: Path, scenes: Path) -> None:
    """A worker of two, which trains every case; what comes of each goes into a file."""
    torch.set_num_threads(1)
    checkpoints._flush = lambda path: None
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    steps: list[dict[str, torch.Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        given = [p.grad for group in optimizer.param_groups for p in group["params"]]
        steps.append({str(i): g.detach().clone() for i, g in enumerate(given) if g is not None})

    register_optimizer_step_pre_hook(keep)
    told: dict[str, Any] = {}
    for name, fields in CASES.items():
        runtime = Together(str(scenes / "cache"), rank=rank, world_size=2)
        steps.clear()
        try:
            caption(folder / name, scenes, runtime=runtime, **fields)
            told[name] = [dataclasses.asdict(report) for report in runtime.reports]
        except Exception as error:  # noqa: BLE001 (shown by the test)
            told[name] = f"{type(error).__name__}: {error}"
        if steps:
            save_file(steps[0], folder / f"{name}.{rank}.safetensors")
    torch.save(told, folder / f"told.{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    caption(folder / "first", scenes, epochs=0)  # the pictures' cache is there before two want it
    mp.spawn(work, args=(folder, scenes), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return folder, torch.load(folder / "told.0.pt")


def reports_of(two: tuple[Path, dict[str, Any]], case: str) -> list[EpochReport]:
    told = two[1][case]
    assert isinstance(told, list), told
    return [EpochReport(**report) for report in told]


@pytest.mark.parametrize("case", [name for name in CASES if name != "step too small"])
def test_two_workers_train_as_one(
    tmp_path: Path,
    scenes: Path,
    two: tuple[Path, dict[str, Any]],
    gradients: list[list[torch.Tensor]],
    case: str,
) -> None:
    reports = reports_of(two, case)
    fields: dict[str, Any] = CASES[case] | ({"micro_batch_size": 0} if "micro" in case else {})
    one = caption(tmp_path, scenes, **fields)
    assert [r.epoch for r in reports] == [r.epoch for r in one.reports]
    assert [r.last for r in reports] == [r.last for r in one.reports]
    for report, wanted in zip(reports, one.reports, strict=True):
        for key in wanted.metrics.keys() & {"train_loss", "val_loss", "learning_rate"}:
            assert report.metrics[key] == pytest.approx(wanted.metrics[key], rel=2e-4), (report.epoch, key)
    for rank in (0, 1) if gradients else ():
        given = load_file(two[0] / f"{case}.{rank}.safetensors")
        torch.testing.assert_close([given[str(i)] for i in range(len(given))], gradients[0], atol=1e-5, rtol=1e-3)


def test_losses_of_workers_are_told_and_differ(two: tuple[Path, dict[str, Any]]) -> None:
    for report in reports_of(two, "lstm"):
        low, high = sorted(report.metrics[f"train_loss_rank_{rank}"] for rank in (0, 1))
        assert low < report.metrics["train_loss"] < high


def test_statistics_of_batch_norm_are_those_of_one_worker(
    tmp_path: Path, scenes: Path, two: tuple[Path, dict[str, Any]]
) -> None:
    for case in ("batch norm, whole split", "batch norm, uneven"):
        caption(tmp_path / case, scenes, **CASES[case])
        wanted, found = (load_file(kept(folder / case)[-1] / checkpoints.MODEL) for folder in (tmp_path, two[0]))
        names = [name for name in wanted if "running" in name or "num_batches" in name]
        assert names
        assert found.keys() == wanted.keys()
        for name in names:
            torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-3)


def test_step_with_fewer_samples_than_workers_is_refused(two: tuple[Path, dict[str, Any]]) -> None:
    assert two[1]["step too small"].startswith("BadInput: batch_size=2 cuts 3 training samples into steps of which")
