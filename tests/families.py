"""A tiny family for tests of the engine: two linear layers, samples that count unequally, losses by script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vltune.configuration import TrialConfig
from vltune.contract import NO_MODELS, Data, Draws, Family, Loss, Record, Sample, Scores, fingerprint
from vltune.errors import BadInput, NotFound


@dataclass(frozen=True, kw_only=True)
class LineConfig(TrialConfig):
    """The fields of ``Line``."""

    epochs: int = 2
    batch_size: int = 5
    learning_rate: float = 0.05
    gradient_clip: float = 0.0
    dropout: float = 0.0
    script: str = ""
    """Values of ``val_loss``, evaluation by evaluation, instead of the true ones."""
    breaks: bool = False
    """Makes the loss of the second epoch NaN."""


class Line(Family):
    """Regression of a number on a picture; a sample counts as often as it has captions."""

    name = "line"
    Config = LineConfig
    metrics = {"val_loss": "min", "score": "max"}  # noqa: RUF012

    @classmethod
    def load(cls, config: LineConfig, cache: str) -> Data:
        random = np.random.default_rng(0)
        samples = [
            Sample(f"s{i}", random.integers(0, 255, (2, 2, 3), dtype=np.uint8), ("word",) * (1 + i * i % 4))
            for i in range(14)
        ]
        return Data("line", fingerprint("line"), {"train": samples[:10], "validation": samples[10:], "test": []})

    @classmethod
    def prepare(cls, config: LineConfig, data: Data) -> dict[str, str]:
        return {"notes.txt": "ä line\n"}

    def __init__(self, config: LineConfig, assets: dict[str, str], models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.picture_encoder = torch.nn.Linear(12, 4)
        self.dropout = torch.nn.Dropout(config.dropout)
        self.head = torch.nn.Linear(4, 1)
        self.register_buffer("evaluations", torch.zeros((), dtype=torch.int64))
        self.seen: list[list[str]] = []

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> dict[str, Any]:
        pictures = torch.tensor(np.stack([s.picture.reshape(-1) for s in samples]), dtype=torch.float32) / 255
        if draws is not None:
            self.seen.append([s.id for s in samples])
        weights = torch.tensor([float(len(s.captions)) for s in samples])
        return {"pictures": pictures, "ids": [s.id for s in samples], "weights": weights}

    def errors(self, batch: dict[str, Any]) -> torch.Tensor:
        output = self.head(self.dropout(torch.tanh(self.picture_encoder(batch["pictures"])))).squeeze(1)
        return (output - 3 * batch["pictures"].mean(1)).square()

    def forward(self, batch: dict[str, Any]) -> Loss:
        errors = self.errors(batch) * batch["weights"]
        if self.config.breaks and self.evaluations:
            errors = errors * float("nan")
        return Loss(errors.sum(), batch["weights"].sum())

    def predict(self, batch: dict[str, Any]) -> list[Record]:
        self.evaluations += len(batch["ids"]) > 1  # one alone is timed, or shows its modules
        given = [float(text) for text in self.config.script.split()]
        errors = self.errors(batch).tolist()
        if given:
            errors = [given[int(self.evaluations) - 1]] * len(errors)
        return [{"id": i, "error": e, "caption": "line"} for i, e in zip(batch["ids"], errors, strict=True)]

    def score(self, records: Sequence[Record]) -> Scores:
        mean = sum(r["error"] for r in records) / len(records)
        return Scores({"val_loss": mean, "score": -mean}, [{"val_loss": r["error"]} for r in records])

    def read(self, sources: Sequence[str]) -> list[Sample]:
        raise BadInput("a line reads nothing")


class NoLibrary:
    """A library in which nothing was promoted."""

    def find(self, reference: str, *, expected: str = "") -> str:
        raise NotFound(f"no model {reference!r} here")
