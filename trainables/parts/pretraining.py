"""What the three pretraining families share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vltune.contract import Scores
from vltune.errors import BadInput


def check_learns(config: Any, key: str) -> None:
    """Checks that the part which a family is there to pretrain learns.

    Raises:
        BadInput: the field ``key`` says that it does not.
    """
    if not getattr(config, key):
        raise BadInput(f"{key}=False leaves nothing to pretrain: leave it at True.")


def mean_scores(each: Sequence[Mapping[str, float]]) -> Scores:
    """Scores of a split whose samples all count alike: the means, and those of each sample."""
    return Scores({key: float(np.mean([scores[key] for scores in each])) for key in each[0]}, [dict(s) for s in each])
