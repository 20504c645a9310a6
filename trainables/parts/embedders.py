"""Frozen joint embedders behind one interface: pictures and texts in, vectors of one space out."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from trainables.parts.hub import hub_folder, load_foreign
from vltune.contract import Sample
from vltune.errors import BadInput
from vltune.models import read_record, shelved

_AT_ONCE = 64
_UNMASKED = ("siglip", "siglip2")
"""Kinds of models that were trained on texts of one length, whose padding they read as well."""
_REFERENCE = re.compile(r"models:/.+|[^/]+@[^/]+|[^/]+/\d+")
"""What leads to a promoted model: NAME@ALIAS, NAME/VERSION, or either with ``models:/`` before it."""


class Embedder(nn.Module, ABC):
    """What a decoder of embeddings may know of the model that made them. It stays frozen and in evaluation mode."""

    width: int
    """Length of the vectors."""
    picture_size: int
    """Side of the square pictures that it sees, in pixels."""

    def encode_pictures(
        self, pictures: UInt8[np.ndarray, "pictures height width 3"]
    ) -> Float[Tensor, "pictures embedded"]:
        """The vectors of pictures, in single precision and on the embedder's device."""
        return self._all(pictures, self._of_pictures)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "number embedded"]:
        """The vectors of texts, likewise."""
        return self._all(texts, self._of_texts)

    @abstractmethod
    def _of_pictures(self, pictures: np.ndarray) -> Tensor:
        """The vectors of a few pictures."""

    @abstractmethod
    def _of_texts(self, texts: Sequence[str]) -> Tensor:
        """The vectors of a few texts."""

    @torch.no_grad()
    def _all(self, items: Any, encode: Any) -> Tensor:
        device = next(self.parameters()).device
        # Whoever asks, in training or in evaluation, gets the same: autocast would round.
        with torch.autocast(device.type, enabled=False):
            parts = [encode(items[start : start + _AT_ONCE]).float() for start in range(0, len(items), _AT_ONCE)]
        return torch.cat(parts) if parts else torch.zeros(0, self.width, device=device)

    def train(self, mode: bool = True) -> "Embedder":  # noqa: ARG002, FBT001, FBT002 - as nn.Module has it
        """Stays in evaluation mode."""
        return super().train(False)  # noqa: FBT003


class PromotedEmbedder(Embedder):
    """A model of ours that was promoted."""

    def __init__(self, model: Any) -> None:
        """Wraps the model.

        Args:
            model: built and frozen, of a family with ``encode_pictures`` and ``encode_texts``.
        """
        super().__init__()
        self.model = model
        self.width, self.picture_size = model.width, model.config.picture_size
        self.eval()

    def _of_pictures(self, pictures: np.ndarray) -> Tensor:
        batch = self.model.collate([Sample(str(i), picture, ()) for i, picture in enumerate(pictures)], None)
        device = next(self.parameters()).device
        return self.model.encode_pictures({k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})

    def _of_texts(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_texts([*texts])


class HubEmbedder(Embedder):
    """A dual encoder of the transformers library, such as CLIP or SigLIP, with its own processor and tokenizer."""

    def __init__(self, folder: Path, *, field: str = "embedder") -> None:
        """Loads the model.

        Args:
            folder: its files, as ``hub_folder`` gives it.
            field: that names it, for the errors.

        Raises:
            BadInput: they hold no dual encoder.
        """
        import transformers  # slow to import

        super().__init__()
        self.model = load_foreign(transformers.AutoModel, folder)
        self.picture_size = processed_size(folder, field=field)
        self._processor = _read(transformers.AutoImageProcessor, folder, "image processor", field)
        self._tokenizer = _read(transformers.AutoTokenizer, folder, "tokenizer", field)
        self._max_tokens = self.model.config.text_config.max_position_embeddings
        self.requires_grad_(requires_grad=False)
        self.eval()
        black = np.zeros((1, self.picture_size, self.picture_size, 3), np.uint8)
        try:
            self.width, also = self.encode_texts(["a"]).shape[1], self.encode_pictures(black).shape[1]
        except (AttributeError, TypeError) as error:  # it has no such methods, or they give something else
            raise _no_embedder(folder, self.model.config.model_type, field) from error
        if self.width != also:
            raise _no_embedder(folder, self.model.config.model_type, field)

    def _of_pictures(self, pictures: np.ndarray) -> Tensor:
        given = self._processor(images=[*pictures], input_data_format="channels_last", return_tensors="pt")
        return _pooled(self.model.get_image_features(pixel_values=given["pixel_values"].to(self.model.device)))

    def _of_texts(self, texts: Sequence[str]) -> Tensor:
        # Filled up to the full length, as SigLIP was trained; CLIP does not look behind a text's end.
        given = self._tokenizer(
            [*texts], padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        if self.model.config.model_type in _UNMASKED:  # some of their tokenizers give a mask all the same
            given.pop("attention_mask", None)
        return _pooled(self.model.get_text_features(**given.to(self.model.device)))


def is_promoted(embedder: str) -> bool:
    """Whether the text that names an embedder means a promoted model of ours, and not one of the hub's."""
    folder = Path(embedder).expanduser()
    if not folder.is_dir():
        return bool(_REFERENCE.fullmatch(embedder))
    try:
        read_record(folder)
    except BadInput:
        return False
    return True


def embedded_size(embedder: str, *, promoted: str, cache: str) -> int:
    """Side of the pictures that an embedder sees, in pixels; the embedder itself is not built.

    Args:
        embedder: name or folder of the hub's model.
        promoted: content hash of the promoted model; empty if it is the hub's.
        cache: folder of the caches, where the promoted model lies.

    Raises:
        NotFound: there is no such model.
        BadInput: it does not say.
    """
    if not promoted:
        return processed_size(hub_folder(embedder))
    return int(read_record(shelved(cache, promoted))["config"]["picture_size"])


def processed_size(folder: Path, *, field: str = "embedder") -> int:
    """Side of the pictures that a foreign model's processor makes, in pixels.

    Args:
        folder: of its files.
        field: that names it, for the errors.

    Raises:
        BadInput: it is no dual encoder, or has no processor.
    """
    import transformers  # slow to import

    config = _read(transformers.AutoConfig, folder, "model", field)
    if not all(hasattr(config, f"{part}_config") for part in ("text", "vision")):
        raise _no_embedder(folder, config.model_type, field)
    processor = _read(transformers.AutoImageProcessor, folder, "image processor", field)
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    if not size:  # SigLIP 2 NaFlex
        raise BadInput(
            f"{field}={str(folder)!r} takes pictures of many sizes; take one of a fixed size, such as "
            "google/siglip2-base-patch16-224."
        )
    return int(size["height"] if "height" in size else size["shortest_edge"])


def _no_embedder(folder: Path, kind: str, field: str) -> BadInput:
    return BadInput(
        f"{field}={str(folder)!r}: a {kind!r} does not embed pictures and texts in one space; take one such as CLIP "
        f"or SigLIP, or a promoted retrieval model."
    )


def _read(kind: Any, folder: Path, what: str, field: str) -> Any:
    try:  # anything: the files are as people left them
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split(".")[0].split())[:160]
        raise BadInput(
            f"{field}={str(folder)!r} has no {what} that can be read ({reason}); complete the files."
        ) from error


def _pooled(found: Any) -> Tensor:
    """What the library returns: the vectors themselves, or an object that holds them."""
    return found if isinstance(found, Tensor) else found.pooler_output
