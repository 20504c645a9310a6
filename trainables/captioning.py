"""Captioning: a picture encoder and a decoder that writes a sentence about what it sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainables.parts.caption_drawings import ATTENDED, attention_drawings, caption_gallery
from trainables.parts.caption_fields import (
    CAPTION_TOKENIZER_FIELDS,
    DRAWN_WITH,
    METRICS,
    TOKEN_METRICS,
    TOKENIZER,
    CaptionConfig,
    build_caption_decoder,
    build_caption_loss,
    collate_captions,
    collate_replaced,
    drawn_captions,
    fit_tokenizer,
    read_captions,
    score_records,
    summed_loss,
    token_records,
)
from trainables.parts.decoding_fields import (
    Way,
    decoding_uniforms,
    sampling_ways,
    with_samples,
    write_captions,
)
from trainables.parts.further_metrics import with_further
from trainables.parts.metric_words import CAPTION_WORDS
from trainables.parts.picture_fields import (
    PictureConfig,
    build_picture_encoder,
    collate_pictures,
    open_pictures,
    picture_features,
    shown_pictures,
)
from trainables.parts.pictures import read_picture
from trainables.parts.scoring_fields import ASKED_BY, FURTHER_MEASURED_BY, RELATIVE
from trainables.parts.text import CaptionTokenizer
from vltune.configuration import TrialConfig, in_range
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


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig(PictureConfig, CaptionConfig):
    """Everything that can be chosen about a captioner."""

    captions_per_picture: int = 5
    """Captions of each picture in a training batch, drawn anew each epoch where a picture has more; the picture is
    encoded once for all of them. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "captions_per_picture", 1)


