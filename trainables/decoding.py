"""Decoding: how a fixed, promoted captioner writes best. Nothing is trained: a trial costs only its captions.

The captioner stays in memory between the trials of a session, and the pictures' features on disk, mapped into memory.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from trainables.capdec import Capdec
from trainables.captioning import Captioning
from trainables.parts.caption_drawings import caption_gallery
from trainables.parts.caption_fields import DRAWN_WITH, METRICS, TOKEN_METRICS
from trainables.parts.decoding_fields import DecodingConfig, Way, decoding_uniforms, sampling_ways, with_samples
from trainables.parts.further_metrics import with_further
from trainables.parts.metric_words import CAPTION_WORDS
from trainables.parts.metrics import drawn_bleu, score_captions
from trainables.parts.scoring_fields import ASKED_BY, FURTHER_MEASURED_BY, RELATIVE
from trainables.pretrained import Pretrained
from vltune.configuration import TrialConfig, absolute_reference, in_range, named
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
from vltune.errors import BadInput, lookup
from vltune.models import read_assets, read_record, shelved

CAPTIONERS: dict[str, type[Family]] = {family.name: family for family in (Captioning, Capdec, Pretrained)}
"""Families of captioners. Beside what a family owes the engine they have ``caption(batch, ways)``: in each ``Way`` a
caption for each sample of a batch made without draws, which are encoded once for all ways."""


@dataclass(frozen=True, kw_only=True)
class DecodingTrialConfig(DecodingConfig):
    """A captioner, and how it is to write."""

    epochs: int = 0
    """Nothing is trained: 0."""
    max_tokens: int = 0
    """Words of the longest caption, its end counted; 0: as many as the captioner was trained with. Else at least 2."""
    captioner: str = "quickstart@champion"
    """The promoted captioner, of any family: ``NAME@ALIAS``, ``NAME/VERSION``, or a model's folder."""
    score_prompt: bool = False
    """Whether the prompt counts as part of the caption when it is scored."""
    pictures: int = 0
    """Validation pictures that are captioned, the first ones of the split; 0: all. At least 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "pictures", 0)
        if self.epochs:
            raise BadInput(f"epochs={self.epochs} has no effect: decoding trains nothing; leave epochs at 0.")
        if not self.captioner:
            raise BadInput("captioner='' is missing: give a promoted captioner, such as captioning@champion.")

    def models(self) -> dict[str, str]:
        """The captioner."""
        return {"captioner": self.captioner}

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the folder of the captioner made absolute."""
        whole = {"captioner": absolute_reference(fields["captioner"])} if "captioner" in fields else {}
        return {**super().with_absolute_paths(fields), **whole}


