"""The one training loop, for every model family.

Long, because an epoch, the decision on it and its checkpoint share one state, and going on after a kill has to bring
all of it back: what is kept can be checked against what is read only side by side.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vltune import checkpoints, latency, models
from vltune.averaging import WeightAverage
from vltune.batches import featured, first, plan, shares
from vltune.batchnorm import synchronise_batch_norm
from vltune.checkpoints import Checkpoint
from vltune.columns import write_records, write_resamples
from vltune.configuration import TrialConfig
from vltune.contract import (
    Assets,
    Batch,
    Data,
    Direction,
    Draws,
    EpochReport,
    Family,
    Record,
    Resampled,
    Sample,
    Scores,
    is_better,
)
from vltune.devices import cpu_has_bf16, peak_memory, reset_peak_memory, to_device, wide
from vltune.errors import BadInput, TrainingFailure
from vltune.illustrations import FOLDER, illustrate
from vltune.objectives import direction_of
from vltune.optimization import (
    add_penalties,
    build_optimizer,
    learning_rate_factor,
    load_optimizer,
    optimizer_tensors,
    penalised_weights,
)
from vltune.resources import ResourceMonitor
from vltune.runtime import Progress, Runtime
from vltune.samples import COUNT, write_samples
from vltune.statistics import resample


@dataclass(frozen=True)
class Trial:
    """What a worker needs to train one configuration."""

    uid: str
    family: type[Family]
    config: TrialConfig
    folder: Path
    """Folder of the trial; its checkpoints go below."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What else stands in the trial's record: run, searched parameters, versions."""
    known_epoch: int = -1
    """Last epoch whose report has arrived; later ones that a checkpoint holds are told again."""


def fit(trial: Trial, runtime: Runtime) -> None:
    """Trains and evaluates one configuration, from its last committed checkpoint if there is one.

    Raises:
        TrainingFailure: the loss is not finite.
        BadInput: the configuration cannot be trained here.
    """
    torch.set_num_threads(runtime.threads)
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
    else:
        reset_peak_memory()
    with ResourceMonitor() if runtime.rank == 0 else contextlib.nullcontext() as monitor:
        _Fit(trial, runtime, monitor).run()


def evaluate(model: Family, samples: Sequence[Sample], *, batch_size: int) -> tuple[Scores, list[Record]]:
    """Scores of a model on a whole split, in this process."""
    records = predict(model, samples, batch_size=batch_size)
    return model.score(records), records