class Captioning(Family):
    """Encodes a picture once, and reads or writes all its captions from that."""

    name: ClassVar[str] = "captioning"
    Config: ClassVar[type[TrialConfig]] = CaptioningConfig
    metrics: ClassVar[dict[str, Direction]] = METRICS
    asked_by: ClassVar[dict[str, tuple[str, str]]] = ASKED_BY
    explained: ClassVar[dict[str, str]] = CAPTION_WORDS
    embeddings: ClassVar[Mapping[str, str]] = {"_embedding": "picture_embedding"}  # mean over the encoder's positions
    drawn_with: ClassVar[dict[str, str]] = DRAWN_WITH
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        **dict.fromkeys(TOKEN_METRICS, ("tokens", "min_word_count", "vocabulary_size", "max_tokens", "train_pictures")),
        **FURTHER_MEASURED_BY,
    }
    relative: ClassVar[frozenset[str]] = RELATIVE
    part_assets: ClassVar[dict[str, tuple[str, ...]]] = {"decoder": (TOKENIZER,)}
    asset_fields: ClassVar[dict[str, tuple[str, ...]]] = {TOKENIZER: CAPTION_TOKENIZER_FIELDS}

    @classmethod
    def load(cls, config: CaptioningConfig, cache: str) -> Data:
        """A folder of pictures with captions. Its splits do not depend on the seed: all trials share them."""
        return open_pictures(config, cache)

    @classmethod
    def prepare(cls, config: CaptioningConfig, data: Data) -> Assets:
        """The vocabulary of the training captions, those of ``train_pictures`` alone if it is set."""
        split = data.splits["train"]
        captions = (text for i in range(config.train_pictures or len(split)) for text in split[i].captions)
        return {TOKENIZER: fit_tokenizer(config, captions).to_text()}

    def __init__(self, config: CaptioningConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.tokenizer = CaptionTokenizer.from_text(assets[TOKENIZER])
        self.tokenizer.prompt(config.prompt, max_tokens=config.max_tokens)  # a bad one is said before training
        self.loss = build_caption_loss(config)
        self.picture_encoder = build_picture_encoder(config)
        self.decoder = build_caption_decoder(config, width=self.picture_encoder.width, words=len(self.tokenizer))

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes (or their features, where the encoder is frozen), and captions as numbers."""
        config, ids = self.config, [s.id for s in samples]
        captions = [drawn_captions(s, draws, config.captions_per_picture) for s in samples]
        batch: Batch = {"ids": ids, **collate_captions(self.tokenizer, captions, max_tokens=config.max_tokens)}
        batch |= collate_replaced(config, batch, draws) | collate_pictures(config, samples, draws)
        if draws is None and config.decoding == "sample":
            batch["uniforms"] = decoding_uniforms(config, ids)
        return batch

    def forward(self, batch: Batch) -> Loss:
        """The loss, summed over the tokens of all captions."""
        memory = self.decoder.prepare(self._features(batch))
        return summed_loss(self.loss, *read_captions(self.decoder, memory, batch))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """A caption for each picture and, where it has captions, what the model thinks of them."""
        assert not self.training, "dropout and batch statistics would make records depend on chance"
        features = self._features(batch)
        memory = self.decoder.prepare(features)
        captions = self._said(self._written(memory, batch, self._own(batch)))
        records: list[Record] = [{"id": i, "caption": c} for i, c in zip(batch["ids"], captions, strict=True)]
        if self.config.keep_embeddings:
            for record, embedding in zip(records, features.float().mean(1).cpu().numpy(), strict=True):
                record["_embedding"] = embedding
        if not any(batch["captions"]):
            return records
        records = token_records(records, batch, *read_captions(self.decoder, memory, batch))
        ways = sampling_ways(self.config, batch["ids"])
        return with_samples(records, [self._said(self._written(memory, batch, way)) for way in ways])

    @torch.no_grad()
    def caption(self, batch: Batch, ways: Sequence[Way]) -> list[list[str]]:
        """In each way a caption for each picture, whatever the model's own settings are."""
        memory = self.decoder.prepare(self._features(batch))
        return [self._said(self._written(memory, batch, way)) for way in ways]

    def score(self, records: Sequence[Record]) -> Scores:
        """Caption metrics and token metrics, over all pictures and for each."""
        return with_further(score_records(records, cache=self.cache), records, self.config, cache=self.cache)

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Good and bad captions, and where the decoder looked for each word."""
        shown = [samples[i] for i in range(min(ATTENDED, len(samples)))]
        batch = to_device(self.collate(shown, None), self.decoder.words.weight.device)
        memory = self.decoder.prepare(self._features(batch))
        written = self._written(memory, batch, self._own(batch))
        return [
            *caption_gallery(samples, records, objective=self.config.objective, metrics=self.metrics),
            *attention_drawings(self.decoder, memory, written, shown, self.tokenizer),
        ]

    def alone(self, sample: Sample) -> Sample:
        """A picture without captions."""
        return Sample(sample.id, sample.picture, ())

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files; a file's path is its sample's id."""
        return [Sample(s, read_picture(s, size=self.config.picture_size), ()) for s in sources]

    def features(self, *, fixed: bool = False) -> Features | None:
        """The picture encoder's vectors, if it is frozen and sees pictures as they are."""
        return picture_features(self.picture_encoder, self.config, fixed=fixed)

    def _own(self, batch: Batch) -> Way:
        return Way(self.config, batch.get("uniforms"))

    def _written(self, memory: Any, batch: Batch, way: Way) -> Int[Tensor, "pictures tokens"]:
        return write_captions(
            self.decoder,
            memory,
            way,
            prompt=self.tokenizer.prompt(way.settings.prompt, max_tokens=way.settings.max_tokens),
            pictures=len(batch["ids"]),
            device=self.decoder.words.weight.device,
        )

    def _said(self, written: Int[Tensor, "pictures tokens"]) -> list[str]:
        return [self.tokenizer.decode(row) for row in written.tolist()]

    def _features(self, batch: Batch) -> Float[Tensor, "pictures positions width"]:
        if "features" in batch:
            return batch["features"]
        return self.picture_encoder(shown_pictures(batch, self.decoder.words.weight.dtype))
