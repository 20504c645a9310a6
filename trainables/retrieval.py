"""Retrieval: a picture encoder and a text encoder whose vectors meet where picture and text belong together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainables.parts.caption_fields import TOKENIZER, drawn_captions
from trainables.parts.contrastive import CONTRASTIVE_LOSSES, Pairs, gather_pairs
from trainables.parts.embedding_drawings import SEARCHED, Embedded, gap_drawing, retrieval_drawings
from trainables.parts.metric_words import RETRIEVAL_WORDS
from trainables.parts.picture_fields import (
    WIDTH_ONLY_WITH,
    PictureConfig,
    build_picture_encoder,
    collate_pictures,
    open_pictures,
    picture_features,
    shown_pictures,
)
from trainables.parts.pictures import read_picture
from trainables.parts.retrieval_metrics import DRAWN_WITH, RETRIEVAL_METRICS, score_retrieval
from trainables.parts.text_fields import (
    TEXT_TOKENIZER_FIELDS,
    TextConfig,
    build_text_encoder,
    fit_text_tokenizer,
    is_text_model_kept,
    read_text_tokenizer,
    text_tokens,
)
from vltune.configuration import TrialConfig, in_range, one_of, only_with
from vltune.contract import (
    NO_MODELS,
    Assets,
    Batch,
    Data,
    Direction,
    Draws,
    Family,
    Features,
    Loss,
    Record,
    Sample,
    Scores,
)
from vltune.devices import to_device
from vltune.drawings import Drawing
from vltune.errors import BadInput

LARGEST_SCALE = 100.0
"""The largest factor of cosines that is learned, as in CLIP: beyond it training becomes unstable."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings by which a source is the path of a picture, and not a text."""

