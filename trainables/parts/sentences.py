"""How near captions come to their references in meaning, by embeddings of whole sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch.nn.functional import normalize

from trainables.parts.annotations import read_json
from trainables.parts.hub import hub_source
from trainables.parts.kept_vectors import kept_vectors
from trainables.parts.text_models import TextModel, check_text_encoder, text_model
from vltune.contract import Scores, fingerprint
from vltune.errors import BadInput

_FIELD = "sentence_model"
_LIBRARY = "sentence_transformers."
_CHAINS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
"""Modules of models that are read rightly here; vectors are brought to length 1 in any case."""


def check_sentence_model(folder: Path) -> None:
    """Checks, without its weights, that a model embeds sentences by the mean over its tokens, and by nothing else.

    sentence-transformers says so in ``modules.json`` and in the configuration of the pooling, which it has written in
    two forms. A folder without these files is an encoder alone, which that library reads by the mean as well. What
    stands before every text by default is refused too.

    Raises:
        BadInput: it does not.
    """
    check_text_encoder(folder, field=_FIELD)
    listing, pooling = folder / "modules.json", folder / "1_Pooling" / "config.json"
    try:
        if listing.is_file():
            modules = read_json(listing)
            kinds = [module["type"].rpartition(".")[2] for module in modules]
            if not all(module["type"].startswith(_LIBRARY) for module in modules) or kinds not in _CHAINS:
                raise _other(folder, f"by {', '.join(kinds)}")
            pooling = folder / modules[1]["path"] / "config.json"
        pooled = _pooled(read_json(pooling)) if listing.is_file() or pooling.is_file() else ["mean"]
        settings = folder / "config_sentence_transformers.json"
        said = read_json(settings) if settings.is_file() else {}
        prompt = (said.get("prompts") or {}).get(said.get("default_prompt_name"))
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(
            f"{_FIELD}={str(folder)!r}: what is said of its modules, its pooling or its prompts cannot be read "
            f"({error!r}); get its files again."
        ) from error
    if pooled != ["mean"]:
        raise _other(folder, f"by the pooling {' + '.join(pooled) or 'none'}")
    if prompt:
        raise _other(folder, f"behind the prompt {prompt!r}")


def _pooled(fields: Any) -> list[str]:
    """How a pooling's configuration pools; several are joined end to end."""
    if "pooling_mode" in fields:
        modes = fields["pooling_mode"]
        return [modes] if isinstance(modes, str) else [*map(str, modes)]
    switches = {
        name.removeprefix("pooling_mode_"): on for name, on in fields.items() if name.startswith("pooling_mode_")
    }
    on = [name.removesuffix("_tokens") for name, wanted in switches.items() if wanted]
    return on if switches else ["mean"]


def _other(folder: Path, how: str) -> BadInput:
    return BadInput(
        f"{_FIELD}={str(folder)!r} reads texts otherwise than by the mean over tokens: {how}; take one such as "
        "all-MiniLM-L6-v2."
    )


def embed_sentences(model: TextModel, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
    """Vectors of length 1: the mean over all tokens of a text, special ones included
    (https://arxiv.org/abs/1908.10084). Equal texts are embedded once.
    """
    texts = [text.lower() for text in texts] if model.lower_case else texts
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
    return np.einsum("pw,pw->p", _means(ours, captions), _means(theirs[:], references)).astype(np.float64)


def _means(vectors: np.ndarray, owners: Sequence[Sequence[str]]) -> Float[np.ndarray, "pictures width"]:
    counts = np.array([len(texts) for texts in owners])
    starts = np.cumsum(counts) - counts
    return np.add.reduceat(vectors, starts, dtype=np.float64) / counts[:, None]
