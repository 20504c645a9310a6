"""The fields of a family that reads the vectors of a frozen embedder, and what is made of them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from trainables.parts.embedders import Embedder, HubEmbedder, PromotedEmbedder, embedded_size, is_promoted
from trainables.parts.hub import hub_source
from vltune.configuration import Library, TrialConfig, absolute_reference, named
from vltune.contract import Sample
from vltune.errors import BadInput

OFFSET_SAMPLES = 1000
"""Pictures, and texts, over whose embeddings means are taken: a mean is then off by about 0.03 of their length."""


@dataclass(frozen=True, kw_only=True)
class EmbedderConfig(TrialConfig):
    """Which embedder, and what happens to its vectors."""

    embedder: str = "retrieval@champion"
    """What embeds pictures and texts in one space, frozen: a promoted ``retrieval`` model (NAME@ALIAS, NAME/VERSION or
    its folder), or a dual encoder such as CLIP by its name on the Hugging Face hub or its folder."""
    embedder_hash: str = ""
    """SHA-256 over the files of an embedder from the hub; filled in when the search starts, checked when it is read."""
    normalize: bool = True
    """Scales embeddings of text to length 1 before the noise and again after it, whatever the noise is, and those of
    pictures to length 1."""
    correct_offset: bool = False
    """Subtracts from embeddings of pictures what the mean of training pictures, their captions unread, differs from
    that of training texts (https://arxiv.org/abs/2203.02053); where ``normalize`` is set, both before and after that
    their length is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.embedder:
            raise BadInput("embedder='' is missing: name a promoted retrieval model, or a CLIP by name or folder.")

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the embedder made absolute."""
        whole = {"embedder": absolute_reference(fields["embedder"])} if fields.get("embedder") else {}
        return {**super().with_absolute_paths(fields), **whole}

    def models(self) -> dict[str, str]:
        """The embedder, if it is a promoted model: by its name, or because it was found as one before."""
        promoted = bool(promoted_hash(self)) or (not self.embedder_hash and is_promoted(self.embedder))
        return {**super().models(), **({"embedder": self.embedder} if promoted else {})}

    def find_sources(self, library: Library) -> "EmbedderConfig":
        """The same, with the hash of the embedder, which is fetched if need be."""
        found = super().find_sources(library)
        if self.models():
            return found
        _, embedder_hash = hub_source(self.embedder, self.embedder_hash, field="embedder")
        return dataclasses.replace(found, embedder_hash=embedder_hash)


def promoted_hash(config: EmbedderConfig) -> str:
    """The content hash of a promoted embedder; empty for one from the hub, and before it was found."""
    return named(config, "source_hashes").get("embedder", "")


def build_configured_embedder(config: EmbedderConfig, models: Mapping[str, Any]) -> Embedder:
    """The embedder that a configuration describes: the promoted model that is given, or one from the hub."""
    if "embedder" in models:
        return PromotedEmbedder(models["embedder"])
    return HubEmbedder(hub_source(config.embedder, config.embedder_hash, field="embedder")[0])


def configured_size(config: EmbedderConfig, *, cache: str) -> int:
    """Side of the pictures that the embedder sees, in pixels, without building it.

    Raises:
        NotFound: the embedder is not there.
        BadInput: it is none.
    """
    assert promoted_hash(config) or not config.models(), "find_sources comes first"
    return embedded_size(config.embedder, promoted=promoted_hash(config), cache=cache)


def scaled(config: EmbedderConfig, embeddings: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    """Embeddings of length 1, or as they are where nothing is normalised."""
    return normalize(embeddings, dim=-1) if config.normalize else embeddings


def measure_offset(
    config: EmbedderConfig, models: Mapping[str, Any], *, pictures: Sequence[Sample], texts: Sequence[Sample]
) -> str:
    """What the mean embedding of pictures differs from that of texts, as the text of an asset: a list of numbers.

    Args:
        config: which embedder, and whether its vectors are normalised.
        models: the promoted models that the trial stands on.
        pictures: training pictures; their captions are not read.
        texts: training texts, the first caption of each.
    """
    embedder = build_configured_embedder(config, models)
    seen = embedder.encode_pictures(np.stack([s.picture for s in _spread(pictures) if s.picture is not None]))
    read = embedder.encode_texts([s.captions[0] for s in _spread(texts)])
    return json.dumps((scaled(config, seen).mean(0) - scaled(config, read).mean(0)).tolist())


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Some samples, evenly from first to last."""
    count = min(OFFSET_SAMPLES, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]
