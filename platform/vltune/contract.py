"""Every type that two layers share: plain data, abstract methods, and the errors that people see."""

import dataclasses
import difflib
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch

T = TypeVar("T")
Direction = Literal["max", "min"]
Assets = Mapping[str, str]
"""What a model needs beside its weights: file name -> text of the file (``tokenizer.json``). Saved with the model."""

Record = dict[str, Any]
"""One evaluated sample, JSON values only; ``id`` is the sample's."""

Batch = dict[str, Any]
"""What ``collate`` makes: tensors go to the device, everything else stays as it is."""


class BadInput(ValueError):
    """Something that a person gave is wrong. The text is one line: what, where, which rule, what to do."""


class NotFound(BadInput):
    """A name that a person gave leads nowhere."""


class Unreachable(RuntimeError):
    """A server or a cluster that a person named does not answer."""


class TrainingFailure(RuntimeError):
    """A trial that cannot go on whatever is retried: a loss that is not finite, no memory left on the device."""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The member of a table, or an error that names the nearest one.

    Raises:
        NotFound: the table has no such member.
    """
    if name in table:
        return table[name]
    raise NotFound(f"unknown {what} {name!r}{nearest(name, table)}")


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error text: the nearest name if there is one, and all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    guess = f"; did you mean {close[0]!r}? Choose" if close else "; choose"
    shown = (repr(choice) if "," in choice else choice for choice in choices)
    return f"{guess} one of: {', '.join(shown)}."


def one_of(config: object, key: str, choices: Iterable[str]) -> None:
    """Checks a field of a configuration against its choices.

    Raises:
        BadInput: the value is not among them.
    """
    value = getattr(config, key)
    if value not in choices:
        raise BadInput(f"{key}={value!r} is not possible{nearest(str(value), choices)}")


def in_range(
    config: object,
    key: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Checks that a field of a configuration lies in [low, high]; ``above`` and ``below`` exclude the bound itself.

    Raises:
        BadInput: it does not, or is not finite.
    """
    value = getattr(config, key)
    if math.isfinite(value) and (value > low if above else value >= low) and (value < high if below else value <= high):
        return
    left, right = ("(" if above or low == -math.inf else "["), (")" if below or high == math.inf else "]")
    raise BadInput(f"{key}={value!r} is out of range: it must lie in {left}{low}, {high}{right}.")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """What the training loop needs, whatever the family. A family's own ``Config`` adds its fields to these."""

    data: str = ""
    """Folder of the data set, as ``--data`` gave it."""
    data_hash: str = ""
    """Content hash of the data set that the trial was trained on; filled in when the search starts."""
    objective: str = "val_loss"
    """Metric that chooses the best epoch, stops early and lowers the learning rate on a plateau."""
    seed: int = 0
    """Seed of the weights, the order of the data, augmentation and dropout. 0 or more."""
    epochs: int = 10
    """Passes over the training split; 0 evaluates without training."""
    batch_size: int = 64
    """Samples per optimizer step, over all workers and micro-batches together. At least 1."""
    micro_batch_size: int = 0
    """Samples of one worker that go through the model at once; gradients accumulate. 0: all of the worker's share."""
    train_pictures: int = 0
    """Training samples to use, for overfitting on purpose; the first ones of the split. 0: all."""
    optimizer: str = "adamw"
    """``adam`` (Kingma & Ba, https://arxiv.org/abs/1412.6980) or ``adamw`` (https://arxiv.org/abs/1711.05101)."""
    learning_rate: float = 1e-3
    """Highest learning rate of the schedule. Above 0."""
    schedule: str = "cosine"
    """``constant``, ``cosine``, ``inverse_sqrt`` (both with warm-up) or ``plateau``."""
    warmup_fraction: float = 0.05
    """Share of all steps in which ``cosine`` and ``inverse_sqrt`` rise linearly to the learning rate. In [0, 1)."""
    plateau_patience: int = 2
    """``plateau``: epochs without improvement of the objective before the learning rate falls. At least 1."""
    plateau_factor: float = 0.5
    """``plateau``: what the learning rate is multiplied by. In (0, 1)."""
    weight_decay: float = 0.0
    """Decay of weight matrices: decoupled with ``adamw``, added to the gradient with ``adam``. At least 0."""
    l1_penalty: float = 0.0
    """Lasso: this times the sum of absolute weights is added to the loss. At least 0."""
    l2_penalty: float = 0.0
    """Ridge: this times the sum of squared weights is added to the loss. At least 0."""
    penalty_part: str = "all"
    """Part of the model whose weights the penalties see: ``all`` or a part's name, such as ``picture_encoder``."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    precision: str = "float32"
    """``float32``, ``bf16`` (GPU, or CPU that has it) or ``fp16`` (GPU only, with loss scaling)."""
    gradient_checkpointing: bool = False
    """Recomputes activations in the backward pass: less memory, about a third more time."""
    patience: int = 0
    """Epochs without improvement of the objective before training stops; 0 never stops early."""

    def __post_init__(self) -> None:
        one_of(self, "optimizer", ("adam", "adamw"))
        one_of(self, "schedule", ("constant", "cosine", "inverse_sqrt", "plateau"))
        one_of(self, "precision", ("float32", "bf16", "fp16"))
        for key, low in {"seed": 0, "epochs": 0, "batch_size": 1, "micro_batch_size": 0, "train_pictures": 0}.items():
            in_range(self, key, low)
        in_range(self, "seed", 0, 2**32 - 1)
        in_range(self, "learning_rate", 0, above=True)
        in_range(self, "warmup_fraction", 0, 1, below=True)
        in_range(self, "plateau_patience", 1)
        in_range(self, "plateau_factor", 0, 1, above=True, below=True)
        for key in ("weight_decay", "l1_penalty", "l2_penalty", "gradient_clip", "patience"):
            in_range(self, key, 0)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """A configuration from plain values, each checked against its field's type.

        Raises:
            BadInput: an unknown field, a value of another type, or a rule of the configuration broken.
        """
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        for key, value in fields.items():
            if key not in known:
                raise BadInput(f"unknown key {key!r} for {cls.__qualname__}{nearest(key, known)}")
            if not _fits(value, known[key]):
                kind = getattr(known[key], "__name__", str(known[key]))
                raise BadInput(f"{key}={value!r} has the wrong type: it must be of type {kind}.")
        values: dict[str, Any] = {key: float(v) if known[key] is float else v for key, v in fields.items()}
        return cls(**values)

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the paths of files beside the data made absolute.

        A search may be resumed in another folder, and its workers run in theirs.
        """
        return dict(fields)

    def find_sources(self) -> Self:
        """The same, with the paths and hashes of the files that it names beside its data, such as first weights.

        Raises:
            NotFound: there is no such file.
            BadInput: it can neither be read nor fetched, or is not what was recorded.
        """
        return self

    def without_sources(self) -> Self:
        """The same, for a model whose weights come from a checkpoint: nothing outside it is read."""
        return self

    def fields(self) -> dict[str, Any]:
        """All fields as plain values, in their order: the trial's record."""
        return dataclasses.asdict(self)


