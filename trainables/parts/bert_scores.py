"""BERTScore: how well the tokens of captions match those of references, by an encoder's vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch.nn.functional import normalize

from trainables.parts.hub import hub_source
from trainables.parts.kept_vectors import kept_vectors
from trainables.parts.text_models import TextModel, check_text_encoder, text_model
from vltune.contract import Scores, fingerprint
from vltune.errors import BadInput

_FIELD = "bert_model"
_NAMES = ("bert_score_precision", "bert_score_recall", "bert_score_f1")
_RECOMMENDED = {
    ("bert", 12): 9,
    ("bert", 24): 18,
    ("roberta", 12): 10,
    ("roberta", 24): 17,
    ("distilbert", 6): 5,
}
"""(kind of model, its layers) -> the layer that agrees best with people, as the authors' code has it."""
_SPACED = ("roberta", "bart", "gpt2", "deberta")
"""Kinds whose tokenizers cut a first word otherwise, unless a space stands before it."""


class Tokens(NamedTuple):
    """Vectors of a text's tokens."""

    vectors: Float[np.ndarray, "tokens width"]
    """Of length 1, of special tokens too."""
    words: Bool[np.ndarray, " tokens"]
    """Which are no special tokens."""


def check_bert_model(folder: Path, *, layer: int) -> None:
    """Checks, without its weights, that a model has the layer that is to be matched.

    Args:
        folder: as ``hub_folder`` gives it.
        layer: 0: the recommended one.

    Raises:
        BadInput: it is no encoder of texts, has no such layer, or none is recommended.
    """
    check_text_encoder(folder, field=_FIELD)
    chosen_layer(folder, layer)


def chosen_layer(folder: Path, layer: int) -> int:
    """The layer that is matched.

    Raises:
        BadInput: the model has no such layer, or none is recommended.
    """
    from transformers import AutoConfig  # slow to import

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    layers, kind = int(config.num_hidden_layers), str(config.model_type)
    found = layer or _RECOMMENDED.get((kind, layers), 0)
    if not found:
        raise BadInput(
            f"bert_layer=0: no layer is recommended for {str(folder)!r}, a {kind!r} of {layers} layers; set bert_layer "
            f"to one of 1 to {layers}."
        )
    if found > layers:
        raise BadInput(f"bert_layer={layer} is out of range: {str(folder)!r} has {layers} layers.")
    return found


def score_bert(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    model: str,
    model_hash: str,
    layer: int,
    cache: str,
) -> Scores:
    """BERTScore (https://arxiv.org/abs/1904.09675): ``bert_score_precision``, ``_recall`` and ``_f1``.

    Precision is the mean over the caption's tokens of the greatest cosine to a token of the reference, recall the same
    with the two exchanged, F1 their harmonic mean. As in the authors' code special tokens may be matched but are not
    counted, of several references each number's greatest counts, and nothing is weighed by document frequency unless
    asked for; nothing is rescaled by a baseline here. Unlike there an empty caption is an ordinary one, with 0.

    Args:
        captions: one for each picture.
        references: of each picture, one or more.
        model: name or folder of the encoder.
        model_hash: of its files, as recorded.
        layer: whose vectors are matched; 0: the recommended one.
        cache: folder in which the references' vectors stay; empty: nowhere.

    Raises:
        NotFound: the model is not there.
        BadInput: it is another one, or no such model.
    """
    folder, content = hub_source(model, model_hash, field=_FIELD)
    encoder, layer = text_model(folder, content, field=_FIELD), chosen_layer(folder, layer)
    unique = [*dict.fromkeys(captions)]
    ours = dict(zip(unique, _encoded(encoder, unique, layer), strict=True))
    known = [*dict.fromkeys(text for texts in references for text in texts)]
    theirs = dict(zip(known, _kept(encoder, known, layer, key=content, cache=cache), strict=True))
    rows = [
        np.max([match(ours[caption], theirs[text]) for text in texts], axis=0)
        for caption, texts in zip(captions, references, strict=True)
    ]
    whole = np.mean(rows, 0)
    return Scores(
        dict(zip(_NAMES, whole.tolist(), strict=True)),
        [dict(zip(_NAMES, row.tolist(), strict=True)) for row in rows],
    )


def match(caption: Tokens, reference: Tokens) -> tuple[float, float, float]:
    """Precision, recall and F1 of one caption against one reference; 0 where one of them has no words."""
    if not caption.words.any() or not reference.words.any():
        return 0.0, 0.0, 0.0
    cosines = caption.vectors @ reference.vectors.T
    precision = float(cosines.max(1)[caption.words].mean())
    recall = float(cosines.max(0)[reference.words].mean())
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


def _encoded(encoder: TextModel, texts: Sequence[str], layer: int) -> list[Tokens]:
    found: dict[int, Tokens] = {}
    for some in encoder.encode(_given(encoder, texts), layer=layer):
        vectors = normalize(some.states, dim=-1).cpu().numpy()
        there, words = some.there.cpu().numpy(), some.words.cpu().numpy()
        for row, place in enumerate(some.places):
            found[place] = Tokens(vectors[row][there[row]], words[row][there[row]])
    return [found[place] for place in range(len(texts))]


def _kept(encoder: TextModel, texts: Sequence[str], layer: int, *, key: str, cache: str) -> list[Tokens]:
    """The same of texts that stay: their tokens' vectors lie in one table, one text after the other."""
    masks = [
        np.array(mask) == 0
        for mask in encoder.tokenizer(
            _given(encoder, texts), truncation=True, max_length=encoder.max_tokens, return_special_tokens_mask=True
        )["special_tokens_mask"]
    ]
    lengths = [len(mask) for mask in masks]
    table = kept_vectors(
        f"tokens-{fingerprint([key, layer, list(texts)])}",
        rows=sum(lengths),
        width=encoder.width,
        cache=cache,
        build=lambda: np.concatenate([tokens.vectors for tokens in _encoded(encoder, texts, layer)]),
    )
    ends = np.cumsum(lengths).tolist()
    return [Tokens(table[start:end], mask) for start, end, mask in zip([0, *ends], ends, masks, strict=False)]


def _given(encoder: TextModel, texts: Sequence[str]) -> list[str]:
    before = " " if encoder.kind in _SPACED else ""
    return [f"{before}{text.strip()}" if text.strip() else "" for text in texts]
