"""Drawn again by hand: each sample written down as often as it was drawn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainables.parts.metrics import drawn_bleu, drawn_token_metrics, score_captions, token_metrics
from trainables.parts.resampling import drawn_medians, drawn_roc_auc, drawn_sums

RANDOM = np.random.default_rng(0)
COUNTS = np.array([RANDOM.multinomial(9, np.full(9, 1 / 9)) for _ in range(40)], float)


def repeated(counts: np.ndarray, values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    return np.repeat(values, counts[owners].astype(int))


def test_sums_of_numbers_and_of_lists() -> None:
    records = [{"a": 1, "b": [1.0, 2.0]}, {"a": 10, "b": []}]
    one, two = drawn_sums(np.array([[2.0, 0.0], [1.0, 1.0]]), records, "a", "b")
    assert one.tolist() == [2.0, 11.0]
    assert two.tolist() == [6.0, 3.0]


@pytest.mark.parametrize("each", [1, 2, 5])
def test_medians(each: int) -> None:
    owners = np.repeat(np.arange(9), each)
    values = RANDOM.integers(1, 12, len(owners)).astype(float)
    expected = [np.median(repeated(counts, values, owners)) for counts in COUNTS]
    np.testing.assert_allclose(drawn_medians(COUNTS, values, owners), expected)


def test_the_area_under_the_curve() -> None:
    owners = np.repeat(np.arange(9), 4)
    truths = RANDOM.random(36) < 0.4
    scores = np.round(truths * 0.3 + RANDOM.random(36), 1)  # with equal ones
    expected = [roc_auc_score(*(repeated(counts, x, owners) for x in (truths, scores))) for counts in COUNTS]
    np.testing.assert_allclose(drawn_roc_auc(COUNTS, truths, scores, owners), expected)
    one_kind = drawn_roc_auc(np.array([[1.0, 0.0]]), np.array([True, False]), np.array([0.1, 0.2]), np.arange(2))
    assert np.isnan(one_kind).all()


def test_bleu() -> None:
    words = ["a", "the", "dog", "cat", "red", "blue", "ball", "runs", "on"]
    captions = [" ".join(RANDOM.choice(words, RANDOM.integers(0, 9))) for _ in range(9)]
    references = [[" ".join(RANDOM.choice(words, RANDOM.integers(3, 8))) for _ in range(3)] for _ in range(9)]
    _, each = score_captions(captions, references)
    drawn = drawn_bleu(COUNTS, each)
    for row, counts in enumerate(COUNTS[:10].astype(int)):
        whole, _ = score_captions(
            [text for text, count in zip(captions, counts, strict=True) for _ in range(count)],
            [texts for texts, count in zip(references, counts, strict=True) for _ in range(count)],
        )
        for order in range(1, 5):
            assert drawn[f"bleu_{order}"][row] == pytest.approx(whole[f"bleu_{order}"], rel=1e-9)


def test_token_metrics() -> None:
    records = [{"nll": 3.0, "tokens": 2, "correct": 1}, {"nll": 900.0, "tokens": 1, "correct": 0}]
    records.append({"nll": 0.0, "tokens": 0, "correct": 0})
    drawn = drawn_token_metrics(np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]), records)
    expected = [token_metrics(906.0, 5, 2), token_metrics(2700.0, 3, 0)]
    for name, values in drawn.items():
        assert values[:2] == pytest.approx([row[name] for row in expected])
        assert np.isnan(values[2])