def _fits(value: object, kind: object) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


@dataclass(frozen=True)
class Sample:
    """One picture with its captions, either of which may be missing."""

    id: str
    picture: np.ndarray | None
    """uint8, (height, width, 3), RGB. It may be decoded when it is first asked for: who wants captions, asks not."""
    captions: tuple[str, ...]


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


class Scores(NamedTuple):
    """What ``score`` makes of a whole split."""

    metrics: dict[str, float]
    """Exactly the metrics that the family declares."""
    records: list[dict[str, float]]
    """The metrics that exist for single samples, one dict a record, in the records' order."""


class Family(torch.nn.Module, ABC):
    """A model family: its configuration, its model, its loss and its metrics, in one class."""

    name: ClassVar[str]
    Config: ClassVar[type[TrialConfig]]
    metrics: ClassVar[Mapping[str, Direction]]
    """Every metric that ``score`` returns, and which way is better."""
    measured_by: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Metric -> fields that change what it measures. Trials in which they differ do not compare by it."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, cache: str) -> Data:
        """Opens ``config.data``; decoded pictures are kept in the folder ``cache``.

        Raises:
            BadInput: the folder holds no data, or broken data.
        """

    @classmethod
    @abstractmethod
    def prepare(cls, config: Any, data: Data) -> Assets:
        """What is fitted on the training split before any weight: a tokenizer, statistics."""

    @abstractmethod
    def __init__(self, config: Any, assets: Assets) -> None:
        """The model, with random weights or with those that the configuration names."""
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
        """Samples from what a person gives to ``vltune predict``: paths of pictures.

        Raises:
            BadInput: a source that cannot be read.
        """


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


@dataclass(frozen=True, kw_only=True)
class Search:
    """A question about models, and the space in which the answer is sought. The module's docstring is the question."""

    name: str
    family: type[Family]
    define: Callable[[Any], TrialConfig]
    """``define(trial)``: plain Optuna define-by-run; returns a ``family.Config``."""
    objective: str
    """The metric that the search optimises, one of ``family.metrics``."""
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
    """``tpe`` or ``random``."""
    pruner: str = "none"
    """``none`` or ``successive_halving``."""
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
    """One trial as a row of a comparison table."""

    uid: str
    run: str
    name: str
    """The named row, or empty for a suggested trial."""
    state: str
    """``waiting``, ``running``, ``finished``, ``pruned``, ``stopped`` or ``failed``."""
    config: Mapping[str, Any]
    searched: tuple[str, ...]
    """Names of the parameters that the sampler chose."""
    epochs: int
    """Epochs trained."""
    best_epoch: int
    metrics: Mapping[str, float]
    """Metrics of the best epoch."""
    parameters: int
    seconds: float
    """Training and evaluation time."""
    notes: tuple[str, ...] = ()
    error: str = ""


def fingerprint(value: object) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a plain value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
