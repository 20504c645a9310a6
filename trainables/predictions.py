"""Predictions: captions that any other program has written, in the same tables as ours."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainables.parts.annotations import clean_caption, read_json
from trainables.parts.caption_drawings import caption_gallery
from trainables.parts.caption_fields import DRAWN_WITH, METRICS, TOKEN_METRICS
from trainables.parts.further_metrics import with_further
from trainables.parts.kept_folders import open_kept_folder
from trainables.parts.metric_words import CAPTION_WORDS
from trainables.parts.metrics import drawn_bleu, score_captions
from trainables.parts.recorded_files import file_hash
from trainables.parts.scoring_fields import ASKED_BY, FURTHER, FURTHER_MEASURED_BY, RELATIVE, ScoringConfig, asks_for
from vltune.configuration import Library, TrialConfig
from vltune.contract import NO_MODELS, Assets, Batch, Data, Direction, Draws, Family, Loss, Record, Sample, Scores
from vltune.drawings import Drawing
from vltune.errors import BadInput, NotFound

CAPTIONS = "captions.json"
"""The asset that holds the captions."""
NOTES = "notes.json"
"""The asset that holds what was done to them, a line each."""
_SHOWN_SIZE = 128
"""Side of the pictures that a person sees beside the captions, in pixels."""


@dataclass(frozen=True, kw_only=True)
class PredictionsConfig(ScoringConfig):
    """A file of captions."""

    epochs: int = 0
    """Nothing is trained: 0."""
    predictions: str = "captions.json"
    """Results in COCO's format, ``[{"image_id": …, "caption": …}, …]``: a caption for each picture of the split. A
    picture is named as the data set names it: by its number in COCO, by its file in Flickr8k and Flickr30k."""
    predictions_hash: str = ""
    """SHA-256 of the file; filled in when the search starts, checked when it is read."""
    allow_leakage: bool = False
    """Takes data whose splits share pictures, and says so in the notes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs:
            raise BadInput(f"epochs={self.epochs} has no effect: predictions are scored, not trained; leave it at 0.")
        if self.measure_latency:
            raise BadInput("measure_latency=True is not possible: the captions were written elsewhere; leave it out.")
        if asks_for(self, "samples"):
            raise BadInput("further_metrics: samples needs a model that writes several captions; leave it out here.")

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the file made absolute."""
        path = fields.get("predictions", "")
        whole = {"predictions": str(Path(path).expanduser().absolute())} if path else {}
        return {**super().with_absolute_paths(fields), **whole}

    def find_sources(self, library: Library) -> "PredictionsConfig":
        """The same, with the hash of the file."""
        found: Any = super().find_sources(library)
        if self.predictions_hash:  # its captions may lie with a run, which needs the file no more
            return found
        return dataclasses.replace(found, predictions_hash=_file_hash(self.predictions, ""))


class Predictions(Family):
    """Says of each picture what the file says. It has no parameters: how many the model has is not known."""

    name: ClassVar[str] = "predictions"
    Config: ClassVar[type[TrialConfig]] = PredictionsConfig
    metrics: ClassVar[dict[str, Direction]] = {
        name: way for name, way in METRICS.items() if name not in (*TOKEN_METRICS, *FURTHER["samples"])
    }
    asked_by: ClassVar[dict[str, tuple[str, str]]] = {
        name: asked for name, asked in ASKED_BY.items() if name not in FURTHER["samples"]
    }
    explained: ClassVar[dict[str, str]] = CAPTION_WORDS
    drawn_with: ClassVar[dict[str, str]] = DRAWN_WITH
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        name: fields for name, fields in FURTHER_MEASURED_BY.items() if name not in FURTHER["samples"]
    }
    relative: ClassVar[frozenset[str]] = RELATIVE
    in_process: ClassVar[bool] = True

    @classmethod
    def load(cls, config: PredictionsConfig, cache: str) -> Data:
        """A folder of pictures with captions. Only the few that a person sees are decoded, when they are shown."""
        options = {"allow_leakage": config.allow_leakage, "max_cache_bytes": 0}
        return open_kept_folder(config.data, picture_size=_SHOWN_SIZE, cache=cache, **options)

    @classmethod
    def prepare(cls, config: PredictionsConfig, data: Data) -> Assets:
        """The captions, which stay with the run when the file is gone."""
        return cls.assets_of(config, data, split="validation")

    @classmethod
    def assets_of(cls, config: PredictionsConfig, data: Data, *, split: str) -> Assets:
        """The captions, of which there must be one for each picture of a split, and what was done to them.

        Raises:
            NotFound: there is no such file.
            BadInput: it has changed, is broken, or lacks a picture.
        """
        _file_hash(config.predictions, config.predictions_hash)
        captions, notes = read_predictions(config.predictions, data)
        check_covered(captions, data, split=split, file=config.predictions)
        return {CAPTIONS: json.dumps(captions, ensure_ascii=False), NOTES: json.dumps(notes)}

    def __init__(self, config: PredictionsConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.captions: dict[str, str] = json.loads(assets[CAPTIONS])
        empty = sum(not text.strip() for text in self.captions.values())
        self.notes = ("written elsewhere: parameters and time are not known",)
        self.notes += (f"{empty} of {len(self.captions)} captions of the file are empty",) if empty else ()
        self.notes += tuple(json.loads(assets.get(NOTES, "[]")))  # runs of an earlier version have none

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:  # noqa: ARG002 - nothing is trained
        """Which pictures they are, and what people wrote."""
        return {"ids": [s.id for s in samples], "references": [[*s.captions] for s in samples]}

    def forward(self, batch: Batch) -> Loss:
        """Nothing is trained."""
        raise AssertionError(f"predictions have no loss; a batch of {len(batch['ids'])} samples was given")

    def predict(self, batch: Batch) -> list[Record]:
        """The file's caption of each picture."""
        if missing := [identity for identity in batch["ids"] if identity not in self.captions]:
            raise BadInput(
                f"{self.config.predictions} has no caption for picture {missing[0]!r}; add it, or leave it out."
            )
        return [
            {"id": i, "caption": self.captions[i], **({"references": texts} if texts else {})}
            for i, texts in zip(batch["ids"], batch["references"], strict=True)
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        """Caption metrics, over all pictures and for each."""
        captions, references = ([r["caption"] for r in records], [r.get("references", ()) for r in records])
        whole, each = score_captions(captions, references, cache=self.cache)
        scores = Scores(whole, each, lambda counts: drawn_bleu(counts, each))
        return with_further(scores, records, self.config, cache=self.cache)

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Good and bad captions."""
        return caption_gallery(samples, records, objective=self.config.objective, metrics=self.metrics)

    def unable(self, samples: Sequence[Sample], *, split: str) -> str:
        """Whether the file lacks captions of a split: mostly it has those of one alone."""
        missing = sum(sample.id not in self.captions for sample in samples)
        some = f"{missing} of {len(samples)} pictures of " if missing < len(samples) else ""
        return f"no captions of {some}the {split} split" if missing else ""

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """There is no model that could look at pictures."""
        raise BadInput(
            f"{sources[0]}: these are captions that were written elsewhere: no model is here to predict with."
        )


def read_predictions(path: str, data: Data) -> tuple[dict[str, str], list[str]]:
    """The captions of a results file, picture's id -> caption, on one line each; and what was done to them.

    Args:
        path: of the file, in COCO's format.
        data: whose pictures they are of.

    Raises:
        NotFound: there is no such file.
        BadInput: it is no such file; an entry is broken, twice there, or of a picture that the data has not.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise NotFound(f"{path}: there is no such file; give a results file such as COCO's.")
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise BadInput(f'{path}: is no list of results; write [{{"image_id": …, "caption": …}}, …].')
    captions: dict[str, str] = {}
    for number, entry in enumerate(entries):
        image, text = (entry.get(key) if isinstance(entry, dict) else None for key in ("image_id", "caption"))
        if isinstance(image, bool) or not isinstance(image, int | str) or not isinstance(text, str):
            raise BadInput(
                f"{path}: entry {number} needs 'image_id', a number or a text, and 'caption', a text; correct it."
            )
        if str(image) in captions:
            raise BadInput(f"{path}: entry {number} is a second caption of picture {image!r}; keep one for each.")
        captions[str(image)] = text
    known = {sample.id for split in data.splits.values() for sample in split}
    if unknown := [identity for identity in captions if identity not in known]:
        raise BadInput(
            f"{path}: {len(unknown)} of {len(captions)} captions are of pictures that {data.name} does not have, the "
            f"first is {unknown[0]!r}; its pictures are named like {min(known)!r}."
        )
    clean = {identity: clean_caption(text) for identity, text in captions.items()}
    changed = sum(clean[identity] != text for identity, text in captions.items())
    note = f"{changed} of {len(clean)} captions of the file were cleaned (white space, control characters, surrogates)"
    return clean, [note] if changed else []


def check_covered(captions: Mapping[str, str], data: Data, *, split: str, file: str) -> None:
    """Checks that every picture of a split has a caption.

    Raises:
        BadInput: some have none.
    """
    ids = [sample.id for sample in data.splits[split]]
    if missing := [identity for identity in ids if identity not in captions]:
        others = [name for name in ("validation", "test") if name != split]
        whole = [n for n in others if all(sample.id in captions for sample in data.splits[n])]
        hint = f"; the file has those of the {whole[0]} split: --split {whole[0]}" if whole else "; caption these too"
        raise BadInput(
            f"{file}: {len(missing)} of the {len(ids)} pictures of the {split} split have no caption, the first is "
            f"{missing[0]!r}{hint}."
        )


def _file_hash(path: str, recorded: str) -> str:
    return file_hash(path, recorded, field="predictions", otherwise="evaluate it as a new run")
