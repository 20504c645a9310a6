"""The test split beside the validation split: when to warn."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from vltune.held_out import gap_warning


def rows(values: np.ndarray) -> list[dict[str, float]]:
    return [{"accuracy": float(v)} for v in values]


def flips(rng: np.random.Generator, share: float, count: int) -> np.ndarray:
    return (rng.random(count) < share).astype(float)


def test_the_study_that_fell_from_0_70_to_0_52_is_warned() -> None:
    rng = np.random.default_rng(0)
    text = gap_warning(rows(flips(rng, 0.70, 500)), rows(flips(rng, 0.52, 500)), metric="accuracy", direction="max")
    assert text.startswith("validation and test disagree: accuracy is 0.662 on 500")
    assert "\n" not in text


@pytest.mark.parametrize("direction", ["max", "min"])
def test_it_is_welchs_test(direction: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        ours, theirs = rng.normal(0.3, 1, 40), rng.normal(0, 2, 60)
        statistic = ttest_ind(ours, theirs, equal_var=False).statistic
        wanted = statistic > 3 if direction == "max" else statistic < -3
        warned = gap_warning(rows(ours), rows(theirs), metric="accuracy", direction=direction)  # pyright: ignore
        assert bool(warned) == wanted


def test_equal_models_are_hardly_ever_warned_of() -> None:
    rng = np.random.default_rng(2)
    pairs = [(flips(rng, 0.6, 300), flips(rng, 0.6, 300)) for _ in range(300)]
    warned = [gap_warning(rows(a), rows(b), metric="accuracy", direction="max") for a, b in pairs]
    assert sum(map(bool, warned)) <= 3


def test_a_better_test_split_and_metrics_of_whole_splits_are_no_reason() -> None:
    low, high = rows(np.zeros(50)), rows(np.ones(50))
    assert gap_warning(low, high, metric="accuracy", direction="max") == ""
    assert gap_warning(high, low, metric="accuracy", direction="max")
    assert gap_warning([{"id": "a"}] * 9, high, metric="accuracy", direction="max") == ""
