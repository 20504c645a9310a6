"""CLIPScore: how well captions fit their pictures, without and with references, by a joint embedder."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import normalize

from trainables.parts.annotations import refuse
from trainables.parts.embedders import HubEmbedder
from trainables.parts.hub import hub_source
from trainables.parts.kept_vectors import kept_vectors
from trainables.parts.layouts import read_listing
from trainables.parts.pictures import read_picture
from vltune.checkpoints import sha256
from vltune.contract import Scores, fingerprint
from vltune.errors import BadInput

_FIELD = "clip_model"
_WEIGHT = 2.5
_PROMPT = "A photo depicts "
_AT_ONCE = 64


def score_clip(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    ids: Sequence[str],
    data: str,
    data_hash: str,
    model: str,
    model_hash: str,
    cache: str,
) -> Scores:
    """``clip_score`` and ``ref_clip_score`` (https://arxiv.org/abs/2104.08718).

    CLIPScore is 2.5 times the cosine of picture and caption, or 0 if that is negative; RefCLIPScore its harmonic mean
    with the greatest cosine of the caption to a reference, or 0 likewise. Texts begin with "A photo depicts", as the
    paper has it. Pictures are resized whole to a square, not cut, so that nothing of them is lost.

    Args:
        captions: one for each picture.
        references: of each picture, one or more.
        ids: of the pictures, as the data set has them.
        data: folder of the data set.
        data_hash: its content hash; empty if it is not known.
        model: name or folder of the embedder.
        model_hash: of its files, as recorded.
        cache: folder in which the pictures' and the references' vectors stay; empty: nowhere.

    Raises:
        NotFound: the model or the data is not there.
        BadInput: it is another model, or no such one; a picture is not there.
    """
    folder, content = hub_source(model, model_hash, field=_FIELD)
    embedder = _embedder(folder, content)
    pictures = _pictures(embedder, ids, data=data, data_hash=data_hash, key=content, cache=cache)
    known = [text for texts in references for text in texts]
    theirs = kept_vectors(
        f"clip-texts-{fingerprint([content, known])}",
        rows=len(known),
        width=embedder.width,
        cache=cache,
        build=lambda: _of_texts(embedder, known),
    )
    ours = _of_texts(embedder, captions)
    rows, place = [], 0
    for picture, caption, texts in zip(pictures, ours, references, strict=True):
        alone = _WEIGHT * max(float(picture @ caption), 0.0)
        nearest = max(float((theirs[place : place + len(texts)] @ caption).max()), 0.0)
        both = alone + nearest
        rows.append({"clip_score": alone, "ref_clip_score": 2 * alone * nearest / both if both else 0.0})
        place += len(texts)
    return Scores({name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, rows)


@functools.lru_cache(maxsize=2)
def _embedder(folder: Path, content: str) -> HubEmbedder:  # noqa: ARG001 - the content is the key
    return HubEmbedder(folder, field=_FIELD)


def _of_texts(embedder: HubEmbedder, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
    unique = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = _working(embedder).encode_texts([f"{_PROMPT}{text}" for text in unique])
    embedder.cpu()
    return normalize(vectors, dim=-1).cpu().numpy()[[unique[text] for text in texts]]


def _pictures(
    embedder: HubEmbedder, ids: Sequence[str], *, data: str, data_hash: str, key: str, cache: str
) -> Float[np.ndarray, "pictures width"]:
    """Vectors of length 1; pictures are known by their content."""
    paths = _paths(data, tuple(ids))

    def build() -> np.ndarray:
        model, parts = _working(embedder), []
        for start in range(0, len(paths), _AT_ONCE):
            some = [read_picture(path, size=embedder.picture_size) for path in paths[start : start + _AT_ONCE]]
            parts.append(normalize(model.encode_pictures(np.stack(some)), dim=-1).cpu().numpy())
        embedder.cpu()
        return np.concatenate(parts)

    name = f"clip-pictures-{fingerprint([key, data_hash or _contents(paths), list(ids)])}"
    return kept_vectors(name, rows=len(paths), width=embedder.width, cache=cache, build=build)[:]


def _working(embedder: HubEmbedder) -> HubEmbedder:
    """The embedder on the GPU, if there is one: between evaluations it lies in the processor's memory."""
    return embedder.to("cuda") if torch.cuda.is_available() else embedder


@functools.lru_cache(maxsize=4)
def _paths(data: str, ids: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of pictures: an epoch must not read all annotations again."""
    known = {entry.id: entry.path for entry in reversed(read_listing(data, refuse).entries)}
    if missing := [identity for identity in ids if identity not in known]:
        raise BadInput(f"{data} has no picture {missing[0]!r}: clip_score needs those that were captioned.")
    return tuple(known[identity] for identity in ids)


@functools.lru_cache(maxsize=4)
def _contents(paths: tuple[Path, ...]) -> str:
    return fingerprint([sha256(path) for path in paths])
