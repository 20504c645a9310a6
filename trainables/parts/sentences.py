"""How near captions come to their references in meaning, by embeddings of whole sentences."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import normalize

from trainables.parts.hub import hub_source
from trainables.parts.kept_vectors import kept_vectors
from trainables.parts.text_models import TextModel, check_text_encoder, text_model
from vltune.contract import Scores, fingerprint
from vltune.errors import BadInput

_FIELD = "sentence_model"


def check_sentence_model(folder: Path) -> None:
    """Checks, without its weights, that a model embeds sentences by the mean over its tokens.

    Raises:
        BadInput: it does not.
    """
    check_text_encoder(folder, field=_FIELD)
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file() and not json.loads(pooling.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens", True):
        raise BadInput(
            f"{_FIELD}={str(folder)!r} was trained to be read otherwise than by the mean over tokens; take one such as "
            "all-MiniLM-L6-v2."
        )


def embed_sentences(model: TextModel, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
    """Vectors of length 1: the mean over all tokens of a text, special ones included
    (https://arxiv.org/abs/1908.10084). Equal texts are embedded once.
    """
    unique = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = np.empty((len(unique), model.width), np.float32)
    for some in model.encode([*unique]):
        there = some.there.unsqueeze(-1).float()
        means = (some.states * there).sum(1) / there.sum(1).clamp(min=1)
        vectors[some.places] = normalize(means, dim=-1).cpu().numpy()
    return vectors[[unique[text] for text in texts]]


def score_similarity(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, model: str, model_hash: str, cache: str
) -> Scores:
    """``similarity``: the mean cosine between the embedding of a picture's caption and those of its references.

    Args:
        captions: one for each picture.
        references: of each picture, one or more.
        model: name or folder of the model that embeds.
        model_hash: of its files, as recorded.
        cache: folder in which the references' embeddings stay; empty: nowhere.

    Raises:
        NotFound: the model is not there.
        BadInput: it is another one, or no such model.
    """
    scores = similarities([[text] for text in captions], references, model=model, model_hash=model_hash, cache=cache)
    return Scores({"similarity": float(scores.mean())}, [{"similarity": value} for value in scores.tolist()])


def similarities(
    captions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    model: str,
    model_hash: str,
    cache: str,
) -> Float[np.ndarray, " pictures"]:
    """Of each picture the mean cosine over all pairs of a caption and a reference.

    Args:
        captions: of each picture, one or more.
        references: of each picture, one or more.
        model: as above, as all others.
        model_hash: as above.
        cache: as above.
    """
    folder, content = hub_source(model, model_hash, field=_FIELD)
    embedder = text_model(folder, content, field=_FIELD)
    known = [text for texts in references for text in texts]
    theirs = kept_vectors(
        f"sentences-{fingerprint([content, known])}",
        rows=len(known),
        width=embedder.width,
        cache=cache,
        build=lambda: embed_sentences(embedder, known),
    )
    ours = embed_sentences(embedder, [text for texts in captions for text in texts])
    # The mean over all pairs of cosines is the product of the mean vectors.
    return np.einsum("pw,pw->p", _means(ours, captions), _means(theirs, references)).astype(np.float64)


def _means(vectors: np.ndarray, owners: Sequence[Sequence[str]]) -> Float[np.ndarray, "pictures width"]:
    counts = torch.tensor([len(texts) for texts in owners])
    place = torch.repeat_interleave(torch.arange(len(owners)), counts)
    sums = torch.zeros(len(owners), vectors.shape[1], dtype=torch.float64)
    sums.index_add_(0, place, torch.from_numpy(vectors).double())
    return (sums / counts[:, None]).numpy()
