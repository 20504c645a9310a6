"""The base row of every search, as its model: it is built on real pictures, learns, and predicts."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_families import World, masks

from search_spaces import SEARCHES
from trainables.parts.scenes import write_scenes
from vltune import checkpoints
from vltune.contract import Draws
from vltune.library import PromotedModels
from vltune.models import new_model, stood_on
from vltune.space import resolve

torch.set_num_threads(1)

ROWS = {"capdec_decoder": "small Transformer"}
"""Of searches whose base row needs what only the hub has, another one."""
OWN_PINS: dict[str, dict[str, Any]] = {"captioning_overfit": {"train_pictures": 8}, "decoding_prompts": {"prompt": "a"}}
"""What does not fit so few pictures and so plain captions."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_flush", lambda path: None)
        write_scenes(str(folder / "scenes"), pictures=24, picture_size=96)
        masks(folder / "scenes")
        yield World(folder)


def pins(world: World, name: str) -> dict[str, Any]:
    """What a row needs here: no weights from elsewhere, pictures that are no larger than they must be."""
    fields = SEARCHES[name].family.Config.__dataclass_fields__
    wanted: dict[str, Any] = {"data": world.scenes, **OWN_PINS.get(name, {})}
    if "picture_encoder" in fields:
        wanted |= {"weights": "none", "picture_size": 96}
    if "embedder" in fields:
        wanted["embedder"] = world.model("retrieval")
    if "captioner" in fields:
        wanted |= {"captioner": world.model("captioning"), "max_tokens": 16}
    if "predictions" in fields:
        wanted["predictions"] = world.predictions()
    if "captioner_model" in fields:
        wanted["captioner_model"] = world.captioner()
    return wanted


@pytest.mark.parametrize("name", SEARCHES)
def test_a_row_is_built_learns_and_predicts(world: World, name: str) -> None:
    search, cache = SEARCHES[name], str(world.folder / "cache")
    row = search.rows[ROWS.get(name, search.base_row)]
    library = PromotedModels(world.folder)
    config = resolve(search, None, row=row, pins=pins(world, name), sources=library).config
    data = search.family.load(config, cache)
    stands_on = stood_on(search.family, config, cache=cache)
    assets = {**search.family.prepare(config, data), **search.family.prepare_with(stands_on, config, data)}
    model = new_model(search.family, config, assets, stands_on, cache=cache).train()
    if config.epochs:
        split = data.splits["train"]
        loss = model(model.collate([split[i] for i in range(4)], Draws(0, 1)))
        (loss.sum / loss.count).backward()
        learning = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert learning
        assert [n for n, gradient in learning.items() if gradient is None] == []
        assert all(gradient.isfinite().all() for gradient in learning.values() if gradient is not None)
    with torch.no_grad():
        split = data.splits["validation"]
        records = model.eval().predict(model.collate([split[i] for i in range(2)], None))
        assert [record["id"] for record in records] == [split[i].id for i in range(2)]
        assert model.score(records).metrics.keys() == search.family.measures(config).keys()
