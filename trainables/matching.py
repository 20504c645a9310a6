"""Matching: does this caption belong to this picture?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trainables.parts.binary_metrics import BINARY_METRICS, binary_metrics, drawn_binary_metrics
from trainables.parts.caption_fields import TOKENIZER, drawn_captions
from trainables.parts.classifier import CLASSIFIER_ACTIVATIONS, build_classifier, read_widths
from trainables.parts.matching_drawings import matching_drawings
from trainables.parts.negatives import NEGATIVES, PairSample, PairSplit
from trainables.parts.picture_fields import (
    WIDTH_ONLY_WITH,
    PictureConfig,
    build_picture_encoder,
    collate_pictures,
    open_pictures,
    picture_features,
    shown_pictures,
)
from trainables.parts.picture_vectors import count_positions, side_by_side
from trainables.parts.pictures import SUFFIXES, read_picture
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
from vltune.drawings import Drawing
from vltune.errors import BadInput

EVALUATED = Draws(0, 0)
"""What negatives of an evaluation are drawn with: every trial, whatever its seed, judges the same pairs."""
EVALUATION_CANDIDATES = 50
"""Captions from which an evaluation's hard negatives are chosen."""


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(PictureConfig, TextConfig):
    """Everything that can be chosen about a judge of pairs."""

    features: str = "pooled"
    """What the classifier sees of a picture: ``pooled``, the mean of all positions; ``grid``, all of them side by
    side."""
    cnn_batch_norm: bool = True
    """``cnn``: whether each convolution is followed by batch normalisation; without it, it hardly learns this task."""
    captions_per_picture: int = 5
    """Captions of each picture in a training batch, drawn anew each epoch where a picture has more; each brings a
    negative. The picture is encoded once for all of them. At least 1."""
    negatives: str = "random"
    """What a picture is trained not to match: captions of other pictures, ``random`` or ``hard``: of similar words."""
    hard_negative_share: float = 0.5
    """``hard``: probability that a negative is a hard one; the others are random. In (0, 1]."""
    hard_negative_candidates: int = 50
    """``hard``: captions that are drawn for a hard negative, of which the most similar is taken. At least 2."""
    evaluation_negatives: str = "random"
    """Negatives of the pairs that metrics are measured on: ``random``, or ``hard``, all of them."""
    classifier_widths: str = "512-256-2"
    """Widths of the classifier's layers behind the picture's and the text's vector side by side; the last is the
    outputs: 2 (cross-entropy) or 1 (binary cross-entropy). The matching study counts the input too: its
    [1024, 512, 256, 2] is ``512-256-2``, its [1024, 2] is ``2``."""
    classifier_activation: str = "relu"
    """``relu`` or ``tanh``, between the classifier's layers."""
    classifier_dropout: float = 0.0
    """Share of the classifier's hidden activations that are zeroed in training. In [0, 1)."""
    threshold: float = 0.5
    """One output: probability above which a pair counts as a match. In (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, table in {
            "negatives": NEGATIVES,
            "evaluation_negatives": NEGATIVES,
            "classifier_activation": CLASSIFIER_ACTIVATIONS,
        }.items():
            one_of(self, key, table)
        in_range(self, "captions_per_picture", 1)
        in_range(self, "hard_negative_share", 0, 1, above=True)
        in_range(self, "hard_negative_candidates", 2)
        in_range(self, "classifier_dropout", 0, 1, below=True)
        in_range(self, "threshold", 0, 1, above=True, below=True)
        only_with(self, ONLY_WITH)
        widths = read_widths(self.classifier_widths)
        if widths[-1] not in (1, 2):
            raise BadInput(
                f"classifier_widths={self.classifier_widths!r} ends in {widths[-1]} outputs: it must be 2 (cross-"
                "entropy) or 1 (binary cross-entropy with a threshold)."
            )
        if widths[-1] == 2 and self.threshold != 0.5:
            raise BadInput(
                f"threshold={self.threshold!r} has no effect with two outputs: let classifier_widths="
                f"{self.classifier_widths!r} end in 1, or leave threshold at 0.5."
            )
        for key, default in {"classifier_activation": "relu", "classifier_dropout": 0.0}.items():
            if len(widths) == 1 and getattr(self, key) != default:
                raise BadInput(
                    f"{key}={getattr(self, key)!r} has no effect with classifier_widths={self.classifier_widths!r}, a "
                    f"single layer: give it hidden layers, such as 256-2, or leave {key} at {default!r}."
                )


class Matching(Family):
    """Encodes a picture and a text, and classifies the two vectors side by side.

    Half of all pairs are matches: each caption of a picture comes with a caption of another picture of its split.
    """

    name: ClassVar[str] = "matching"
    Config: ClassVar[type[TrialConfig]] = MatchingConfig
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min", **BINARY_METRICS}
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(metrics, ("evaluation_negatives",))
    part_assets: ClassVar[dict[str, tuple[str, ...]]] = {"text_encoder": (TOKENIZER,)}
    asset_fields: ClassVar[dict[str, tuple[str, ...]]] = {TOKENIZER: TEXT_TOKENIZER_FIELDS}

    @classmethod
    def load(cls, config: MatchingConfig, cache: str) -> Data:
        """A folder of pictures with captions, each picture with captions of others of its split."""
        data = open_pictures(config, cache)
        splits = {
            name: PairSplit(split, among=config.train_pictures if name == "train" else 0)
            for name, split in data.splits.items()
        }
        return Data(data.name, data.hash, splits, data.notes)

    @classmethod
    def prepare(cls, config: MatchingConfig, data: Data) -> Assets:
        """The vocabulary of the training captions, those of ``train_pictures`` alone if it is set."""
        split = data.splits["train"]
        captions = (text for i in range(config.train_pictures or len(split)) for text in split[i].captions)
        return fit_text_tokenizer(config, captions)

    def __init__(self, config: MatchingConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.tokenizer = read_text_tokenizer(config, assets)
        self.picture_encoder = build_picture_encoder(config)
        self.text_encoder = build_text_encoder(config, assets, words=len(self.tokenizer))
        positions = count_positions(self.picture_encoder, picture_size=config.picture_size)
        self.classifier = build_classifier(
            positions * self.picture_encoder.width + self.text_encoder.width,
            widths=read_widths(config.classifier_widths),
            activation=config.classifier_activation,
            dropout=config.classifier_dropout,
        )

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes (or their features), and pairs: the tokens of a text, and which picture it is held to."""
        config = self.config
        texts = [self._pairs(sample, draws) for sample in samples]
        flat = [pair for pairs in texts for pair in pairs]
        return {
            "ids": [s.id for s in samples],
            "texts": [[text for text, _ in pairs] for pairs in texts],
            # None for what nobody knows: the pairs of a person who asks.
            "truths": [[truth for _, truth in pairs] for pairs in texts],
            "tokens": text_tokens(self.tokenizer, [text for text, _ in flat], max_tokens=config.max_tokens),
            "owners": torch.tensor([i for i, pairs in enumerate(texts) for _ in pairs], dtype=torch.int64),
            "targets": torch.tensor([bool(truth) for _, truth in flat], dtype=torch.int64),
            **collate_pictures(config, samples, draws),
        }

    def forward(self, batch: Batch) -> Loss:
        """Cross-entropy of what is so, summed over the pairs."""
        surprise = self._surprise(self._logits(batch), batch["targets"])
        return Loss(surprise.sum(), torch.tensor(len(surprise), device=surprise.device))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """For each picture its texts, the probability that they belong to it, and whether they match."""
        assert not self.training, "dropout and batch statistics would make records depend on chance"
        # In double precision, where probabilities near 1 stay apart, and their order is known.
        logits = self._logits(batch).double().cpu()
        surprise = self._surprise(logits, batch["targets"].cpu()).tolist()
        margins = (logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]).sigmoid().tolist()
        records, start = [], 0
        for name, texts, truths in zip(batch["ids"], batch["texts"], batch["truths"], strict=True):
            own = slice(start, start + len(texts))
            start = own.stop
            matches = [probability > self.config.threshold for probability in margins[own]]
            record: Record = {"id": name, "texts": texts, "probabilities": margins[own], "matches": matches}
            known = {} if None in truths else {"truths": truths, "nll": surprise[own]}
            records.append({**record, **known})
        return records

    def score(self, records: Sequence[Record]) -> Scores:
        """Metrics over all pairs; for single pictures their mean loss and their accuracy."""
        truths, matches, probabilities, nll = (
            [value for record in records for value in record[key]]
            for key in ("truths", "matches", "probabilities", "nll")
        )
        whole = {"val_loss": float(np.mean(nll)), **binary_metrics(truths, matches, probabilities)}
        each = [
            {
                "val_loss": float(np.mean(r["nll"])),
                "accuracy": float(np.mean(np.equal(r["truths"], r["matches"]))),
            }
            for r in records
        ]
        owners = np.repeat(np.arange(len(records)), [len(r["truths"]) for r in records])

        def resampled(counts: np.ndarray) -> dict[str, np.ndarray]:
            nll_sums, pairs = counts @ [np.sum(r["nll"]) for r in records], counts @ [len(r["nll"]) for r in records]
            own = drawn_binary_metrics(counts, truths, matches, probabilities, owners)
            return {"val_loss": nll_sums / pairs, **own}

        return Scores(whole, each, resampled)

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """What was taken for what, and the pairs that are most wrong."""
        return matching_drawings(samples, records)

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures, each with all texts: what ends like a picture's name is one, everything else is a text."""
        pictures = [source for source in sources if Path(source).suffix.lower() in SUFFIXES]
        texts = tuple(source for source in sources if source not in pictures)
        if not pictures or not texts or not all(text.strip() for text in texts):
            missing = "text" if pictures else "picture"
            raise BadInput(f"a {missing} is missing: give pictures and texts, such as a.jpg 'a dog runs'.")
        return [Sample(p, read_picture(p, size=self.config.picture_size), texts) for p in pictures]

    def said(self, record: Record) -> str:
        """Each text, and whether it matches."""
        judged = zip(record["texts"], record["matches"], record["probabilities"], strict=True)
        return "; ".join(f"{text!r}: {'yes' if match else 'no'} ({p:.2f})" for text, match, p in judged)

    def referenced(self) -> Sequence[str]:
        """The text encoder, if it is a pretrained one that stays as it is."""
        return (*super().referenced(), *(["text_encoder"] if is_text_model_kept(self.config) else []))

    def features(self, *, fixed: bool = False) -> Features | None:
        """The picture encoder's vectors, if it is frozen and sees pictures as they are."""
        return picture_features(self.picture_encoder, self.config, fixed=fixed)

    def _pairs(self, sample: Sample, draws: Draws | None) -> list[tuple[str, bool | None]]:
        """Texts to hold to a picture, and whether they belong to it, where that is known."""
        if not isinstance(sample, PairSample):
            return [(text, None) for text in sample.captions]
        config = self.config
        captions = drawn_captions(sample, draws, config.captions_per_picture)
        kind, candidates = config.evaluation_negatives, EVALUATION_CANDIDATES
        hard_share = 1.0
        if draws is not None:
            kind, candidates, hard_share = config.negatives, config.hard_negative_candidates, config.hard_negative_share
        foreign = sample.negatives(
            captions,
            (draws or EVALUATED).generator(sample.id, "negatives"),
            hard_share=hard_share if kind == "hard" else 0.0,
            candidates=candidates,
        )
        return [*((text, True) for text in captions), *((text, False) for text in foreign)]

    def _logits(self, batch: Batch) -> Float[Tensor, "pairs outputs"]:
        weight = self.text_encoder.embedding.weight
        if "features" in batch:
            features = batch["features"]
        else:
            features = self.picture_encoder(shown_pictures(batch, weight.dtype))
        pictures = side_by_side(features)[batch["owners"]]
        texts = self.text_encoder(batch["tokens"]).vectors
        return self.classifier(torch.cat((pictures.to(texts.dtype), texts), 1))

    def _surprise(self, logits: Float[Tensor, "pairs outputs"], targets: Tensor) -> Float[Tensor, " pairs"]:
        """Negative log-likelihood of what is so, in nats, the same quantity with one output and with two."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype), reduction="none")
        return F.cross_entropy(logits, targets, reduction="none")


ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "hard_negative_share": ("negatives", ("hard",)),
    "hard_negative_candidates": ("negatives", ("hard",)),
    **WIDTH_ONLY_WITH,
}
"""Fields that are read only if another field has one of these values."""
