"""The one training loop, for every model family, and the runtime that it runs in."""

import contextlib
import dataclasses
import json
import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vltune import checkpoints
from vltune.batchnorm import synchronise_batch_norm
from vltune.checkpoints import Checkpoint
from vltune.contract import (
    Assets,
    BadInput,
    Batch,
    Data,
    Direction,
    Draws,
    EpochReport,
    Family,
    Record,
    Sample,
    Scores,
    TrainingFailure,
    TrialConfig,
    is_better,
    lookup,
)
from vltune.optimization import (
    add_penalties,
    build_optimizer,
    learning_rate_factor,
    load_optimizer,
    optimizer_tensors,
    penalised_weights,
)
from vltune.samples import COUNT, write_samples


@dataclass(frozen=True)
class Progress:
    """What outlives an epoch: written into each checkpoint, the same on all workers."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Optimizer steps completed."""
    best: float = math.nan
    """Best value of the objective so far."""
    best_epoch: int = 0
    best_checkpoint: str = ""
    """Name of the best epoch's checkpoint folder."""
    stale: int = 0
    """Epochs since the best one."""
    plateau: int = 0
    """Epochs since the best one or the last fall of the learning rate."""
    plateau_scale: float = 1.0
    """What ``plateau`` multiplies the learning rate by."""
    loss_scale: float = 2.0**16
    """Loss scaling of fp16."""
    loss_scale_steps: int = 0
    """Steps since the loss scaling changed."""
    finished: bool = False