class Decoding(Family):
    """A captioner that somebody promoted, writing as its configuration says."""

    name: ClassVar[str] = "decoding"
    Config: ClassVar[type[TrialConfig]] = DecodingTrialConfig
    metrics: ClassVar[dict[str, Direction]] = {
        **{name: way for name, way in METRICS.items() if name not in TOKEN_METRICS},
        **dict.fromkeys(("distinct_captions", "caption_length"), "max"),
    }
    asked_by: ClassVar[dict[str, tuple[str, str]]] = ASKED_BY
    explained: ClassVar[dict[str, str]] = CAPTION_WORDS
    drawn_with: ClassVar[dict[str, str]] = DRAWN_WITH
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        name: ("pictures", "score_prompt", *FURTHER_MEASURED_BY.get(name, ())) for name in metrics
    }
    relative: ClassVar[frozenset[str]] = RELATIVE
    uses: ClassVar[dict[str, tuple[type[Family], ...]]] = {"captioner": tuple(CAPTIONERS.values())}

    @classmethod
    def load(cls, config: DecodingTrialConfig, cache: str) -> Data:
        """The pictures as the captioner sees them."""
        folder = shelved(cache, named(config, "source_hashes").get("captioner", ""))
        family, theirs = _captioner(folder)
        _check_length(config, theirs)
        if family is Pretrained:  # it is not built where a search starts
            Pretrained.check_settings(theirs, read_assets(folder, read_record(folder)), config)
        # What it was trained on beside the data, such as texts, is not needed, and may be gone.
        fields = {f.name for f in dataclasses.fields(theirs)}
        without = {
            k: v for k, v in {"text_file": "", "text_file_hash": "", "correct_offset": False}.items() if k in fields
        }
        opened = family.load(dataclasses.replace(theirs, data=config.data, data_hash="", **without), cache)
        return dataclasses.replace(opened, splits={**opened.splits, "validation": _first(config, opened)})

    @classmethod
    def prepare(cls, config: DecodingTrialConfig, data: Data) -> Assets:  # noqa: ARG003 - nothing is fitted
        """Nothing: the captioner brings what it needs."""
        return {}

    def __init__(self, config: DecodingTrialConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.captioner: Any = models["captioner"]
        _check_length(config, self.captioner.config)
        longest = config.max_tokens or self.captioner.config.max_tokens
        self.settings: Any = dataclasses.replace(config, max_tokens=longest)
        if not isinstance(self.captioner, Pretrained):  # whose own model reads the prompt
            self.captioner.tokenizer.prompt(config.prompt, max_tokens=longest)

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:  # noqa: ARG002 - nothing is trained
        """What the captioner makes of the samples, and what its sampling draws with."""
        batch = self.captioner.collate(samples, None)
        references = [list(s.captions) for s in samples]
        uniforms = decoding_uniforms(self.settings, [s.id for s in samples])
        return {**batch, "ids": [s.id for s in samples], "references": references, "uniforms": uniforms}

    def forward(self, batch: Batch) -> Loss:
        """Nothing is trained."""
        raise AssertionError(f"decoding has no loss; a batch of {len(batch['ids'])} samples was given")

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """A caption for each sample, and of samples with captions those that are sampled besides."""
        ways = [Way(self.settings, batch["uniforms"])]
        ways += sampling_ways(self.settings, batch["ids"]) if any(batch["references"]) else []
        captions, *rounds = self.captioner.caption(batch, ways)
        records = [
            {"id": i, "caption": c, **({"references": r} if r else {})}
            for i, c, r in zip(batch["ids"], captions, batch["references"], strict=True)
        ]
        return with_samples(records, rounds)

    def score(self, records: Sequence[Record]) -> Scores:
        """Caption metrics, the captions' mean length in words, and the share of captions that are unlike all others."""
        texts = [self._without_prompt(r["caption"]) for r in records]
        references = [r.get("references", ()) for r in records]
        whole, each = score_captions(texts, references, cache=self.cache)
        lengths = [len(text.split()) for text in texts]
        whole["caption_length"] = sum(lengths) / len(lengths)
        whole["distinct_captions"] = len(set(texts)) / len(texts)
        each = [{**e, "caption_length": float(n)} for e, n in zip(each, lengths, strict=True)]
        # Drawn twice, a caption is like another: there is no drawing for distinct_captions.
        scores = Scores(whole, each, lambda counts: drawn_bleu(counts, each))
        shown = [
            {**r, "caption": text, "samples": [self._without_prompt(s) for s in r.get("samples", ())]}
            for r, text in zip(records, texts, strict=True)
        ]
        return with_further(scores, shown, self.config, cache=self.cache)

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Good and bad captions; a few, since a trial takes no longer than its decoding."""
        return caption_gallery(samples, records, objective=self.config.objective, metrics=self.metrics, of_each=2)

    def alone(self, sample: Sample) -> Sample:
        """A picture without captions."""
        return Sample(sample.id, sample.picture, ())

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """As the captioner reads them."""
        return self.captioner.read(sources)

    def features(self, *, fixed: bool = True) -> Features | None:
        """The captioner's: nothing in it learns here."""
        features: Features | None = self.captioner.features(fixed=fixed)
        content = named(self.config, "source_hashes").get("captioner", "")[:16]
        return features._replace(key=lambda: content) if features and content else None

    def _without_prompt(self, caption: str) -> str:
        # A foreign captioner's prompt is no part of what it writes.
        if self.config.score_prompt or not self.config.prompt or isinstance(self.captioner, Pretrained):
            return caption
        tokenizer, longest = self.captioner.tokenizer, self.settings.max_tokens
        prompt = tokenizer.decode(tokenizer.prompt(self.config.prompt, max_tokens=longest))
        return caption[len(prompt) :].strip() if caption.startswith(prompt) else caption


def _captioner(folder: Path) -> tuple[type[Family], Any]:
    record = read_record(folder)
    family = lookup(CAPTIONERS, record["family"], "family of captioners")
    return family, family.Config.from_fields(record["config"])


def _check_length(config: DecodingTrialConfig, theirs: Any) -> None:
    if config.max_tokens > theirs.max_tokens:
        raise BadInput(
            f"max_tokens={config.max_tokens} is more than the {theirs.max_tokens} that {config.captioner} was trained "
            "with; set it lower."
        )


def _first(config: DecodingTrialConfig, data: Data) -> Sequence[Sample]:
    split = data.splits["validation"]
    if config.pictures > len(split):
        raise BadInput(f"pictures={config.pictures} is more than the {len(split)} of the validation split.")
    return [split[i] for i in range(config.pictures)] if config.pictures else split
