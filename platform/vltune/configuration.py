"""What a trial is made of: the fields that every family has, and how fields are checked."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from vltune.errors import BadInput, nearest

LARGEST_SEED = 2**32 - 1


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


def listed(config: object, key: str) -> tuple[str, ...]:
    """The names that a field holds, with commas between them."""
    return tuple(name for name in (part.strip() for part in getattr(config, key).split(",")) if name)


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
    """Measures ``latency_ms``, the median milliseconds of predicting one sample alone, anew in each epoch, whatever it
    costs. Without it, it is measured in the first epoch, again in later best ones where that costs at most a fiftieth
    of the epoch, and else stays as it was: captions that have grown longer since may take longer than it says."""
    keep_embeddings: bool = False
    """Keeps the embeddings of each validation sample (float32) in the records beside the best checkpoint
    (``records.parquet``), for families that have some: captioning, retrieval, capdec."""
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
        in_range(self, "seed", 0, LARGEST_SEED)
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
