"""Attention of foreign captioners against what the models themselves tell when they are called as documented."""

import itertools

import pytest
import torch
from parts.test_vision_language import CAPTIONS, SIZE, asked, captioners, documented_inputs, padded, pictures
from PIL import Image

from trainables.parts.foreign_attention import told_weights
from trainables.parts.vision_language import IGNORED, caption_tokens, encode, picture_attention, read

__all__ = ["captioners"]  # a fixture

PATCHES = 4
FIRST = {"blip": 1, "vit_gpt2": 1, "git": 1, "florence2": 1, "paligemma": 0}
"""Where a picture's patches begin among what the decoder looks at: behind a class token or a mean, or at once."""


@torch.no_grad()
@pytest.mark.parametrize("kind", FIRST)
def test_it_is_what_the_model_tells_of_its_last_layer(kind, captioners):
    captioner, shown = captioners(kind), pictures()
    question = asked(captioner)
    tokens = padded(caption_tokens(captioner, question, CAPTIONS, max_tokens=20))
    seen, owners = encode(captioner, shown), torch.arange(3)
    found = picture_attention(captioner, question, seen=seen, owners=owners, tokens=tokens)
    assert found is not None
    assert found.shape == (3, tokens.shape[1], PATCHES)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, tokens.shape[1]))
    for row, caption in enumerate(CAPTIONS):
        inputs = documented_inputs(kind, captioner, Image.fromarray(shown[row].numpy()), caption)
        inputs.pop("labels", None)
        model, words = captioner.model, int((tokens[row] != IGNORED).sum())
        if kind == "blip":
            model, inputs = (
                model.text_decoder,
                {
                    "input_ids": inputs["input_ids"],
                    "encoder_hidden_states": model.vision_model(inputs["pixel_values"]).last_hidden_state,
                },
            )
        with told_weights(captioner.model):
            told = model(**inputs, output_attentions=True)
        layers = told.attentions if kind in ("git", "paligemma") else told.cross_attentions
        weights = layers[-1].mean(1)[0][:, FIRST[kind] : FIRST[kind] + PATCHES]
        # Where the caption's end is among the inputs, it predicts nothing, and we do not ask it.
        ended = kind in ("blip", "git", "paligemma")
        weights = weights[:-1] if ended else weights
        theirs = weights[-words:] / weights[-words:].sum(-1, keepdim=True)
        torch.testing.assert_close(found[row, :words], theirs, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["blip_2", "blip_2_t5", "llava"])
def test_a_decoder_that_sees_no_places_has_none(kind, captioners):
    captioner = captioners(kind)
    question, tokens = asked(captioner), torch.tensor([[1, 2]])
    seen, owners = encode(captioner, pictures(1)), torch.zeros(1, dtype=torch.long)
    assert picture_attention(captioner, question, seen=seen, owners=owners, tokens=tokens) is None


@torch.no_grad()
@pytest.mark.parametrize("kind", FIRST)
def test_asking_changes_nothing(kind, captioners):
    captioner = captioners(kind)
    question = asked(captioner)
    tokens = padded(caption_tokens(captioner, question, CAPTIONS, max_tokens=20))
    given = {"seen": encode(captioner, pictures()), "owners": torch.arange(3), "tokens": tokens}

    def implementations():
        return [
            getattr(m.config, "_attn_implementation", "") for m in captioner.model.modules() if hasattr(m, "config")
        ]

    before, logits = implementations(), read(captioner, question, **given)
    picture_attention(captioner, question, **given)
    assert implementations() == before
    assert torch.equal(read(captioner, question, **given), logits)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["blip", "vit_gpt2", "florence2", "paligemma"])
def test_patches_lie_row_by_row(kind, captioners):
    """Of all orders that patches could have, rows are the one in which what changes in the picture shows most."""
    captioner, half = captioners(kind), SIZE // 2
    plain = pictures(64)
    before, changes = encode(captioner, plain), []
    for quarter in range(PATCHES):
        painted, (down, across) = plain.clone(), divmod(quarter, 2)
        painted[:, down * half : (down + 1) * half, across * half : (across + 1) * half] = plain.flip(0)[
            :, :half, :half
        ]
        changes.append((encode(captioner, painted) - before)[:, FIRST[kind] :].norm(dim=-1).log().mean(0))
    found = torch.stack(changes)
    orders = list(itertools.permutations(range(PATCHES)))
    assert max(orders, key=lambda order: sum(found[q, p] for q, p in enumerate(order))) == tuple(range(PATCHES))