class Runtime(Protocol):
    """Where a trial runs: a Ray Train worker, or the process itself."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    cache: str
    """Folder of the caches that all trials of a node share."""

    def tick(self) -> None:
        """Says that the trial is alive. Cheap: called at every step."""
        ...

    def alive(self) -> contextlib.AbstractContextManager[None]:
        """Around what takes long and cannot tick: opening data, building a model, scoring."""
        ...

    def exchange(self, epoch: int, told: "tuple[EpochReport, Progress] | None") -> "tuple[bool, Progress | None]":
        """Rank 0 tells its report and gets whether to go on; the other ranks wait for the same answer.

        No progress comes back where the trial is over for this worker: somebody else has it, or has ended it.
        """
        ...


@dataclass
class LocalRuntime:
    """One worker, in this process; reports are collected in a list."""

    cache: str
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    reports: list[EpochReport] = field(default_factory=list)

    def tick(self) -> None:
        """Nobody watches."""

    def alive(self) -> contextlib.AbstractContextManager[None]:
        """Nobody watches."""
        return contextlib.nullcontext()

    def exchange(self, epoch: int, told: tuple[EpochReport, Progress] | None) -> tuple[bool, Progress]:
        """Keeps the report and goes on."""
        assert told is not None, f"epoch {epoch}: the only rank has to tell"
        self.reports.append(told[0])
        return True, told[1]


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
        _reset_peak_memory()
    _Fit(trial, runtime).run()


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
            records += model.predict(_to(model.collate(chunk, None), device))
    return records


class _Fit:
    """One call of ``fit``: the trial's data, model and optimizer."""

    def __init__(self, trial: Trial, runtime: Runtime) -> None:
        self.trial, self.config, self.runtime = trial, trial.config, runtime
        self.parent = trial.folder / "checkpoints"
        self.notes: list[str] = list(trial.record.get("notes", ()))
        self.direction: Direction = lookup(trial.family.metrics, self.config.objective, "metric")
        self.reports: list[dict[str, Any]] = []
        self.progress = Progress()
        self.mine = True
        committed = self._latest()
        with runtime.alive():
            self.data = _load(trial, runtime)
            self.training = _first(self.data.splits["train"], self.config.train_pictures)
            self.assets, self.model = self._build(committed)
        self.penalised = penalised_weights(self.model, self.config)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        if self.config.epochs and not self.trainable:
            raise BadInput(f"the family {trial.family.name!r} has nothing to train here: set epochs=0.")
        self.optimizer = build_optimizer(self.model, self.config) if self.config.epochs else None
        if committed is not None:
            self._restore(committed)
        self.autocast, self.scaler = self._precision()
        # A power of two near a step's count: sums in half precision stay as small as means would be.
        self.unit = 2.0 ** round(math.log2(32 * self.config.batch_size)) if self.scaler.is_enabled() else 1.0
        self.replica = self._replicate()
        self.size = self._part_sizes()

    def _latest(self) -> Checkpoint | None:
        """Rank 0 chooses the checkpoint for all: on shared storage each might see another one as the newest."""
        if self.runtime.rank == 0:
            with self.runtime.alive():
                found = checkpoints.latest(self.parent)
        chosen: list[Any] = [(found.folder.name, found.epoch) if self.runtime.rank == 0 and found else None]
        if self.runtime.world_size > 1:
            dist.broadcast_object_list(chosen, src=0)
        return Checkpoint(self.parent / chosen[0][0], chosen[0][1]) if chosen[0] else None

    def _build(self, committed: Checkpoint | None) -> tuple[Assets, Family]:
        family, config = self.trial.family, self.config
        torch.manual_seed(config.seed)
        if committed is None:
            assets: Assets = family.prepare(config, self.data)
            return assets, family(config, assets).to(self.runtime.device)
        assets = checkpoints.read_assets(committed.folder, checkpoints.read_record(committed.folder))
        model = family(config.without_sources(), assets)
        checkpoints.load_weights(model, checkpoints.read_tensors(committed.folder / checkpoints.MODEL))
        return assets, model.to(self.runtime.device)

    def run(self) -> None:
        """Epoch after epoch until the plan, the patience or the driver says stop."""
        self._train_and_tell()
        if self.runtime.rank == 0 and self.mine:  # only now: a last epoch that was never heard of is still needed
            checkpoints.keep_only(self.parent, [self.parent / self.progress.best_checkpoint])

    def _train_and_tell(self) -> None:
        for report in self.reports:  # committed, but perhaps never heard of
            if report["epoch"] > self.trial.known_epoch and not self._tell(report["epoch"], EpochReport(**report)):
                return
        while not self.progress.finished:
            epoch = self.progress.epoch + (1 if self.config.epochs else 0)
            trained = self._train(epoch) if self.config.epochs else {}
            if not self._tell(epoch, self._evaluate(epoch, trained)):
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
        steps = _plan(len(self.training), draws, config.batch_size)
        total_steps = len(steps) * config.epochs
        loss_sum = torch.zeros((), dtype=torch.float64, device=_wide(runtime.device))
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
                    loss = self.replica(_to(batch, self.runtime.device))
                self.scaler.scale(loss.sum / self.unit).backward()
            self.runtime.tick()
            sums.append(loss.sum.detach())
            counts.append(loss.count.detach())
        wide = _wide(self.runtime.device)
        return torch.stack(sums).to(wide, torch.float64).sum(), torch.stack(counts).to(wide, torch.float64).sum()

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
        mine = _shares(indexes, self.runtime.world_size)
        smallest, largest = min(map(len, mine)), max(map(len, mine))
        micro = math.ceil(largest / self.config.micro_batch_size) if self.config.micro_batch_size else 1
        parts = _shares(mine[self.runtime.rank], max(1, min(micro, smallest)))
        return [self.model.collate([self.training[i] for i in part], draws) for part in parts]

    # -- evaluation, decision, checkpoint

    def _evaluate(self, epoch: int, trained: Mapping[str, float]) -> EpochReport | None:
        """Scores the validation split over all workers; rank 0 decides, commits and returns the report."""
        runtime, start = self.runtime, time.perf_counter()
        split = self.data.splits["validation"]
        records: list[tuple[int, Record]] = []
        mine = range(runtime.rank, len(split), runtime.world_size)
        self.replica.eval()
        with torch.no_grad(), self.autocast():
            for begin in range(0, len(mine), self.size):
                indexes = mine[begin : begin + self.size]
                batch = self.model.collate([split[i] for i in indexes], None)
                records += zip(indexes, self.model.predict(_to(batch, runtime.device)), strict=True)
                runtime.tick()
        if runtime.world_size > 1:
            everyone: list[Any] | None = [None] * runtime.world_size if runtime.rank == 0 else None
            dist.gather_object(records, everyone)
            if everyone is None:
                return None
            records = [record for some in everyone for record in some]
        ordered = [record for _, record in sorted(records, key=lambda pair: pair[0])]
        with runtime.alive():
            scores = self.model.score(ordered)
        metrics = dict(scores.metrics) | dict(trained)
        metrics["evaluate_seconds"] = time.perf_counter() - start
        metrics["peak_memory_mb"] = _peak_memory(runtime.device)
        return self._decide(epoch, metrics, [r | s for r, s in zip(ordered, scores.records, strict=True)])

    def _decide(self, epoch: int, metrics: dict[str, float], records: list[Record]) -> EpochReport:
        """Rank 0: is this the best epoch, does the learning rate fall, is it the end? Then commits."""
        config, before = self.config, self.progress
        value = metrics[config.objective]
        if not math.isfinite(value):
            raise TrainingFailure(f"{config.objective} is not finite ({value}) in epoch {epoch}")
        best = is_better(value, before.best, self.direction)
        stale, plateau = (0, 0) if best else (before.stale + 1, before.plateau + 1)
        falls = config.schedule == "plateau" and plateau >= config.plateau_patience
        early = bool(config.patience) and stale >= config.patience and epoch < config.epochs
        last = early or epoch >= config.epochs
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
        metrics["parameters"] = sum(p.numel() for p in self.model.parameters())
        metrics["trainable_parameters"] = sum(p.numel() for p in self.trainable)
        report = EpochReport(epoch=epoch, metrics=metrics, time=time.time(), last=last, best=best, notes=tuple(notes))
        return self._commit(report, progress, records)

    def _commit(self, report: EpochReport, progress: Progress, records: list[Record]) -> EpochReport:
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
            checkpoints.write_model(folder, self.model, record=record, assets=self.assets)
            if self.optimizer is not None and not report.last:
                checkpoints.write_tensors(folder / checkpoints.OPTIMIZER, optimizer_tensors(self.optimizer))
            reports = [*self.reports, dataclasses.asdict(report)]
            state = {"progress": dataclasses.asdict(progress), "reports": reports}
            (folder / checkpoints.STATE).write_text(json.dumps(state))
            (folder / checkpoints.RECORDS).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
            shown = range(min(COUNT, len(records)))
            split = self.data.splits["validation"]
            write_samples(folder / checkpoints.SAMPLES, [split[i] for i in shown], [records[i] for i in shown])

        committed = checkpoints.commit(self.parent, report.epoch, write)
        self.progress, self.reports = progress, [*self.reports, dataclasses.asdict(report)]
        best = self.parent / progress.best_checkpoint
        checkpoints.keep_only(self.parent, [best, committed.folder])
        return report

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
        if self.optimizer is not None and not self.progress.finished:
            load_optimizer(self.optimizer, checkpoints.read_tensors(committed.folder / checkpoints.OPTIMIZER))

    def _precision(self) -> tuple[Any, torch.amp.GradScaler]:
        kind, device = self.config.precision, self.runtime.device
        if kind == "fp16" and device.type != "cuda":
            raise BadInput("precision='fp16' needs a GPU; on a CPU take float32 or bf16.")
        if kind == "bf16" and device.type == "cpu" and not _cpu_has_bf16():
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


