"""Correspondence: dense features that find the places of a picture again in its crop, or in another picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from trainables.parts.correspondence_drawings import CARRIED, MATCHED, carried_drawing, match_drawings
from trainables.parts.correspondences import SCORES, TOP, error_metrics
from trainables.parts.crops import grid_positions
from trainables.parts.dense import keep_layers_before
from trainables.parts.dense_fields import (
    CROP_FIELDS,
    DenseConfig,
    collate_crops,
    collate_pairs,
    crop_loss,
    crops_and_pictures,
    encode_crops,
    encode_whole,
    find_matches,
    match_pairs,
    mean_loss,
    rank_matches,
    read_pairs,
    said_matches,
    true_places,
)
from trainables.parts.masks import BACKGROUND, PicturePair, carried_labels, intersections_over_unions, paired_by_masks
from trainables.parts.picture_fields import build_picture_encoder, open_pictures
from vltune.configuration import TrialConfig, in_range, one_of
from vltune.contract import NO_MODELS, Assets, Batch, Data, Direction, Draws, Family, Loss, Record, Sample, Scores
from vltune.devices import to_device
from vltune.drawings import Drawing


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(DenseConfig):
    """Everything that can be chosen about matching a picture with its crop."""

    score: str = "feature"
    """What ranks matches: ``feature``, the negative distance of the two vectors, or ``cycle``, the negative distance
    between a position and where its match's match lies."""
    kept_matches: float = 0.5
    """Share of the matches of each pair, the best-scored, that mean and median error count. In (0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "score", SCORES)
        in_range(self, "kept_matches", 0, 1, above=True)


ERRORS = ("crop_error_mean", "crop_error_median", *(f"crop_error_top_{top}" for top in TOP))


class Correspondence(Family):
    """Finds each position of a crop again in its picture by the nearest neighbour of its features.

    Errors are distances from the true place in percent of the picture's side. Even the best match is a position of the
    grid, and so up to 71 / ``grid_side`` percent away.
    """

    name: ClassVar[str] = "correspondence"
    Config: ClassVar[type[TrialConfig]] = CorrespondenceConfig
    metrics: ClassVar[dict[str, Direction]] = dict.fromkeys(("val_loss", *ERRORS), "min")
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        "val_loss": (*CROP_FIELDS, "temperature"),
        **dict.fromkeys(ERRORS[:2], (*CROP_FIELDS, "kept_matches")),
        **dict.fromkeys(ERRORS[2:], CROP_FIELDS),
    }

    @classmethod
    def load(cls, config: CorrespondenceConfig, cache: str) -> Data:
        """A folder of pictures; their captions are not looked at."""
        return open_pictures(config, cache)

    @classmethod
    def prepare(cls, config: CorrespondenceConfig, data: Data) -> Assets:  # noqa: ARG003 - nothing is fitted
        """Nothing: principal components belong to a pair of pictures."""
        return {}

    def __init__(self, config: CorrespondenceConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.picture_encoder = build_picture_encoder(config)
        keep_layers_before(self.picture_encoder, config.feature_layer)

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes, and the windows of their crops; or pairs of pictures, where samples are such."""
        pairs = [s for s in samples if isinstance(s, PicturePair)]
        if pairs:
            return collate_pairs(pairs)
        return collate_crops(self.config, samples, draws)

    def forward(self, batch: Batch) -> Loss:
        """The contrastive loss, summed over the positions of all crops."""
        crops, pictures = encode_crops(self.picture_encoder, self.config, batch)
        return crop_loss(self.config, crops, pictures, batch)[0]

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """The best matches of each crop in its picture, with the errors of all; or of a first picture in a second."""
        assert not self.training, "batch statistics would make records depend on chance"
        config, encoder = self.config, self.picture_encoder
        if "others" in batch:
            return match_pairs(encoder, config, batch, score=config.score)
        crops, pictures = encode_crops(encoder, config, batch)
        _, sums = crop_loss(config, crops, pictures, batch)
        matches = find_matches(config, crops, pictures)
        order, best = rank_matches(config, matches, score=config.score)
        places = grid_positions(config.grid_side, device=order.device)[matches.places]
        errors = 100 * (places - true_places(crops, batch)).square().sum(2).sqrt().gather(1, order)
        return [
            {"id": i, "matches": rows, "errors": [round(e, 3) for e in of_pair], "nll": nll, "positions": len(of_pair)}
            for i, rows, of_pair, nll in zip(batch["ids"], best, errors.tolist(), sums.tolist(), strict=True)
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        """Errors and loss over all pictures, and for each."""
        kept = self.config.kept_matches
        errors = np.array([r["errors"] for r in records])
        return Scores(
            mean_loss(records) | error_metrics(errors, kept=kept),
            [mean_loss([r]) | error_metrics(e[None], kept=kept) for r, e in zip(records, errors, strict=True)],
        )

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Matches between crops and pictures, and the error against the rank."""
        shown = [samples[i] for i in range(min(MATCHED, len(samples)))]
        batch = self.collate(shown, None)
        return match_drawings(*crops_and_pictures(self.config, batch, torch.float32), records)

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pairs of pictures from files: the first and the second, the third and the fourth."""
        return read_pairs(sources, size=self.config.picture_size)

    def said(self, record: Record) -> str:
        """The best matches of a pair, in percent of the pictures' sides."""
        return said_matches(record)


class CorrespondenceTransfer(Family):
    """Carries the labels of one picture to another along correspondences: segmentation that nobody taught.

    Each position takes the label of its nearest neighbour in the other picture. Trains as ``correspondence`` does.
    """

    name: ClassVar[str] = "correspondence_transfer"
    Config: ClassVar[type[TrialConfig]] = DenseConfig
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min", "mean_iou": "max"}
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        "val_loss": (*CROP_FIELDS, "temperature"),
        "mean_iou": ("picture_size",),
    }

    @classmethod
    def load(cls, config: DenseConfig, cache: str) -> Data:
        """A COCO folder with instance masks; validation and test pictures come in pairs that share a category."""
        data = open_pictures(config, cache)
        return paired_by_masks(data, config.data, picture_size=config.picture_size, cache=cache)

    @classmethod
    def prepare(cls, config: DenseConfig, data: Data) -> Assets:  # noqa: ARG003 - nothing is fitted
        """Nothing: labels come with the pictures."""
        return {}

    def __init__(self, config: DenseConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.picture_encoder = build_picture_encoder(config)
        keep_layers_before(self.picture_encoder, config.feature_layer)

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes with the windows of their crops, and, in evaluation, their partners and all labels."""
        pairs = [s for s in samples if isinstance(s, PicturePair)]
        labelled = len(pairs) == len(samples) and all(p.labels is not None for p in pairs)
        if pairs and not labelled:
            return collate_pairs(pairs)
        batch = collate_crops(self.config, samples, draws)
        if labelled and draws is None:
            batch |= collate_pairs(pairs) | {
                "other_ids": [p.other_id for p in pairs],
                "labels": [(p.labels, p.other_labels) for p in pairs],
                "categories": [p.categories for p in pairs],
            }
        return batch

    def forward(self, batch: Batch) -> Loss:
        """The contrastive loss, summed over the positions of all crops."""
        crops, pictures = encode_crops(self.picture_encoder, self.config, batch)
        return crop_loss(self.config, crops, pictures, batch)[0]

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """How well each picture's labels are told from its partner's; without labels, the best matches of a pair."""
        assert not self.training, "batch statistics would make records depend on chance"
        config, encoder = self.config, self.picture_encoder
        if "labels" not in batch:
            return match_pairs(encoder, config, batch, score="feature")
        crops, own = encode_crops(encoder, config, batch)
        _, sums = crop_loss(config, crops, own, batch)
        places = find_matches(config, own, encode_whole(encoder, config, batch["others"])).places.cpu().numpy()
        records: list[Record] = []
        for number, (labels, of_other) in enumerate(batch["labels"]):
            names = {BACKGROUND: "background", **batch["categories"][number]}
            shared = sorted({BACKGROUND} | (set(np.unique(labels)) & set(np.unique(of_other))))
            ious = intersections_over_unions(carried_labels(of_other, places[number]), labels, map(int, shared))
            records.append(
                {
                    "id": batch["ids"][number],
                    "other": batch["other_ids"][number],
                    "iou": {names[label]: value for label, value in ious.items()},
                    "nll": sums[number].item(),
                    "positions": crops.shape[1],
                }
            )
        return records

    def score(self, records: Sequence[Record]) -> Scores:
        """The mean over pairs of the mean over the categories that a pair shares, background among them; the loss."""
        means = [float(np.mean([*r["iou"].values()])) for r in records]
        return Scores(
            mean_loss(records) | {"mean_iou": float(np.mean(means))},
            [mean_loss([r]) | {"mean_iou": mean} for r, mean in zip(records, means, strict=True)],
        )

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Labels carried to a few pictures, beside their own."""
        chosen = [samples[i] for i in range(min(CARRIED, len(samples)))]
        shown = [s for s in chosen if isinstance(s, PicturePair)]
        batch = to_device(self.collate(shown, None), next(self.parameters()).device)
        own, others = (encode_whole(self.picture_encoder, self.config, batch[key]) for key in ("pictures", "others"))
        places = find_matches(self.config, own, others).places.cpu().numpy()
        pairs = [
            (pair.other, of_other, pair.picture, carried_labels(of_other, places[number]), labels)
            for number, (pair, (labels, of_other)) in enumerate(zip(shown, batch["labels"], strict=True))
            if pair.other is not None and pair.picture is not None
        ]
        return [carried_drawing(pairs, records[: len(pairs)], shown[0].categories)]

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pairs of pictures from files: the first and the second, the third and the fourth."""
        return read_pairs(sources, size=self.config.picture_size)

    def said(self, record: Record) -> str:
        """How well each label was carried over; of pictures without labels, the best matches."""
        if "iou" not in record:
            return said_matches(record)
        return f"labels from {record['other']}: " + ", ".join(f"{k} {v:.2f}" for k, v in record["iou"].items())
