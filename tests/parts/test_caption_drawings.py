"""Galleries of captions, and where decoders looked."""

from typing import Any

import numpy as np
import pytest
import torch

from trainables.parts.caption_drawings import attention_drawings, caption_gallery, word_attention
from trainables.parts.decoder import Decoder
from trainables.parts.decoders import DECODERS, build_decoder
from trainables.parts.generation import greedy
from trainables.parts.text import END, PADDING, START, CaptionTokenizer
from vltune.contract import Sample
from vltune.drawings import Pictures

METRICS: dict[str, Any] = {"cider": "max", "val_loss": "min"}
TOKENIZER = CaptionTokenizer.fit(["a red dog runs on green grass"], min_word_count=1)


def sample(name: str) -> Sample:
    return Sample(name, np.full((8, 8, 3), int(name), np.uint8), (f"reference {name}", "other", "third"))


def gallery(values: list[float], **settings: Any) -> list[Any]:
    records = [
        {
            "id": str(i),
            "caption": f"caption {i}",
            "references": [f"reference {i}", "b", "c"],
            "cider": v,
            "val_loss": 9.0,
        }
        for i, v in enumerate(values)
    ]
    samples = [sample(str(i)) for i in range(len(values))]
    return caption_gallery(samples, records, **{"objective": "cider", "metrics": METRICS, **settings})


def shown(drawing: Pictures) -> dict[str, list[int]]:
    return {row.title: [int(tile.picture[0, 0, 0]) for tile in row.tiles] for row in drawing.rows}


def test_the_best_the_median_and_the_worst_are_shown() -> None:
    (drawing,) = gallery([0.5, 0.9, 0.1, 0.7, 0.3, 0.6, 0.8], of_each=2)
    assert shown(drawing) == {
        "best by cider": [1, 6], "median by cider": [3, 5], "worst by cider": [4, 2]
    }  # fmt: skip
    tile = drawing.rows[0].tiles[0]
    assert tile.text == "caption 1"
    assert list(tile.details) == ["– reference 1", "– b", "cider\u00a00.90, val_loss\u00a09.00"]


def test_a_metric_that_falls_is_better_below() -> None:
    (drawing,) = gallery([0.5, 0.9, 0.1], metrics={"cider": "min"}, of_each=1)
    assert shown(drawing) == {"best by cider": [2], "median by cider": [0], "worst by cider": [1]}


def test_an_objective_of_the_whole_split_gives_way_to_one_of_pictures() -> None:
    (drawing,) = gallery([0.5, float("nan"), 0.1], objective="distinct_captions", of_each=1)
    assert shown(drawing) == {"best by cider": [0], "median by cider": [2], "worst by cider": [1]}


def test_few_pictures_are_all_shown_and_none_are_no_drawing() -> None:
    assert shown(gallery([0.5, 0.9])[0]) == {"all by cider": [1, 0]}
    assert gallery([]) == []


def built(name: str) -> Decoder:
    torch.manual_seed(1)
    sizes = dict.fromkeys(("width", "embedding_width", "hidden_width", "attention_width", "feedforward_width"), 8)
    return build_decoder(
        name,
        words=len(TOKENIZER),
        max_tokens=9,
        encoder_layers=1,
        decoder_layers=2,
        heads=2,
        dropout=0.0,
        activation="relu",
        positions="learned",
        gradient_checkpointing=False,
        **sizes,
    ).eval()


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_weights_are_those_that_the_decoder_used(name: str) -> None:
    decoder, pictures = built(name), torch.randn(2, 4, 8)
    memory = decoder.prepare(pictures)
    written = greedy(decoder, memory, pictures=2, prompt=(), max_tokens=9, device=pictures.device)
    found = word_attention(decoder, memory, written)
    assert found.shape == (2, written.shape[1], 4)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, written.shape[1]))
    used: list[torch.Tensor] = []
    spy(decoder, used)
    state, word = decoder.start(memory), torch.full((2, 1), START)
    for place in range(written.shape[1]):
        _, state = decoder.step(word, state)
        torch.testing.assert_close(found[:, place], used.pop())
        assert not used
        word = written[:, place : place + 1]


def spy(decoder: Any, used: list[torch.Tensor]) -> None:
    """Keeps the weights of each step, as they come up in the step itself."""
    if hasattr(decoder, "_look"):
        look = decoder._look
        decoder._look = lambda query, keys: used.append(look(query, keys).squeeze(1)) or used[-1][:, None]
        return
    last = decoder.decoder[-1].look
    forward = last.forward

    def kept(x: torch.Tensor, attended: Any, **settings: Any) -> torch.Tensor:
        queries, (keys, _) = last._split(last.query(x)), attended
        weights = torch.softmax(queries @ keys.mT / keys.shape[-1] ** 0.5, -1)
        used.append(weights.mean(1).squeeze(1))
        return forward(x, attended, **settings)

    last.forward = kept


def test_each_word_has_a_map_until_the_end() -> None:
    decoder = built("lstm")
    words = TOKENIZER.ids(["a red dog"])[0]
    written = torch.tensor([[*words, END, PADDING], [words[1], END, PADDING, PADDING, PADDING]])
    pictures = torch.randn(2, 9, 8)
    memory = decoder.prepare(pictures)
    (drawing,) = attention_drawings(decoder, memory, written, [sample("3"), sample("4")], TOKENIZER)
    assert isinstance(drawing, Pictures)
    first, second = drawing.rows
    assert (first.title, second.title) == ("a red dog", "red")
    assert [tile.text for tile in first.tiles] == ["whole picture", "a", "red", "dog"]
    weights = word_attention(decoder, memory, written)
    np.testing.assert_allclose(first.tiles[2].heat, weights[0, 1].view(3, 3).detach().numpy())
    assert first.tiles[0].heat is None
    assert int(second.tiles[1].picture[0, 0, 0]) == 4


def test_long_captions_go_over_two_rows_and_are_cut() -> None:
    decoder = built("transformer")
    decoder.positions = torch.nn.Embedding(40, 8)
    decoder._max_tokens = 40
    words = TOKENIZER.ids(["a red dog runs on green grass"])[0] * 3
    drawing = attention_drawings(
        decoder, decoder.prepare(torch.randn(1, 4, 8)), torch.tensor([words]), [sample("3")], TOKENIZER
    )[0]
    assert isinstance(drawing, Pictures)
    assert [len(row.tiles) for row in drawing.rows] == [8, 8]
    assert drawing.rows[0].title.endswith("(its first words)")


def test_one_position_is_no_map() -> None:
    decoder = built("lstm")
    memory = decoder.prepare(torch.randn(1, 1, 8))
    assert attention_drawings(decoder, memory, torch.tensor([[END]]), [sample("3")], TOKENIZER) == []