_TEXTS_AT_ONCE = 256
_PICTURES_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(PictureConfig, TextConfig):
    """Everything that can be chosen about a dual encoder."""

    cnn_batch_norm: bool = True
    """``cnn``: whether each convolution is followed by batch normalisation, without which it learns slowly."""
    text_encoder: str = "transformer"
    """``lstm``, ``gru``, ``transformer``, ``mlp`` (all words side by side, one layer), or ``pretrained``."""
    text_width: int = 256
    """Length of a text's vector: an LSTM's state, a Transformer's width, an MLP's layer. At least 1."""
    text_dropout: float = 0.1
    """Share of a text encoder's activations that are zeroed in training. In [0, 1)."""
    features: str = "pooled"
    """``pooled``: the mean over the picture's positions, then the encoder's last layer. ``grid``: the mean after it."""
    projection_width: int = 256
    """Length of the vectors that are compared. At least 1."""
    contrastive_loss: str = "infonce"
    """What is trained on: ``infonce`` (CLIP) or ``sigmoid`` (SigLIP). ``val_loss`` is InfoNCE always."""
    temperature: float = 0.07
    """What cosines are divided by, at the beginning if it is learned. Above 0."""
    learn_temperature: bool = True
    """Whether the temperature is learned; it then stays at 0.01 or above."""
    sigmoid_bias: float = -4.0
    """``sigmoid``: what is added to the divided cosines, at the beginning; it is learned. Minus the logarithm of the
    batch size is a good beginning: the paper's -10 is that of its large batches, and learns slowly with small ones."""
    captions_per_picture: int = 1
    """Captions of each picture in a training batch, drawn anew each epoch; they are no negatives of each other. At
    least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "contrastive_loss", CONTRASTIVE_LOSSES)
        in_range(self, "projection_width", 1)
        in_range(self, "captions_per_picture", 1)
        in_range(self, "temperature", 0, above=True)
        if self.learn_temperature:
            in_range(self, "temperature", 1 / LARGEST_SCALE)
        in_range(self, "sigmoid_bias")
        in_range(self, "batch_size", 2)
        only_with(self, ONLY_WITH)
        if self.micro_batch_size:
            raise BadInput(
                f"micro_batch_size={self.micro_batch_size} would change the contrastive loss, whose negatives are the "
                "rest of the batch: leave it at 0, and lower batch_size or set gradient_checkpointing=true."
            )


class Retrieval(Family):
    """Embeds pictures and texts on one sphere: cosines say what belongs together (https://arxiv.org/abs/2103.00020)."""

    name: ClassVar[str] = "retrieval"
    Config: ClassVar[type[TrialConfig]] = RetrievalConfig
    metrics: ClassVar[dict[str, Direction]] = RETRIEVAL_METRICS
    embeddings: ClassVar[Mapping[str, str]] = {"_picture": "picture_embedding", "_texts": "text_embeddings"}
    relative: ClassVar[frozenset[str]] = frozenset(RETRIEVAL_METRICS)
    explained: ClassVar[dict[str, str]] = RETRIEVAL_WORDS
    drawn_with: ClassVar[dict[str, str]] = DRAWN_WITH
    part_assets: ClassVar[dict[str, tuple[str, ...]]] = {"text_encoder": (TOKENIZER,)}
    asset_fields: ClassVar[dict[str, tuple[str, ...]]] = {TOKENIZER: TEXT_TOKENIZER_FIELDS}

    @classmethod
    def load(cls, config: RetrievalConfig, cache: str) -> Data:
        """A folder of pictures with captions. Its splits do not depend on the seed: all trials share them."""
        return open_pictures(config, cache)

    @classmethod
    def prepare(cls, config: RetrievalConfig, data: Data) -> Assets:
        """The vocabulary of the training captions, those of ``train_pictures`` alone if it is set."""
        split = data.splits["train"]
        captions = (text for i in range(config.train_pictures or len(split)) for text in split[i].captions)
        return fit_text_tokenizer(config, captions)

    def __init__(self, config: RetrievalConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config, self.width = config, config.projection_width
        self.tokenizer = read_text_tokenizer(config, assets)
        self.loss = CONTRASTIVE_LOSSES[config.contrastive_loss]
        self.picture_encoder = build_picture_encoder(config)
        self.text_encoder = build_text_encoder(config, assets, words=len(self.tokenizer))
        self.picture_projection = nn.Linear(self.picture_encoder.width, self.width, bias=False)
        self.text_projection = nn.Linear(self.text_encoder.width, self.width, bias=False)
        log_scale = torch.tensor(-math.log(config.temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=config.learn_temperature)
        self.bias = nn.Parameter(torch.tensor(config.sigmoid_bias)) if config.contrastive_loss == "sigmoid" else None

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes (or their features, where the encoder is frozen), captions as numbers; either may lack."""
        captions = [drawn_captions(s, draws, self.config.captions_per_picture) for s in samples]
        texts = [text for of_sample in captions for text in of_sample]
        seen = [i for i, s in enumerate(samples) if s.features is not None or s.picture is not None]
        batch: Batch = {
            "ids": [s.id for s in samples],
            "captions": captions,
            "owners": torch.tensor([i for i, of_sample in enumerate(captions) for _ in of_sample], dtype=torch.int64),
            "tokens": text_tokens(self.tokenizer, texts, max_tokens=self.config.max_tokens),
            "seen": seen,
        }
        return batch | (collate_pictures(self.config, [samples[i] for i in seen], draws) if seen else {})

    def forward(self, batch: Batch) -> Loss:
        """The loss, summed over this worker's pictures; negatives come from all workers."""
        if self.log_scale.requires_grad:
            with torch.no_grad():  # here, and not where it is read: a clamped value would have no gradient to come back
                self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        own = Pairs(self._embed_pictures(batch), self._embed_texts(batch["tokens"]), batch["owners"])
        # Logits of up to 100 need more digits than half precision has.
        with torch.autocast(own.pictures.device.type, enabled=False):
            return self.loss(own, gather_pairs(own), scale=self.log_scale.exp(), bias=self.bias)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """The embeddings of each sample's picture and captions."""
        assert not self.training, "dropout and batch statistics would make records depend on chance"
        records: list[Record] = [
            {"id": i, "captions": [*captions]} for i, captions in zip(batch["ids"], batch["captions"], strict=True)
        ]
        if batch["seen"]:
            for i, embedding in zip(batch["seen"], self._embed_pictures(batch).cpu().numpy(), strict=True):
                records[i]["_picture"] = embedding
        if len(batch["tokens"]):
            counts = [len(captions) for captions in batch["captions"]]
            texts = self._embed_texts(batch["tokens"]).cpu().numpy()
            for record, embeddings in zip(records, np.split(texts, np.cumsum(counts)[:-1]), strict=True):
                record["_texts"] = embeddings
        return records

    def score(self, records: Sequence[Record]) -> Scores:
        """Recall, ranks, loss and modality gap of all pictures against all captions, and for each picture."""
        counts = torch.tensor([len(r["captions"]) for r in records])
        return score_retrieval(
            torch.from_numpy(np.stack([r["_picture"] for r in records])),
            torch.from_numpy(np.concatenate([r["_texts"] for r in records])),
            torch.arange(len(records)).repeat_interleave(counts),
            scale=min(self.log_scale.exp().item(), LARGEST_SCALE if self.config.learn_temperature else math.inf),
        )

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:  # noqa: ARG002
        """What a few queries find, which pictures and captions are similar, and how far the two kinds lie apart."""
        chosen = [samples[i] for i in range(min(SEARCHED, len(samples)))]
        shown = [s for s in chosen if s.picture is not None and s.captions]
        seen, read = [], []
        for start in range(0, len(shown), _PICTURES_AT_ONCE):
            batch = self.collate(shown[start : start + _PICTURES_AT_ONCE], None)
            found = self.predict(to_device(batch, self.log_scale.device))
            seen += [record["_picture"] for record in found]
            read += [record["_texts"] for record in found]
        pictures = [s.picture for s in shown if s.picture is not None]
        embedded = Embedded(pictures, [s.captions for s in shown], np.stack(seen), np.concatenate(read))
        groups = {"pictures": embedded.seen, "texts": embedded.read[embedded.first]}
        gap = float(np.linalg.norm(groups["pictures"].mean(0) - groups["texts"].mean(0)))
        drawn = gap_drawing(groups, reads=f"The means of the two are {gap:.2f} apart, of vectors of length 1.")
        return [*retrieval_drawings(embedded), drawn]

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files, and everything else as texts; a source is its sample's id.

        Raises:
            NotFound: a source ends as a picture's path does, and there is no such file.
            BadInput: a file is no picture, or a text is empty.
        """
        return [self._read(source) for source in sources]

    def rank(self, queries: Sequence[Record], among: Sequence[Record], *, top: int) -> list[Record]:
        """For each query the ids of the most similar others, best first, with their cosines."""
        others = np.stack([_embedding(record) for record in among])
        found: list[Record] = []
        for query in queries:
            cosines = others @ _embedding(query)
            best = np.argsort(-cosines, kind="stable")[:top]
            nearest = [{"id": among[i]["id"], "similarity": float(cosines[i])} for i in best]
            found.append({"id": query["id"], "best": nearest})
        return found

    def said(self, record: Record) -> str:
        """Where the right texts and pictures stood among all, or what to do with embeddings that stand alone."""
        ranks = {way: record.get(f"{way}_median_rank") for way in ("picture_to_text", "text_to_picture")}
        if None not in ranks.values():
            best, median = ranks["picture_to_text"], ranks["text_to_picture"]
            return f"its best text was number {best:g} of all; by its texts it was number {median:g} (median)"
        return f"embedded in {self.width} numbers; rank it with --among FOLDER or --among FILE of texts"

    def referenced(self) -> Sequence[str]:
        """The text encoder, if it is one from elsewhere that does not learn."""
        return ("text_encoder",) if is_text_model_kept(self.config) else ()

    def features(self, *, fixed: bool = False) -> Features | None:
        """The picture encoder's vectors, if it is frozen and sees pictures as they are."""
        return picture_features(self.picture_encoder, self.config, fixed=fixed)

    @torch.no_grad()
    def encode_pictures(self, batch: Batch) -> Float[Tensor, "pictures width"]:
        """Normalised embeddings of the pictures of a batch made by ``collate``, of length ``self.width``."""
        return self._embed_pictures(batch)

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Float[Tensor, "texts width"]:
        """Normalised embeddings of texts, of length ``self.width``."""
        device, parts = self.log_scale.device, []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[start : start + _TEXTS_AT_ONCE]
            tokens = text_tokens(self.tokenizer, some, max_tokens=self.config.max_tokens)
            parts.append(self._embed_texts(tokens.to(device)))
        return torch.cat(parts) if parts else torch.zeros(0, self.width, device=device)

    def _embed_pictures(self, batch: Batch) -> Float[Tensor, "pictures width"]:
        if "features" in batch:
            vectors = batch["features"]
        else:
            vectors = self.picture_encoder(shown_pictures(batch, self.picture_projection.weight.dtype))
        return F.normalize(self.picture_projection(vectors.mean(1)).float(), dim=1)

    def _embed_texts(self, tokens: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts width"]:
        return F.normalize(self.text_projection(self.text_encoder(tokens).vectors).float(), dim=1)

    def _read(self, source: str) -> Sample:
        if Path(source).suffix.lower() in SUFFIXES:
            return Sample(source, read_picture(source, size=self.config.picture_size), ())
        if not source.strip():
            raise BadInput("a text to be found is empty: give words, or the path of a picture.")
        return Sample(source, None, (source,))


def _embedding(record: Record) -> np.ndarray:
    """The embedding of the one thing that was read: a picture, or a text."""
    return record["_picture"] if "_picture" in record else record["_texts"][0]


ONLY_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "sigmoid_bias": ("contrastive_loss", ("sigmoid",)),
    **WIDTH_ONLY_WITH,
}
"""Fields that are read only if another field has one of these values."""