def predict(model: Family, samples: Sequence[Sample], *, batch_size: int) -> list[Record]:
    """What a model says of samples, in their order; it is moved to the GPU if this process sees one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    records: list[Record] = []
    with torch.no_grad():
        for start in range(0, len(samples), batch_size):
            chunk = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
            records += model.predict(to_device(model.collate(chunk, None), device))
    return records


class _Fit:
    """One call of ``fit``: the trial's data, model and optimizer."""

    def __init__(self, trial: Trial, runtime: Runtime, monitor: ResourceMonitor | None = None) -> None:
        self.trial, self.config, self.runtime, self.monitor = trial, trial.config, runtime, monitor
        self.parent = trial.folder / "checkpoints"
        self.notes: list[str] = list(trial.record.get("notes", ()))
        self.direction: Direction = direction_of(trial.family, self.config, self.config.objective)
        self.reports: list[dict[str, Any]] = []
        self.sampled = 0
        self.broken: Exception | None = None
        self.progress = Progress()
        self.mine = True
        models.check_embeddings(self.config, trial.family)
        committed = self._newest(self.parent)
        inherited = self._inherited() if committed is None else None
        with runtime.alive():
            self.data = _load(trial, runtime)
            self.training = first(self.data.splits["train"], self.config.train_pictures)
            self.validation = self.data.splits["validation"]
            self.assets, self.model = self._build(committed or inherited)
            self.notes += [*self.model.notes, *models.notes_on_sources(trial.family, self.config, cache=runtime.cache)]
            self._keep_features()
        self.penalised = penalised_weights(self.model, self.config)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        if self.config.epochs and not self.trainable:
            raise BadInput(f"the family {trial.family.name!r} has nothing to train here: set epochs=0.")
        self.optimizer = build_optimizer(self.model, self.config) if self.config.epochs else None
        average = self.config.ema_decay and self.config.epochs
        self.average = WeightAverage(self.trainable, decay=self.config.ema_decay) if average else None
        if committed is not None:
            self._restore(committed)
        if inherited is not None:
            self._inherit(inherited)
        self.autocast, self.scaler = self._precision()
        # A power of two near a step's count: sums in half precision stay as small as means would be.
        self.unit = 2.0 ** round(math.log2(32 * self.config.batch_size)) if self.scaler.is_enabled() else 1.0
        self.replica = self._replicate()
        self.size = self._part_sizes()

    def _newest(self, parent: Path) -> Checkpoint | None:
        """Rank 0 chooses the checkpoint for all: on shared storage each might see another one as the newest."""
        found = None
        if self.runtime.rank == 0:
            with self.runtime.alive():
                found = checkpoints.latest(parent)
        chosen: list[Any] = [(found.folder.name, found.epoch) if found else None]
        if self.runtime.world_size > 1:
            dist.broadcast_object_list(chosen, src=0)
        return Checkpoint(parent / chosen[0][0], chosen[0][1]) if chosen[0] else None

    def _build(self, committed: Checkpoint | None) -> tuple[Assets, Family]:
        family, config = self.trial.family, self.config
        cache, resident = self.runtime.cache, self.runtime.resident
        stands_on = models.stood_on(family, config, cache=cache, resident=resident)
        if committed is None:
            assets: Assets = {
                **family.prepare(config, self.data),
                **family.prepare_with(stands_on, config, self.data),
                **models.assets_of_parts(family, config, cache=cache),
            }
            # The seed is set only now: building what another trial has left here draws nothing.
            return assets, models.new_model(family, config, assets, stands_on, cache=cache).to(self.runtime.device)
        assets = models.read_assets(committed.folder, models.read_record(committed.folder))
        model = family(config.without_sources(), assets, stands_on)
        model.cache = cache
        models.load_weights(model, checkpoints.read_tensors(committed.folder / checkpoints.MODEL))
        return assets, model.to(self.runtime.device)

    def _keep_features(self) -> None:
        """Lets a frozen encoder run once for all trials of the node, where the family has such features."""
        key = ("training", "validation") if self.config.epochs else ("validation",)
        for split in key:
            samples, note = featured(
                self.model, getattr(self, split), split=split, data_hash=self.data.hash, cache=self.runtime.cache
            )
            setattr(self, split, samples)
            self.notes += [note] if note and note not in self.notes else []

    def _inherited(self) -> Checkpoint | None:
        """The last state of the trial that this one goes on from."""
        if not self.config.start_from:
            return None
        assert Path(self.config.start_from).name == self.config.start_from, "a uid, not a path"
        found = self._newest(self.trial.folder.parent / self.config.start_from / "checkpoints")
        if found is None or not (found.folder / checkpoints.OPTIMIZER).is_file():
            raise TrainingFailure(f"start_from={self.config.start_from}: that trial has kept no state to go on from")
        if not found.read_json(checkpoints.STATE)["progress"]["finished"]:
            raise TrainingFailure(f"start_from={self.config.start_from}: the last state of that trial is damaged")
        return found

    def run(self) -> None:
        """Epoch after epoch until the plan, the patience or the driver says stop."""
        self._train_and_tell()
        if self.runtime.rank == 0 and self.mine:
            if not self.progress.finished:  # stopped from outside: the end was told without figures, which come now
                self._illustrate()
            # Only now: a last epoch that was never heard of is still needed.
            kept = {self.progress.best_checkpoint}
            if self._goes_on_elsewhere():
                kept.add(self.reports[-1]["checkpoint"])
            checkpoints.keep_only(self.parent, [self.parent / name for name in kept])
        if self.broken is not None:  # the trial is over and told; the next one needs another process
            raise self.broken

    def _goes_on_elsewhere(self) -> bool:
        """Whether this is a segment whose last state others may start from."""
        return 0 < self.config.until_epoch < self.config.epochs

    def _train_and_tell(self) -> None:
        if self.runtime.rank == 0 and not self.progress.finished:  # drawn where it was stopped, and went on
            shutil.rmtree(self.trial.folder / FOLDER, ignore_errors=True)
        for report in self.reports:  # committed, but perhaps never heard of
            if report["epoch"] > self.trial.known_epoch and not self._tell(
                report["epoch"], self._illustrated(EpochReport(**report))
            ):
                return
        while not self.progress.finished:
            epoch = self.progress.epoch + (1 if self.config.epochs else 0)
            trained = self._train(epoch) if self.config.epochs else {}
            if not self._tell(epoch, self._illustrated(self._evaluate(epoch, trained))):
                return

    # -- training

    def _train(self, epoch: int) -> dict[str, float]:
        """One pass over the training split; returns the engine's metrics of it."""
        config, runtime, optimizer = self.config, self.runtime, self.optimizer
        assert optimizer is not None, "an epoch is trained only where there is an optimizer"
        start = time.perf_counter()
        torch.manual_seed(_seed(config.seed, epoch, runtime.rank))
        self.replica.train()
        draws = Draws(config.seed, epoch)
        steps = plan(len(self.training), draws, config.batch_size)
        total_steps = len(steps) * config.epochs
        loss_sum = torch.zeros((), dtype=torch.float64, device=wide(runtime.device))
        token_count = torch.zeros_like(loss_sum)
        rate = 0.0
        for number, micro_batches in enumerate(self._prefetch(steps, draws)):
            rate = config.learning_rate * self.progress.plateau_scale
            rate *= learning_rate_factor(config, step=self.progress.step + number, total_steps=total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            step_loss, step_count = self._accumulate(micro_batches)
            self._step(optimizer, step_count)
            loss_sum += step_loss
            token_count += step_count
            if runtime.device.type == "cpu" and runtime.world_size == 1 and not math.isfinite(step_loss.item()):
                break  # several workers have to stay in step until the epoch's end
        mean, per_rank = self._mean_loss(loss_sum, token_count)
        if not math.isfinite(mean):
            raise TrainingFailure(f"the training loss is not finite ({mean}) in epoch {epoch}")
        self.progress = dataclasses.replace(self.progress, epoch=epoch, step=self.progress.step + len(steps))
        if self.scaler.is_enabled():
            scaling = self.scaler.state_dict()
            self.progress = dataclasses.replace(
                self.progress, loss_scale=scaling["scale"], loss_scale_steps=scaling["_growth_tracker"]
            )
        seconds = time.perf_counter() - start
        return {
            "train_loss": mean,
            **({f"train_loss_rank_{rank}": value for rank, value in enumerate(per_rank)} if len(per_rank) > 1 else {}),
            "learning_rate": rate,
            "train_seconds": seconds,
            "samples_per_second": len(self.training) / seconds,
        }

    def _accumulate(self, micro_batches: "Sequence[Batch]") -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the SUM of the loss over a worker's share; returns that sum and its count."""
        sums, counts = [], []
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            waits = self.replica.no_sync() if isinstance(self.replica, DistributedDataParallel) and not last else None
            with waits or contextlib.nullcontext():
                with self.autocast():
                    loss = self.replica(to_device(batch, self.runtime.device))
                self.scaler.scale(loss.sum / self.unit).backward()
            self.runtime.tick()
            sums.append(loss.sum.detach())
            counts.append(loss.count.detach())
        where = wide(self.runtime.device)
        return torch.stack(sums).to(where, torch.float64).sum(), torch.stack(counts).to(where, torch.float64).sum()

    def _step(self, optimizer: torch.optim.Optimizer, count: torch.Tensor) -> None:
        """Divides by the count of all workers and micro-batches, adds penalties, clips, and steps."""
        world = self.runtime.world_size
        if world > 1:
            count = count.to(self.runtime.device, torch.float32, copy=True)
            dist.all_reduce(count)
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        factor = (self.unit * world / count.clamp(min=1)).to(self.runtime.device, torch.float32)  # DDP has averaged
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        if self.config.l1_penalty or self.config.l2_penalty:
            add_penalties(self.penalised, l1=self.config.l1_penalty, l2=self.config.l2_penalty)
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.trainable, self.config.gradient_clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()
        if self.average is not None:
            self.average.update()

    def _mean_loss(self, loss_sum: torch.Tensor, count: torch.Tensor) -> tuple[float, list[float]]:
        """Mean training loss over all workers, and of each worker alone."""
        both = torch.stack([loss_sum, count]).to(self.runtime.device, torch.float32)
        gathered = [both]
        if self.runtime.world_size > 1:
            gathered = [torch.zeros_like(both) for _ in range(self.runtime.world_size)]
            dist.all_gather(gathered, both)
        sums, counts = torch.stack(gathered).double().cpu().unbind(1)
        return (sums.sum() / counts.sum()).item(), (sums / counts.clamp(min=1)).tolist()

    def _prefetch(self, steps: Sequence[Sequence[int]], draws: Draws) -> Iterator[list[Batch]]:
        """Micro-batches of this worker, step after step; a thread prepares the next while one is trained on."""
        with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
            waiting: list[Future[list[Batch]]] = []
            for indexes in steps:
                waiting.append(pool.submit(self._collate, indexes, draws))
                if len(waiting) > 2:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

    def _collate(self, indexes: Sequence[int], draws: Draws) -> list[Batch]:
        mine = shares(indexes, self.runtime.world_size)
        smallest, largest = min(map(len, mine)), max(map(len, mine))
        micro = math.ceil(largest / self.config.micro_batch_size) if self.config.micro_batch_size else 1
        parts = shares(mine[self.runtime.rank], max(1, min(micro, smallest)))
        return [self.model.collate([self.training[i] for i in part], draws) for part in parts]

    # -- evaluation, decision, checkpoint

    def _evaluate(self, epoch: int, trained: Mapping[str, float]) -> EpochReport | None:
        """Scores the validation split over all workers; rank 0 decides, commits and returns the report."""
        with self.average.in_place() if self.average is not None else contextlib.nullcontext():
            return self._evaluate_as_kept(epoch, trained)

    def _evaluate_as_kept(self, epoch: int, trained: Mapping[str, float]) -> EpochReport | None:
        runtime, start = self.runtime, time.perf_counter()
        split = self.validation
        predicted: list[tuple[int, Record]] = []
        mine = range(runtime.rank, len(split), runtime.world_size)
        self.replica.eval()
        with torch.no_grad(), self.autocast():
            for begin in range(0, len(mine), self.size):
                indexes = mine[begin : begin + self.size]
                batch = self.model.collate([split[i] for i in indexes], None)
                predicted += zip(indexes, self.model.predict(to_device(batch, runtime.device)), strict=True)
                runtime.tick()
        if runtime.world_size > 1:
            everyone: list[Any] | None = [None] * runtime.world_size if runtime.rank == 0 else None
            dist.gather_object(predicted, everyone)
            if everyone is None:
                return None
            predicted = [record for some in everyone for record in some]
        ordered = [record for _, record in sorted(predicted, key=lambda pair: pair[0])]
        with runtime.alive():
            scores = self.model.score(ordered)
        metrics = dict(scores.metrics) | dict(trained)
        metrics["evaluate_seconds"] = time.perf_counter() - start
        earlier = sum(report["metrics"].get("train_seconds", 0.0) for report in self.reports)
        metrics["training_seconds"] = earlier + trained.get("train_seconds", 0.0)
        metrics[latency.KEY] = self._latency(metrics)
        metrics["peak_memory_mb"] = peak_memory(runtime.device)
        kept = self.model.embeddings if self.config.keep_embeddings else {}
        told = [
            {kept.get(k, k): v for k, v in record.items() if not k.startswith("_") or k in kept} for record in ordered
        ]
        records = [r | s for r, s in zip(told, scores.records, strict=True)]
        return self._decide(epoch, metrics, records, scores)

    def _latency(self, metrics: Mapping[str, float]) -> float:
        """``latency_ms`` as ``measure_latency`` describes it, measured now or in an earlier epoch."""
        known = self.reports[-1]["metrics"].get(latency.KEY, math.nan) if self.reports else math.nan
        best = is_better(metrics[self.config.objective], self.progress.best, self.direction)
        room = latency.seconds_for_latency(metrics, known, best=best, always=self.config.measure_latency)
        if not room:
            return known
        with self.autocast():
            return latency.latency(
                self.model,
                self.data.splits["validation"],
                device=self.runtime.device,
                room=room,
                tick=self.runtime.tick,
            )

    def _decide(self, epoch: int, metrics: dict[str, float], records: list[Record], scores: Scores) -> EpochReport:
        """Rank 0: is this the best epoch, does the learning rate fall, is it the end? Then commits."""
        config, before = self.config, self.progress
        value = metrics[config.objective]
        if not math.isfinite(value):
            raise TrainingFailure(f"{config.objective} is not finite ({value}) in epoch {epoch}")
        best = is_better(value, before.best, self.direction)
        stale, plateau = (0, 0) if best else (before.stale + 1, before.plateau + 1)
        falls = config.schedule == "plateau" and plateau >= config.plateau_patience
        early = bool(config.patience) and stale >= config.patience and epoch < config.epochs
        last = early or epoch >= (config.until_epoch or config.epochs)
        progress = dataclasses.replace(
            before,
            epoch=epoch,
            best=value if best else before.best,
            best_epoch=epoch if best else before.best_epoch,
            stale=stale,
            plateau=0 if falls else plateau,
            plateau_scale=before.plateau_scale * (config.plateau_factor if falls else 1.0),
            finished=last,
        )
        notes = [*self.notes, f"stopped early after epoch {epoch} of {config.epochs}"] if early else self.notes
        if any(True for _ in self.model.parameters()):
            metrics["samples_seen"] = epoch * len(self.training)
            metrics["parameters"] = sum(p.numel() for p in self.model.parameters())
            metrics["trainable_parameters"] = sum(p.numel() for p in self.trainable)
        else:  # what is evaluated was made elsewhere: nobody knows what it took
            del metrics["training_seconds"], metrics["peak_memory_mb"], metrics[latency.KEY]
        report = EpochReport(
            epoch=epoch,
            metrics=metrics,
            time=time.time(),
            last=last,
            best=best,
            notes=tuple(notes),
            resources=self._resources(),
        )
        with self.runtime.alive():
            resampled = resample(scores, [str(record["id"]) for record in records]) if best else None
        return self._commit(report, progress, records, resampled)

    def _resources(self) -> list[dict[str, float]]:
        """What the machine did since the last report."""
        samples = self.monitor.take() if self.monitor is not None else []
        numbered = [{**sample, "step": self.sampled + number} for number, sample in enumerate(samples)]
        self.sampled += len(samples)
        return numbered

    def _commit(
        self, report: EpochReport, progress: Progress, records: list[Record], resampled: Resampled | None
    ) -> EpochReport:
        """Writes the checkpoint, keeps best and last, and gives the report its folder."""

        def write(folder: Path) -> None:
            nonlocal progress, report
            if report.best:
                progress = dataclasses.replace(progress, best_checkpoint=folder.name)
            report = dataclasses.replace(report, checkpoint=folder.name)
            record = {
                "family": self.trial.family.name,
                "config": self.config.fields(),
                "assets": sorted(self.assets),
                **self.trial.record,
            }
            models.write_model(folder, self.model, record=record, assets=self.assets)
            if self.optimizer is not None and (not report.last or self._goes_on_elsewhere()):
                checkpoints.write_tensors(folder / checkpoints.OPTIMIZER, optimizer_tensors(self.optimizer))
                if self.average is not None:
                    checkpoints.write_tensors(folder / checkpoints.RAW, self.average.raw())
            # Samples of earlier reports have been heard of: each checkpoint would hold them again.
            reports = [*({**earlier, "resources": ()} for earlier in self.reports), dataclasses.asdict(report)]
            state = {"progress": dataclasses.asdict(progress), "reports": reports, "sampled": self.sampled}
            (folder / checkpoints.STATE).write_text(json.dumps(state))
            write_records(folder / checkpoints.RECORDS, records)
            if resampled is not None:
                write_resamples(folder / checkpoints.RESAMPLES, resampled)
            shown = range(min(COUNT, len(records)))
            split = self.validation
            write_samples(
                folder / checkpoints.SAMPLES, [split[i] for i in shown], [self.model.said(records[i]) for i in shown]
            )

        committed = checkpoints.commit(self.parent, report.epoch, write)
        self.progress, self.reports = progress, [*self.reports, dataclasses.asdict(report)]
        best = self.parent / progress.best_checkpoint
        checkpoints.keep_only(self.parent, [best, committed.folder])
        return report

    def _illustrated(self, report: EpochReport | None) -> EpochReport | None:
        """Before the last report is told, its figures are drawn; what could not be is one of its notes.

        Nothing is trained any more: the weights stay those of the best epoch.
        """
        if report is None or not report.last or self.runtime.rank:
            return report
        return dataclasses.replace(report, notes=(*report.notes, *self._illustrate()))

    def _illustrate(self) -> list[str]:
        best = Checkpoint(self.parent / self.progress.best_checkpoint, self.progress.best_epoch)
        folder, device = self.trial.folder / FOLDER, self.runtime.device
        with self.runtime.alive(), self.autocast():
            try:
                return illustrate(self.model, self.validation, best, folder, device=device)
            except Exception as error:  # noqa: BLE001 - of the device; the trial's numbers are there
                self.broken = error
                return [f"no figures: {type(error).__name__}: {' '.join(str(error).split())}"[:200]]

    def _tell(self, epoch: int, report: EpochReport | None) -> bool:
        told = None if report is None else (report, self.progress)
        go_on, shared = self.runtime.exchange(epoch, told)
        self.mine = shared is not None
        self.progress = shared or self.progress
        return go_on

    # -- setting up

    def _restore(self, committed: Checkpoint) -> None:
        state = committed.read_json(checkpoints.STATE)
        self.progress, self.reports = Progress(**state["progress"]), state["reports"]
        self.sampled = state.get("sampled", 0)
        if self.optimizer is not None and not self.progress.finished:
            self._restore_optimizer(self.optimizer, committed)

    def _inherit(self, inherited: Checkpoint) -> None:
        """Goes on from another trial's last state; what is best is counted anew."""
        theirs = Progress(**inherited.read_json(checkpoints.STATE)["progress"])
        self.progress = dataclasses.replace(
            theirs, best=math.nan, best_epoch=0, best_checkpoint="", stale=0, plateau=0, finished=False
        )
        assert self.optimizer is not None, "a segment is trained"
        self._restore_optimizer(self.optimizer, inherited)

    def _restore_optimizer(self, optimizer: torch.optim.Optimizer, committed: Checkpoint) -> None:
        load_optimizer(optimizer, checkpoints.read_tensors(committed.folder / checkpoints.OPTIMIZER))
        if self.average is not None:
            self.average.restore(checkpoints.read_tensors(committed.folder / checkpoints.RAW))

    def _precision(self) -> tuple[Any, torch.amp.GradScaler]:
        kind, device = self.config.precision, self.runtime.device
        if kind == "fp16" and device.type != "cuda":
            raise BadInput("precision='fp16' needs a GPU; on a CPU take float32 or bf16.")
        if kind == "bf16" and device.type == "cpu" and not cpu_has_bf16():
            self.notes.append("bf16 without instructions for it on this CPU: no faster than float32")
        dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]

        def autocast() -> Any:
            return torch.autocast(device.type, dtype, enabled=kind != "float32")

        scaler = torch.amp.GradScaler(device.type, enabled=kind == "fp16")
        if scaler.is_enabled():
            kept = {"scale": self.progress.loss_scale, "_growth_tracker": self.progress.loss_scale_steps}
            scaler.load_state_dict(scaler.state_dict() | kept)
        return autocast, scaler

    def _replicate(self) -> nn.Module:
        if self.runtime.world_size == 1 or not self.config.epochs:
            return self.model
        if len(self.training) < self.runtime.world_size:
            raise BadInput(f"{len(self.training)} training samples for {self.runtime.world_size} workers: take fewer.")
        if self.config.batch_size < self.runtime.world_size:
            raise BadInput(f"batch_size={self.config.batch_size} is below one sample for each worker.")
        steps = math.ceil(len(self.training) / self.config.batch_size)
        if len(self.training) // steps < self.runtime.world_size:  # steps are of nearly equal size
            raise BadInput(
                f"batch_size={self.config.batch_size} cuts {len(self.training)} training samples into steps of which "
                f"some have fewer than the {self.runtime.world_size} workers: take a larger one."
            )
        synchronise_batch_norm(self.model, self.runtime.device)
        return DistributedDataParallel(self.model)

    def _part_sizes(self) -> int:
        """Samples that are evaluated at once."""
        share = max(1, self.config.batch_size // self.runtime.world_size)
        return min(share, self.config.micro_batch_size) if self.config.micro_batch_size else share


def _load(trial: Trial, runtime: Runtime) -> Data:
    data = trial.family.load(trial.config, runtime.cache)
    if trial.config.data_hash and data.hash != trial.config.data_hash:
        raise BadInput(
            f"{trial.config.data} has changed since the trial was recorded: its content hash is {data.hash[:12]}…, "
            f"not {trial.config.data_hash[:12]}…; train a new trial."
        )
    for split in ("train", "validation") if trial.config.epochs else ("validation",):
        if not len(data.splits.get(split, ())):
            raise BadInput(f"{trial.config.data} has an empty {split} split.")
    return data


def _seed(seed: int, epoch: int, rank: int) -> int:
    return int(Draws(seed, epoch).generator(str(rank), "dropout").integers(2**63))