def _first(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    if count > len(samples):
        raise BadInput(f"train_pictures={count} is more than the {len(samples)} of the training split.")
    return _Head(samples, count) if count else samples


class _Head(Sequence[Sample]):
    """The first samples of a split."""

    def __init__(self, samples: Sequence[Sample], count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._samples[range(self._count)[index]]


def _plan(count: int, draws: Draws, batch_size: int) -> list[list[int]]:
    """Which samples each step sees: a permutation of (seed, epoch) cut into batches of nearly equal size."""
    order = draws.generator("", "order").permutation(count).tolist()
    return _shares(order, math.ceil(count / batch_size))


def _shares(items: Sequence[int], parts: int) -> list[list[int]]:
    """Consecutive parts whose sizes differ by one at most."""
    small, large = divmod(len(items), parts)
    ends = [(i + 1) * small + min(i + 1, large) for i in range(parts)]
    return [list(items[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def _seed(seed: int, epoch: int, rank: int) -> int:
    return int(Draws(seed, epoch).generator(str(rank), "dropout").integers(2**63))


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _wide(device: torch.device) -> torch.device:
    """Where sums are kept in float64: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(name in flags.read_text() for name in ("avx512_bf16", "amx_bf16", " bf16"))


def _reset_peak_memory() -> None:
    with contextlib.suppress(OSError):  # Linux only; elsewhere the figure is the process's since its start
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> float:
    """Highest memory use of the trial in MiB: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
