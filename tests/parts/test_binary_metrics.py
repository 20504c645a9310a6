"""Metrics of yes and no, against scikit-learn and cases counted by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from trainables.parts.binary_metrics import BINARY_METRICS, binary_metrics, roc_auc


def test_four_answers_counted_by_hand() -> None:
    #          hit    miss   alarm  rejection, rejection
    truths = [True, True, False, False, False]
    answers = [True, False, True, False, False]
    found = binary_metrics(truths, answers, [0.9, 0.4, 0.6, 0.1, 0.2])
    assert found == pytest.approx(
        {
            "accuracy": 3 / 5,
            "f1": 2 * 1 / (2 * 1 + 1 + 1),
            "precision": 1 / 2,
            "recall": 1 / 2,
            "roc_auc": 5 / 6,  # of the six pairs, only (0.4, 0.6) is in the wrong order
            "true_positive_share": 1 / 5,
            "true_negative_share": 2 / 5,
            "false_positive_share": 1 / 5,
            "false_negative_share": 1 / 5,
        }
    )
    assert found.keys() == BINARY_METRICS.keys()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn_has_them(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    truths = rng.random(60) < 0.4
    scores = np.clip(rng.normal(0.4 + 0.2 * truths, 0.2), 0, 1)
    scores = scores.round(1) if ties else scores
    answers = scores > 0.5
    found = binary_metrics(truths.tolist(), answers.tolist(), scores.tolist())
    (rejections, alarms), (misses, hits) = reference.confusion_matrix(truths, answers, normalize="all")
    expected = {
        "accuracy": reference.accuracy_score(truths, answers),
        "f1": reference.f1_score(truths, answers),
        "precision": reference.precision_score(truths, answers),
        "recall": reference.recall_score(truths, answers),
        "roc_auc": reference.roc_auc_score(truths, scores),
        "true_positive_share": hits,
        "true_negative_share": rejections,
        "false_positive_share": alarms,
        "false_negative_share": misses,
    }
    assert found == pytest.approx(expected)


def test_scores_without_order_are_chance() -> None:
    assert roc_auc([True, False, True, False], [0.5] * 4) == 0.5


def test_nothing_said_to_be_so_has_no_precision() -> None:
    found = binary_metrics([True, False], [False, False], [0.1, 0.2])
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)
