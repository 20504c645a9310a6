"""Retrieval metrics against hand-computed cases, and against one whole matrix of similarities."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainables.parts import retrieval_metrics
from trainables.parts.contrastive import Pairs, gather_pairs, infonce
from trainables.parts.retrieval_metrics import RETRIEVAL_METRICS, score_retrieval

torch.set_num_threads(1)


def split(pictures: int, *, texts_each: tuple[int, ...] = (5,), width: int = 16) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(pictures)
    owners = torch.cat([torch.full((texts_each[i % len(texts_each)],), i) for i in range(pictures)])
    pictures_ = torch.randn(pictures, width, generator=generator)
    texts = pictures_[owners] + 2 * torch.randn(len(owners), width, generator=generator)
    return F.normalize(pictures_, dim=1), F.normalize(texts, dim=1), owners


def at(angle: float) -> list[float]:
    return [float(np.cos(angle)), float(np.sin(angle))]


def test_three_pictures_on_a_circle_by_hand() -> None:
    pictures = torch.tensor([at(0.0), at(1.0), at(2.0)])
    # Of picture 0, one text lies at it, one nearest to picture 2; that of picture 1 lies at picture 0, a bit behind.
    texts = torch.tensor([at(0.05), at(1.9), at(-0.1), at(2.0)])
    owners = torch.tensor([0, 0, 1, 2])
    metrics, each, _ = score_retrieval(pictures, texts, owners, scale=1.0)
    # Texts look for pictures: first place, third, second, first.
    assert metrics["text_to_picture_recall_at_1"] == 2 / 4
    assert metrics["text_to_picture_median_rank"] == 1.5
    # Picture 0 finds its best text first; picture 1 (0.05, 1.9, -0.1, 2.0 radians) its own last; picture 2 first.
    assert metrics["picture_to_text_recall_at_1"] == pytest.approx(2 / 3)
    assert metrics["picture_to_text_median_rank"] == 1
    assert metrics["mean_recall"] == pytest.approx((0.5 + 2 / 3 + 4) / 6)
    assert [e["picture_to_text_median_rank"] for e in each] == [1, 4, 1]
    assert [e["text_to_picture_median_rank"] for e in each] == [2, 2, 1]
    assert [e["text_to_picture_recall_at_1"] for e in each] == [0.5, 0, 1]


def test_five_texts_count_as_the_field_does() -> None:
    # A picture succeeds if any of its texts is near; each text is a query of its own.
    pictures = torch.tensor([at(0.0), at(3.0)])
    texts = torch.tensor([at(0.1), at(2.8), at(2.9), at(2.7), at(2.6), at(3.05), at(0.2), at(0.3), at(0.25), at(0.35)])
    metrics, *_ = score_retrieval(pictures, texts, torch.arange(2).repeat_interleave(5), scale=1.0)
    assert metrics["picture_to_text_recall_at_1"] == 1
    assert metrics["text_to_picture_recall_at_1"] == pytest.approx(0.2)


def test_equal_embeddings_find_nothing() -> None:
    pictures, texts, owners = split(20)
    same = F.normalize(torch.ones(1, 16) + 1e-9, dim=1)
    metrics, *_ = score_retrieval(same.expand_as(pictures), same.expand_as(texts), owners, scale=10.0)
    assert metrics["mean_recall"] == 0
    assert metrics["text_to_picture_median_rank"] == 20
    assert metrics["picture_to_text_median_rank"] == 1 + 95  # the texts of other pictures come first
    assert metrics["modality_gap"] == pytest.approx(0, abs=1e-6)


def test_ranks_are_those_of_one_sorted_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_metrics, "_AT_ONCE", 200)  # two or three pictures at a time
    pictures, texts, owners = split(23, texts_each=(2, 5, 1))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    texts, owners = texts[order], owners[order]
    found = retrieval_metrics.compare_all(pictures, texts, owners, scale=5.0)
    matrix = (pictures @ texts.T).numpy()
    for text, owner in enumerate(owners.tolist()):
        assert found.text_ranks[text] == 1 + list(np.argsort(-matrix[:, text])).index(owner)
    for picture in range(23):
        others = matrix[picture, owners.numpy() != picture]
        assert found.picture_ranks[picture] == 1 + (others > matrix[picture, owners.numpy() == picture].max()).sum()


def test_loss_is_infonce_over_the_whole_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_metrics, "_AT_ONCE", 200)
    pictures, texts, owners = split(23, texts_each=(2, 5, 1))
    metrics, each, _ = score_retrieval(pictures, texts, owners, scale=100.0)
    own = Pairs(pictures, texts, owners)
    wanted = infonce(own, gather_pairs(own), scale=torch.tensor(100.0), bias=None)
    assert metrics["val_loss"] == pytest.approx((wanted.sum / wanted.count).item(), rel=1e-4)
    assert np.mean([e["val_loss"] for e in each]) == pytest.approx(metrics["val_loss"])


def test_metrics_are_those_that_are_declared() -> None:
    metrics, each, _ = score_retrieval(*split(11), scale=10.0)
    assert metrics.keys() == RETRIEVAL_METRICS.keys()
    assert len(each) == 11
    for key in RETRIEVAL_METRICS.keys() - {"modality_gap", "val_loss"}:
        if "rank" not in key:  # a median of medians is another number
            assert np.mean([e[key] for e in each]) == pytest.approx(metrics[key])


def test_modality_gap_is_the_distance_of_the_means() -> None:
    pictures, texts = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[-1.0, 0], [0, 1]])
    metrics, *_ = score_retrieval(pictures, texts, torch.tensor([0, 1]), scale=1.0)
    assert metrics["modality_gap"] == pytest.approx(1.0)


def test_a_large_split_is_compared_in_seconds() -> None:
    start = time.perf_counter()
    metrics, *_ = score_retrieval(*split(1000, width=64), scale=20.0)
    assert time.perf_counter() - start < 20  # about 0.2 s; a loop over queries took minutes
    assert metrics["mean_recall"] > 0.5
