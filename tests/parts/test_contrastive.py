"""Contrastive losses against hand-computed cases and plain loops, and two workers against one that has all."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from trainables.parts.contrastive import CONTRASTIVE_LOSSES, Pairs, gather_pairs, infonce, sigmoid
from vltune.contract import Loss

torch.set_num_threads(1)
losses = pytest.mark.parametrize("name", CONTRASTIVE_LOSSES)
OWNERS = (0, 0, 1, 2, 2, 2, 3, 4)
"""Five pictures with two, one, three, one and one texts."""
SPLITS = ((2, 3), (3, 5))
"""What two workers have of them: pictures, texts."""


def pairs() -> Pairs:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(len(set(OWNERS)) + len(OWNERS), 6, generator=generator, dtype=torch.float64)
    embeddings = F.normalize(raw, dim=1)
    return Pairs(embeddings[:5], embeddings[5:], torch.tensor(OWNERS))


def parameters() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(7.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)


def loss_of(name: str, own: Pairs, scale: torch.Tensor, bias: torch.Tensor) -> Loss:
    return CONTRASTIVE_LOSSES[name](own, gather_pairs(own), scale=scale, bias=bias)


def gradients(name: str, own: Pairs) -> dict[str, torch.Tensor]:
    """The loss, and what all of it depends on, of one worker."""
    scale, bias = (p.requires_grad_(requires_grad=True) for p in parameters())
    leaves = [x.clone().requires_grad_(requires_grad=True) for x in own[:2]]
    loss = loss_of(name, Pairs(leaves[0], leaves[1], own.owners), scale, bias)
    loss.sum.backward()
    grads = {"pictures": leaves[0].grad, "texts": leaves[1].grad, "scale": scale.grad, "bias": bias.grad}
    return {"sum": loss.sum.detach(), "count": loss.count, **{k: g for k, g in grads.items() if g is not None}}


# --- one worker


def test_infonce_of_two_pairs_by_hand() -> None:
    # Cosines 1 and 0 with their own, 0 and 0 with the other.
    own = Pairs(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([0, 1]))
    found = infonce(own, gather_pairs(own), scale=torch.tensor(2.0), bias=None)
    to_text = 2 * math.log(2)  # both texts are the same: either picture can only guess
    right, wrong = math.exp(2), 1
    to_picture = math.log((right + wrong) / right) + math.log((right + wrong) / wrong)
    assert found.sum.item() == pytest.approx((to_text + to_picture) / 2)
    assert found.count.item() == 2


def test_infonce_is_the_cross_entropy_over_rows_and_columns_as_clip_has_it() -> None:
    given = pairs()
    own = Pairs(given.pictures, given.texts[:5], torch.arange(5))
    logits = 7 * own.pictures @ own.texts.T
    target = torch.arange(5)
    wanted = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = infonce(own, gather_pairs(own), scale=parameters()[0], bias=None)
    torch.testing.assert_close(found.sum / found.count, wanted)


def test_other_texts_of_a_picture_are_no_negatives() -> None:
    own, scale = pairs(), 7.0
    total = 0.0
    for text, owner in enumerate(OWNERS):
        cosines = [scale * float(own.pictures[owner] @ t) for t in own.texts]
        others = [c for c, o in zip(cosines, OWNERS, strict=True) if o != owner]
        to_text = math.log(sum(map(math.exp, [cosines[text], *others]))) - cosines[text]
        across = [scale * float(p @ own.texts[text]) for p in own.pictures]
        to_picture = math.log(sum(map(math.exp, across))) - across[owner]
        total += (to_text + to_picture) / 2 / OWNERS.count(owner)
    found = infonce(own, gather_pairs(own), scale=parameters()[0], bias=None)
    assert found.sum.item() == pytest.approx(total)
    assert found.count.item() == pytest.approx(5)


def test_sigmoid_is_a_loop_over_all_pairs() -> None:
    own, (scale, bias) = pairs(), parameters()
    total = 0.0
    for i, picture in enumerate(own.pictures):
        for text, owner in zip(own.texts, OWNERS, strict=True):
            logit = float(scale * picture @ text + bias)
            total += math.log(1 + math.exp(-logit if owner == i else logit)) / OWNERS.count(owner)
    found = sigmoid(own, gather_pairs(own), scale=scale, bias=bias)
    assert found.sum.item() == pytest.approx(total)
    assert found.count.item() == pytest.approx(5)


@losses
def test_a_picture_alone_has_a_finite_gradient(name: str) -> None:
    found = gradients(name, Pairs(pairs().pictures[:1], pairs().texts[:2], torch.tensor([0, 0])))
    assert all(value.isfinite().all() for value in found.values())


# --- two workers


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    given = pairs()
    pictures, texts = (part.split(split)[rank] for part, split in zip(given[:2], SPLITS, strict=True))
    owners = given.owners.split(SPLITS[1])[rank]
    own = Pairs(pictures, texts, owners - owners.min())
    torch.save({name: gradients(name, own) for name in CONTRASTIVE_LOSSES}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(work, args=(folder,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@losses
def test_two_uneven_workers_have_the_gradients_of_one(two: list[dict[str, dict[str, torch.Tensor]]], name: str) -> None:
    wanted, found = gradients(name, pairs()), [worker[name] for worker in two]
    assert found[0].keys() == wanted.keys()
    for key in wanted:
        joined = key in ("pictures", "texts")
        together = torch.cat([f[key] for f in found]) if joined else found[0][key] + found[1][key]
        torch.testing.assert_close(together, wanted[key])
    assert not torch.allclose(found[0]["sum"], found[1]["sum"])
