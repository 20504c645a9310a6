"""What families, searches and the engine agree on: plain data and abstract methods.

Long, so that whoever writes a family finds all of it in one file.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from vltune.configuration import TrialConfig, listed
from vltune.drawings import Drawing
from vltune.errors import BadInput, lookup

Direction = Literal["max", "min"]
Assets = Mapping[str, str]
"""What a model needs beside its weights: file name -> text of the file (``tokenizer.json``). Saved with the model."""

Record = dict[str, Any]
"""One evaluated sample, JSON values only; ``id`` is the sample's. A key that begins with ``_`` may hold an array: it is
for ``score`` alone, and is not stored, unless ``Family.embeddings`` names it and ``keep_embeddings`` asks for it."""

Batch = dict[str, Any]
"""What ``collate`` makes: tensors go to the device, everything else stays as it is."""


@dataclass(frozen=True)
class Sample:
    """One picture with its captions, either of which may be missing."""

    id: str
    picture: np.ndarray | None
    """uint8, (height, width, 3), RGB. It may be decoded when it is first asked for: who wants captions, asks not."""
    captions: tuple[str, ...]
    features: np.ndarray | None = None
    """What the model's ``Features`` made of it, where it has some; read-only."""


@dataclass(frozen=True)
class Data:
    """A data set, open: sequences that read their samples when asked."""

    name: str
    hash: str
    """SHA-256 over pictures, captions and splits: equal hashes mean equal data."""
    splits: Mapping[str, Sequence[Sample]]
    """``train``, ``validation`` and ``test``."""
    notes: tuple[str, ...] = ()
    """What a person should know, a line each: pictures skipped, how the split was made."""
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Sample's id -> path of its picture as it was given, for people to look at; ids without one are left out."""


@dataclass(frozen=True)
class Draws:
    """All randomness of data order and augmentation: each draw is a function of (seed, epoch, sample, purpose)."""

    seed: int
    epoch: int

    def generator(self, sample: str, purpose: str) -> np.random.Generator:
        """A generator that gives the same numbers wherever, and with however many workers, the sample is read."""
        text = f"{self.seed}/{self.epoch}/{purpose}/{sample}".encode()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.blake2b(text, digest_size=16).digest())))


class Loss(NamedTuple):
    """A sum and what to divide it by. The engine divides by ``count`` summed over workers and micro-batches."""

    sum: torch.Tensor
    """Scalar, with gradient."""
    count: torch.Tensor
    """Scalar: tokens, pairs or pictures."""


class Features(NamedTuple):
    """What a frozen encoder makes of samples."""

    key: Callable[[], str]
    """Names the encoder's weights, by their hash, and all settings that change what it gives."""
    encode: Callable[[Sequence[Sample]], np.ndarray]
    """Features of samples of one split, (samples, …), float32; of one shape for all samples of the split."""


Resample = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Metrics of resamples of a split: asked with how often each sample was drawn, (resamples, samples), each time as many
as there are, it answers with (resamples,) for each metric."""


class Scores(NamedTuple):
    """What ``score`` makes of a whole split."""

    metrics: dict[str, float]
    """Exactly the metrics that the family ``measures``."""
    records: list[dict[str, float]]
    """The metrics that exist for single samples, and what further ones are made of, one dict a record, in the records'
    order."""
    resample: Resample | None = None
    """What the metrics would be that are no means of those of single samples, where that can be said."""


@dataclass(frozen=True)
class Resampled:
    """What a model's metrics would be on resamples of its split."""

    values: Mapping[str, np.ndarray]
    """Metric -> (resamples,), for metrics that can be resampled."""
    samples: int
    """Samples of the split."""
    drawn: str
    """Names the samples and the draws: what is equal in this is paired."""


NO_MODELS: Mapping[str, Any] = MappingProxyType({})


