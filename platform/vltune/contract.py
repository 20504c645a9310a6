"""Every type that two layers share: plain data, abstract methods, and the errors that people see."""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch

T = TypeVar("T")
Direction = Literal["max", "min"]
Assets = Mapping[str, str]
"""What a model needs beside its weights: file name -> text of the file (``tokenizer.json``). Saved with the model."""

Record = dict[str, Any]
"""One evaluated sample, JSON values only; ``id`` is the sample's. A key that begins with ``_`` may hold an array: it is
for ``score`` alone, and is not stored."""

Batch = dict[str, Any]
"""What ``collate`` makes: tensors go to the device, everything else stays as it is."""


class BadInput(ValueError):
    """Something that a person gave is wrong. The text is one line: what, where, which rule, what to do."""


class NotFound(BadInput):
    """A name that a person gave leads nowhere."""


class Unreachable(RuntimeError):
    """A server or a cluster that a person named does not answer."""


@runtime_checkable
class Library(Protocol):
    """Where promoted models are found."""

    def find(self, reference: str, *, expected: str = "") -> str:
        """The content hash of a promoted model, whose files lie where workers can read them from then on.

        Args:
            reference: ``NAME@ALIAS``, ``NAME/VERSION``, either with ``models:/`` before it, or a model's folder.
            expected: the hash that was recorded; a model that has it is taken, whatever became of the reference.

        Raises:
            NotFound: the reference leads nowhere.
            BadInput: it leads to another model than the one that was recorded.
            Unreachable: MLflow does not answer.
        """
        ...


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


