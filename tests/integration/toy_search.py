"""Which weight is nearest to the target? A family of a test's own: a vector that is pulled to a point."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vltune.configuration import TrialConfig
from vltune.contract import NO_MODELS, Data, Draws, Family, Loss, Record, Sample, Scores, Search, fingerprint
from vltune.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ToyConfig(TrialConfig):
    """The toy's fields."""

    epochs: int = 2
    epoch_seconds: float = 0.0
    """How long an epoch sleeps, besides."""
    width: int = 4
    dropout: float = 0.2
    fails: str = ""
    """``error``: an exception; ``nan``: a loss that is not finite; ``killed:FILE``: SIGKILL in epoch 2, once;
    ``hangs:FILE``: silence there, once."""
    evaluate_seconds: float = 0.0
    """How long an evaluation sleeps."""
    evaluating: str = ""
    """A file that is there from the first evaluation of epoch 2 on, before it sleeps."""


class Toy(Family):
    """Learns the mean of random vectors; with dropout, so that randomness matters."""

    name = "toy"
    Config = ToyConfig
    metrics = {"val_loss": "min", "score": "max"}  # noqa: RUF012

    @classmethod
    def load(cls, config: ToyConfig, cache: str) -> Data:
        if config.data and not Path(config.data).is_dir():
            raise BadInput(f"no data at {config.data}")
        random = np.random.default_rng(0)
        samples = [Sample(str(i), random.integers(0, 255, (4, 4, 3), dtype=np.uint8), (f"toy {i}",)) for i in range(24)]
        splits = {"train": samples[:16], "validation": samples[16:20], "test": samples[20:]}
        return Data("toy", fingerprint("toy"), splits)

    @classmethod
    def prepare(cls, config: ToyConfig, data: Data) -> dict[str, str]:
        return {"mean.json": "[0.5]"}

    def __init__(self, config: ToyConfig, assets: dict[str, str], models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config, self.steps = config, 0
        self.body = torch.nn.Linear(48, config.width)
        self.head = torch.nn.Linear(config.width, 1)
        self.dropout = torch.nn.Dropout(config.dropout)

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> dict[str, Any]:
        pictures = torch.tensor(np.stack([s.picture.reshape(-1) for s in samples]), dtype=torch.float32) / 255
        return {"pictures": pictures, "ids": [s.id for s in samples]}

    def forward(self, batch: dict[str, Any]) -> Loss:
        self.steps += 1
        if self.config.fails == "error":
            raise RuntimeError("the toy is broken")
        if self.config.fails.startswith("killed:") and self.steps == 3 and not Path(self.config.fails[7:]).exists():
            Path(self.config.fails[7:]).touch()  # the next attempt lives on
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.fails.startswith("hangs:") and self.steps == 3 and not Path(self.config.fails[6:]).exists():
            Path(self.config.fails[6:]).touch()
            time.sleep(10_000)
        time.sleep(self.config.epoch_seconds / 2)  # two steps an epoch
        output = self.head(self.dropout(torch.tanh(self.body(batch["pictures"]))))
        if self.config.fails == "nan":
            output = output * float("nan")
        return Loss((output - batch["pictures"].mean(1, keepdim=True)).square().sum(), torch.tensor(float(len(output))))

    def predict(self, batch: dict[str, Any]) -> list[Record]:
        output = self.head(torch.tanh(self.body(batch["pictures"])))
        errors = (output - batch["pictures"].mean(1, keepdim=True)).square().squeeze(1)
        return [
            {"id": i, "caption": f"error {e:.3f}", "error": e}
            for i, e in zip(batch["ids"], errors.tolist(), strict=True)
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        if self.config.evaluating and self.steps > 2:
            Path(self.config.evaluating).touch()
        time.sleep(self.config.evaluate_seconds)
        errors = [r["error"] for r in records]
        mean = sum(errors) / len(errors)
        return Scores({"val_loss": mean, "score": -mean}, [{"error": e} for e in errors])

    def read(self, sources: Sequence[str]) -> list[Sample]:
        raise BadInput("the toy reads nothing")


def define(trial: Any) -> ToyConfig:
    """A rate and a width."""
    return ToyConfig(
        batch_size=8,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
        width=trial.suggest_categorical("width", (2, 4, 8)),
    )


SEARCH = Search(
    name="toy",
    family=Toy,
    define=define,
    objective="val_loss",
    num_trials=4,
    rows={"base": {"learning_rate": 0.01, "width": 4}},
    base_row="base",
)