class Family(torch.nn.Module, ABC):
    """A model family: its configuration, its model, its loss and its metrics, in one class."""

    name: ClassVar[str]
    Config: ClassVar[type[TrialConfig]]
    metrics: ClassVar[Mapping[str, Direction]]
    """Every metric that ``score`` may return, and which way is better."""
    asked_by: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Metric -> a field, and the name that it must hold among others, with commas between them: the metric exists only
    where it was asked for so. Those that are not here exist always."""
    measured_by: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Metric -> fields that change what it measures. Trials in which they differ do not compare by it."""
    uses: ClassVar[Mapping[str, tuple[type["Family"], ...]]] = {}
    """The promoted models that it stands on as they are, name -> families that they may be of. They become child
    modules of that name, frozen, and their weights are not written into checkpoints."""
    part_assets: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Part (child module) -> assets that belong to it: ``init_from`` takes them along, a tokenizer with its encoder."""
    asset_fields: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Asset -> fields that it is made by: they have no effect where ``init_from`` brings the asset."""
    explained: ClassVar[Mapping[str, str]] = {}
    """Metric -> what it says, in a sentence for people who do not know it. Metrics of the engine have theirs."""
    embeddings: ClassVar[Mapping[str, str]] = {}
    """Key of a record that holds embeddings, float32, (width,) or (texts, width) -> the column of
    ``records.parquet`` in which ``keep_embeddings`` keeps them."""
    drawn_with: ClassVar[Mapping[str, str]] = {}
    """Metric -> what stays as it is when samples are drawn again for its interval, or what else the interval is not:
    a line for under the table."""
    relative: ClassVar[frozenset[str]] = frozenset()
    """Metrics of a sample that depend on the others of its split: of splits of unequal size they do not compare."""
    rehearsed: ClassVar[bool] = True
    """Whether a model is built once where the search is started, before any worker: what does not fit together is said
    at once then. Not for models that may be larger than that machine's memory."""
    in_process: ClassVar[bool] = False
    """Whether its trials run where the search was started, without a cluster: no model runs in them."""
    notes: tuple[str, ...] = ()
    """What the table must say about this very model, a line each."""
    cache: str = ""
    """Folder where ``score`` may keep what it computes of a split once; the engine sets it. Empty: nowhere."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, cache: str) -> Data:
        """Opens ``config.data``; decoded pictures are kept in the folder ``cache``.

        Raises:
            BadInput: the folder holds no data, or broken data.
        """

    @classmethod
    def measures(cls, config: Any) -> dict[str, Direction]:
        """The metrics that ``score`` returns for a configuration: all but those that it does not ask for."""
        asked = cls.asked_by
        return {
            m: way for m, way in cls.metrics.items() if m not in asked or asked[m][1] in listed(config, asked[m][0])
        }

    @classmethod
    @abstractmethod
    def prepare(cls, config: Any, data: Data) -> Assets:
        """What is fitted on the training split before any weight: a tokenizer, statistics."""

    @classmethod
    def prepare_with(cls, models: Mapping[str, "Family"], config: Any, data: Data) -> Assets:  # noqa: ARG003
        """Further assets, for which the models that it stands on are asked: statistics of what they give."""
        return {}

    @abstractmethod
    def __init__(self, config: Any, assets: Assets, models: Mapping[str, "Family"] = NO_MODELS) -> None:
        """The model, with random weights or with those that the configuration names.

        Args:
            config: a ``Config``.
            assets: what ``prepare`` made, or what lies with a checkpoint.
            models: the promoted models that ``config.models()`` names, built, in evaluation mode and without gradients;
                they may be shared with other trials, and must not be changed.
        """
        super().__init__()

    @abstractmethod
    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Samples to tensors, on the CPU. ``draws`` is None when evaluating: nothing is random then."""

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """The training loss of a batch."""

    @abstractmethod
    def predict(self, batch: Batch) -> list[Record]:
        """A record for each sample of a batch made without draws. Independent of how samples are batched."""

    @abstractmethod
    def score(self, records: Sequence[Record]) -> Scores:
        """The metrics of a whole split from its records: pure, on one worker."""

    @abstractmethod
    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Samples from what a person gives to ``vltune predict``: paths of pictures, or texts.

        Raises:
            BadInput: a source that cannot be read.
        """

    def rank(self, queries: Sequence[Record], among: Sequence[Record], *, top: int) -> list[Record]:  # noqa: ARG002
        """For each query's record the best of others, with their similarity, for ``vltune predict --among``.

        Raises:
            BadInput: the family compares nothing.
        """
        raise BadInput(f"a model of the family {self.name!r} does not rank: leave --among out.")

    def unable(self, samples: Sequence[Sample], *, split: str) -> str:  # noqa: ARG002
        """Why it has nothing to say of a split, in a few words for the table; empty where it has, as every model has.

        Args:
            samples: the split.
            split: its name.
        """
        return ""

    def alone(self, sample: Sample) -> Sample:
        """A sample as it comes when nothing is known of it: what ``latency_ms`` is measured on."""
        return sample

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> Sequence[Drawing]:  # noqa: ARG002
        """What a person should see of the model, drawn once at the end of a trial; at most a second or two of work.

        The model has the weights of its best epoch, and is in evaluation mode without gradients. What this raises
        becomes a note in the table.

        Args:
            samples: the validation split. Each is read when it is asked for: a few dozen are enough.
            records: of all of them, in their order: what ``predict`` said in the best epoch, less what begins with
                ``_``, and the sample's own scores.
        """
        return ()

    def said(self, record: Record) -> str:
        """What ``vltune predict`` shows of a record, in one line."""
        return str(record["caption"])

    def referenced(self) -> Sequence[str]:
        """Child modules whose weights lie elsewhere, known by their hash, and are not written into checkpoints."""
        return tuple(self.uses)

    def is_stored(self, name: str) -> bool:
        """Whether a tensor of the state dict is written into checkpoints: not if its module is ``referenced``."""
        return not any(name.startswith(f"{module}.") for module in self.referenced())

    def features(self, *, fixed: bool = False) -> Features | None:  # noqa: ARG002
        """What its first part makes of samples, where that is the same in all epochs; None where it is not.

        Where a frozen encoder comes first and nothing random before it, the engine lets it run once for all trials of
        a node, keeps the result on disk, and hands it to ``collate`` in ``Sample.features``.

        Args:
            fixed: the whole model stays as it is, as one that another trial stands on.
        """
        return None


@dataclass(frozen=True)
class EpochReport:
    """What a trial tells after each epoch."""

    epoch: int
    """Epochs completed, from 1; 0 for a trial that trains nothing."""
    metrics: Mapping[str, float]
    """The family's metrics on the validation split, and the engine's own (``train_loss``, ``learning_rate``, …)."""
    time: float
    """Seconds since 1970, on the worker."""
    last: bool
    """Whether training ends here, by plan or by early stopping."""
    best: bool
    """Whether this epoch is the best so far by the objective."""
    checkpoint: str = ""
    """Name of the folder of this epoch's committed checkpoint."""
    notes: Sequence[str] = ()
    """What the table must say about the trial, a line each."""
    resources: Sequence[Mapping[str, float]] = ()
    """What the machine did since the report before: samples, each with its ``time``, its ``step`` (samples of the trial
    before it), and what ``ResourceMonitor`` measures. For charts alone, never for tables."""