def only_with(config: Any, table: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Checks that no field is set that has no effect.

    Args:
        config: a dataclass.
        table: field -> the other field, and the values of it with which the field is read.

    Raises:
        BadInput: a field differs from its default, and is not read.
    """
    for key, (other, values) in table.items():
        default = type(config).__dataclass_fields__[key].default
        if getattr(config, key) != default and getattr(config, other) not in values:
            raise BadInput(
                f"{key}={getattr(config, key)!r} has no effect with {other}={getattr(config, other)!r}: set {other} to "
                f"{' or '.join(map(str, values))}, or leave {key} at {default!r}."
            )


def named(config: object, key: str) -> dict[str, str]:
    """The pairs of a field of the form ``NAME=TEXT,NAME=TEXT``.

    Raises:
        BadInput: the field has another form, or a name twice.
    """
    text, pairs = getattr(config, key), {}
    for part in filter(None, text.split(",")):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (name and sign and value) or name in pairs:
            what = "is given twice" if name in pairs else "is no NAME=VALUE"
            raise BadInput(f"{key}={text!r}: {part!r} {what}; write {key}=NAME=VALUE,NAME=VALUE.")
        pairs[name] = value
    return pairs


def absolute_reference(reference: str) -> str:
    """A reference to a model, made absolute if it is the path of a folder that is here."""
    path = Path(reference).expanduser()
    return str(path.absolute()) if reference and path.is_dir() else reference


_CHECKED: ContextVar[bool] = ContextVar("checked", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Lets configurations be made in here whose fields do not fit together yet: others will replace some of them."""
    token = _CHECKED.set(False)
    try:
        yield
    finally:
        _CHECKED.reset(token)


def _when_checked(check: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(check)
    def maybe(config: Any) -> None:
        if _CHECKED.get():
            check(config)

    return maybe


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
    ema_decay: float = 0.0
    """Evaluates and keeps an exponential moving average of the weights, of which each step keeps this share
    (https://arxiv.org/abs/1803.05407 averages likewise); 0: the weights themselves. In [0, 1)."""
    measure_latency: bool = False
    """Measures ``latency_ms``: the median time of predicting one sample alone, in milliseconds."""
    init_from: str = ""
    """Parts whose first weights come from promoted models, ``PART=REFERENCE,…``:
    ``picture_encoder=rotation@champion,text_encoder=words@champion``. A text part brings its tokenizer."""
    source_hashes: str = ""
    """Content hashes of the promoted models that the trial starts from or stands on, ``NAME=HASH,…``; filled in when
    the search starts."""
    start_from: str = ""
    """Uid of a trial of the same run whose last state (weights, optimizer, epoch) this one goes on from, with changed
    hyperparameters: a segment of population-based training (https://arxiv.org/abs/1711.09846)."""
    until_epoch: int = 0
    """Epoch after which a segment ends, while schedules are of all ``epochs``; 0: the last."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__post_init__" in cls.__dict__:
            cls.__post_init__ = _when_checked(cls.__post_init__)

    @_when_checked
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
        in_range(self, "ema_decay", 0, 1, below=True)
        in_range(self, "until_epoch", 0, self.epochs)
        named(self, "init_from")
        named(self, "source_hashes")

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
        parts = [part.partition("=") for part in str(fields.get("init_from", "")).split(",") if part]
        whole = ",".join(f"{name}{sign}{absolute_reference(text)}" for name, sign, text in parts)
        return {**fields, **({"init_from": whole} if parts else {})}

    def models(self) -> dict[str, str]:
        """The promoted models that the trial stands on as they are: name in ``Family.uses`` -> reference."""
        return {}

    def find_sources(self, library: Library) -> Self:
        """The same, with the paths and hashes of all that it names beside its data: promoted models, first weights.

        Raises:
            NotFound: there is no such file or model.
            BadInput: it can neither be read nor fetched, or is not what was recorded.
            Unreachable: MLflow does not answer.
        """
        parts, known = named(self, "init_from"), named(self, "source_hashes")
        found = {}
        for name, text in {**parts, **self.models()}.items():
            try:
                found[name] = library.find(text, expected=known.get(name, ""))
            except BadInput as error:
                at = f"init_from={name}" if name in parts else name
                raise type(error)(f"{at}={text!r}: {error}") from error
        return dataclasses.replace(self, source_hashes=",".join(f"{name}={text}" for name, text in found.items()))

    def without_sources(self) -> Self:
        """The same, for a model whose weights come from a checkpoint: no first weights are read."""
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


class Scores(NamedTuple):
    """What ``score`` makes of a whole split."""

    metrics: dict[str, float]
    """Exactly the metrics that the family declares."""
    records: list[dict[str, float]]
    """The metrics that exist for single samples, one dict a record, in the records' order."""


NO_MODELS: Mapping[str, Any] = MappingProxyType({})


class Family(torch.nn.Module, ABC):
    """A model family: its configuration, its model, its loss and its metrics, in one class."""

    name: ClassVar[str]
    Config: ClassVar[type[TrialConfig]]
    metrics: ClassVar[Mapping[str, Direction]]
    """Every metric that ``score`` returns, and which way is better."""
    measured_by: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Metric -> fields that change what it measures. Trials in which they differ do not compare by it."""
    uses: ClassVar[Mapping[str, tuple[type["Family"], ...]]] = {}
    """The promoted models that it stands on as they are, name -> families that they may be of. They become child
    modules of that name, frozen, and their weights are not written into checkpoints."""
    part_assets: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Part (child module) -> assets that belong to it: ``init_from`` takes them along, a tokenizer with its encoder."""
    relative: ClassVar[frozenset[str]] = frozenset()
    """Metrics of a sample that depend on the others of its split: of splits of unequal size they do not compare."""
    notes: tuple[str, ...] = ()
    """What the table must say about this very model, a line each."""

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

    def alone(self, sample: Sample) -> Sample:
        """A sample as it comes when nothing is known of it: what ``latency_ms`` is measured on."""
        return sample

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


ENGINE_METRICS: Mapping[str, Direction] = MappingProxyType(
    dict.fromkeys(("parameters", "trainable_parameters", "training_seconds", "latency_ms", "peak_memory_mb"), "min")
)
"""What the engine measures of every trial and a search may have among its objectives. ``latency_ms`` needs
``measure_latency``."""


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