ENGINE_METRICS: Mapping[str, Direction] = MappingProxyType(
    dict.fromkeys(
        ("parameters", "trainable_parameters", "training_seconds", "samples_seen", "latency_ms", "peak_memory_mb"),
        "min",
    )
)
"""What the engine measures of every trial and a search may have among its objectives. ``latency_ms`` is the median time
from one sample, opened, to its prediction, alone (a caption at batch 1); among the objectives it needs
``measure_latency``. ``peak_memory_mb`` without a GPU is that of the worker's process, with the models that stay in it
for later trials: ``--isolate`` measures each trial alone."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """Population-based training (Jaderberg et al., https://arxiv.org/abs/1711.09846), made of segments."""

    size: int
    """Members; each is one trial in each generation. At least 2."""
    segment_epochs: int
    """Epochs between two copies. At least 1."""
    perturbed: Mapping[str, tuple[float, float]]
    """Fields that change from segment to segment -> their range. A value is multiplied by 0.8 or 1.2, or, with
    probability ``resample``, drawn anew."""
    quantile: float = 0.25
    """Share of the members, the worst, that become copies of the same share of the best. In (0, 0.5]."""
    resample: float = 0.25
    """Probability that a changed value is drawn anew from its range. In [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question about models, and the space in which the answer is sought. The module's docstring is the question."""

    name: str
    family: type[Family]
    define: Callable[[Any], TrialConfig]
    """``define(trial)``: plain Optuna define-by-run; returns a ``family.Config``."""
    objective: str
    """The metric that the search optimises, one of ``family.metrics``. It also chooses each trial's best epoch."""
    further_objectives: tuple[str, ...] = ()
    """Metrics that are optimised beside it, of ``family.metrics`` or ``ENGINE_METRICS``: the search then looks for the
    Pareto front. Nothing is pruned then, because Optuna's pruners compare by one value."""
    num_trials: int
    """Trials in all, named rows included."""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named configurations that run first and to their end. Each says every parameter that ``define`` asks for."""
    base_row: str = ""
    """The row to which the table compares."""
    group_by: str = ""
    """Field whose equal values make a group of the table; the best of each group is marked."""
    columns: tuple[str, ...] = ()
    """Metrics of the table, in order; empty: the objective and ``val_loss``."""
    note: str = ""
    """A line that stands under the table."""
    sampler: str = "tpe"
    """``tpe``, ``gp`` (Gaussian process), ``nsga2``, ``random`` or ``grid``."""
    pruner: str = "none"
    """``none``, ``successive_halving``, ``hyperband`` or ``median``."""
    population: "Population | None" = None
    """Trains as a population that copies its best and changes hyperparameters on the way, instead of asking a sampler
    after the first generation."""
    question: str = ""
    """One line for ``vltune spaces``."""

    @property
    def direction(self) -> Direction:
        """Which way the objective is better."""
        return lookup(self.family.metrics, self.objective, f"metric of the family {self.family.name!r}")


def is_better(new: float, old: float, direction: Direction) -> bool:
    """Whether a metric improved. Nothing is better than a value that is not finite is worse than."""
    if not math.isfinite(new):
        return False
    return not math.isfinite(old) or (new > old if direction == "max" else new < old)


@dataclass(frozen=True)
class RunRow:
    """One trial as a row of a comparison table, or all seeds of one configuration."""

    uid: str
    run: str
    name: str
    """The named row, or empty for a suggested trial."""
    state: str
    """``waiting``, ``running``, ``finished``, ``pruned``, ``stopped`` or ``failed``."""
    config: Mapping[str, Any]
    searched: tuple[str, ...]
    """Names of the parameters that the sampler chose."""
    epochs: float
    """Epochs trained; of several seeds the mean, as of all numbers below."""
    best_epoch: float
    metrics: Mapping[str, float]
    """Metrics of the best epoch."""
    parameters: int
    """0: unknown, of a model that ran elsewhere."""
    seconds: float
    """Training and evaluation time."""
    notes: tuple[str, ...] = ()
    error: str = ""
    resampled: Resampled | None = None
    """The metrics on resamples of their split, where they were kept."""
    seeds: tuple[int, ...] = ()
    """The seeds whose mean it is; empty for a single trial."""
    deviations: Mapping[str, float] = field(default_factory=dict)
    """Metric -> its standard deviation over seeds."""


def fingerprint(value: object) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a plain value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
