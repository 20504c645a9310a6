"""CapDec: captioning that is trained on text alone, through a frozen embedder of pictures and texts."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from trainables.parts.caption_drawings import caption_gallery
from trainables.parts.caption_fields import (
    CAPTION_TOKENIZER_FIELDS,
    DRAWN_WITH,
    METRICS,
    TOKEN_METRICS,
    TOKENIZER,
    build_caption_loss,
    collate_captions,
    collate_replaced,
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
from trainables.parts.embedder_fields import (
    EmbedderConfig,
    build_configured_embedder,
    configured_size,
    measure_offset,
    promoted_hash,
    scaled,
)
from trainables.parts.embedding_drawings import SEARCHED, Embedded, gap_drawing, similarity_drawing
from trainables.parts.further_metrics import with_further
from trainables.parts.kept_folders import open_kept_folder
from trainables.parts.metric_words import CAPDEC_WORDS
from trainables.parts.noise_fields import NoiseConfig, build_configured_noise, noise_keys
from trainables.parts.pictures import read_picture
from trainables.parts.prefix_fields import (
    PrefixConfig,
    build_prefix_decoder,
    build_prefix_mapper,
    is_language_model_kept,
    prefix_assets,
)
from trainables.parts.resampling import drawn_sums
from trainables.parts.scoring_fields import ASKED_BY, FURTHER_MEASURED_BY, RELATIVE
from trainables.parts.text import CaptionTokenizer
from trainables.parts.text_files import read_text_file, text_file_hash, without_known
from trainables.retrieval import Retrieval
from vltune.configuration import Library, TrialConfig
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
    fingerprint,
)
from vltune.devices import to_device
from vltune.drawings import Drawing
from vltune.errors import BadInput

OFFSET = "modality_offset.json"
"""The asset that holds the difference between the means of pictures and of texts."""
TEXT_SOURCES = ("text_file_hash", "language_model_hash")
"""Where the vocabulary comes from."""
PICTURES = "training_pictures"
"""The training pictures beside the splits; there only for the difference of the means."""


@dataclass(frozen=True, kw_only=True)
class CapdecConfig(PrefixConfig, EmbedderConfig, NoiseConfig):
    """Everything that can be chosen about a captioner that has never seen a picture with its caption."""

    text_file: str = ""
    """Text to train on, a caption a line (or Flickr8k's ``image,caption``); empty: the training captions of the data.
    Captions of its validation and test pictures are left out of it."""
    text_file_hash: str = ""
    """SHA-256 of the text file; filled in when the search starts, and checked when it is read."""
    allow_leakage: bool = False
    """Takes data whose splits share pictures, and says so in the notes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_file_hash and not self.text_file:
            raise BadInput(f"text_file_hash={self.text_file_hash!r} has no effect without text_file: leave it out.")

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the text file made absolute."""
        text_file = fields.get("text_file", "")
        whole = {"text_file": str(Path(text_file).expanduser().absolute())} if text_file else {}
        return {**super().with_absolute_paths(fields), **whole}

    def find_sources(self, library: Library) -> "CapdecConfig":
        """The same, with the hash of the text file."""
        found: Any = super().find_sources(library)
        if not self.text_file:
            return found
        return dataclasses.replace(found, text_file_hash=text_file_hash(self.text_file, self.text_file_hash))


class Capdec(Family):
    """Learns to write a text from its own embedding, then reads embeddings of pictures in its place.

    After CapDec (https://arxiv.org/abs/2211.00575): noise on the embeddings in training makes the decoder forgive that
    pictures lie elsewhere than their captions. Unlike there, noise of size 0 is still followed by normalisation, and an
    offset between the modalities is taken from the pictures, not added to the texts.
    """

    name: ClassVar[str] = "capdec"
    Config: ClassVar[type[TrialConfig]] = CapdecConfig
    embeddings: ClassVar[Mapping[str, str]] = {"_picture": "picture_embedding", "_texts": "mean_text_embedding"}
    metrics: ClassVar[dict[str, Direction]] = {
        **METRICS,
        "text_val_loss": "min",
        "modality_gap": "min",
        "noise_acceptance": "max",
        "noise_unmoved": "min",
    }
    """``val_loss`` and all of captions are given the picture's embedding; ``text_val_loss`` given the embedding of the
    first caption itself, without noise: what lies between them is the gap's doing. ``modality_gap``: distance between
    the means of pictures' and captions' embeddings of length 1 (https://arxiv.org/abs/2203.02053), as the decoder gets
    them, ``correct_offset`` included. ``noise_acceptance``: share of the candidates that ``cosine_directed`` keeps on
    embeddings of validation captions, ``noise_unmoved`` the share of captions of which it keeps none; 1 and 0 for noise
    that rejects nothing."""
    asked_by: ClassVar[dict[str, tuple[str, str]]] = ASKED_BY
    explained: ClassVar[dict[str, str]] = CAPDEC_WORDS
    drawn_with: ClassVar[dict[str, str]] = DRAWN_WITH
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            (*TOKEN_METRICS, "text_val_loss"),
            ("tokens", "min_word_count", "vocabulary_size", "max_tokens", "train_pictures", *TEXT_SOURCES),
        ),
        **FURTHER_MEASURED_BY,
    }
    relative: ClassVar[frozenset[str]] = RELATIVE
    uses: ClassVar[dict[str, tuple[type[Family], ...]]] = {"embedder": (Retrieval,)}
    part_assets: ClassVar[dict[str, tuple[str, ...]]] = {"decoder": (TOKENIZER,)}
    asset_fields: ClassVar[dict[str, tuple[str, ...]]] = {TOKENIZER: CAPTION_TOKENIZER_FIELDS}

    @classmethod
    def load(cls, config: CapdecConfig, cache: str) -> Data:
        """A folder of pictures with captions, whose training split is text alone: a sample for each caption."""
        size = configured_size(config, cache=cache)
        opened = open_kept_folder(config.data, picture_size=size, cache=cache, allow_leakage=config.allow_leakage)
        train, notes = opened.splits["train"], [*opened.notes]
        if config.text_file:
            texts, cleaned = read_text_file(config.text_file, config.text_file_hash)
            held_out = (text for name in ("validation", "test") for s in opened.splits[name] for text in s.captions)
            kept = without_known(texts, held_out)
            if not kept:
                raise BadInput(f"text_file={config.text_file!r} holds only captions of validation and test pictures.")
            dropped = len(texts) - len(kept)
            notes += [*cleaned, f"{Path(config.text_file).name} has {len(kept)} captions to train on."]
            notes += [f"{dropped} of its captions are those of validation or test pictures: left out."] * bool(dropped)
        else:
            kept = [text for sample in train for text in sample.captions]
        samples = [Sample(f"text-{number:06d}", None, (text,)) for number, text in enumerate(kept)]
        splits: dict[str, Sequence[Sample]] = {**opened.splits, "train": samples}
        if config.correct_offset:
            splits[PICTURES] = train
        return dataclasses.replace(opened, splits=splits, notes=tuple(notes))

    @classmethod
    def prepare(cls, config: CapdecConfig, data: Data) -> Assets:
        """The vocabulary of the training text, that of ``train_pictures`` alone if it is set; or a language model's."""
        split = data.splits["train"]
        captions = (text for i in range(config.train_pictures or len(split)) for text in split[i].captions)
        return prefix_assets(config, captions)

    @classmethod
    def prepare_with(cls, models: Mapping[str, Family], config: CapdecConfig, data: Data) -> Assets:
        """What the embedder's mean over training pictures differs from its mean over training texts."""
        if not config.correct_offset:
            return {}
        pictures, texts = data.splits[PICTURES], data.splits["train"]
        return {OFFSET: measure_offset(config, models, pictures=pictures, texts=texts)}

    def __init__(self, config: CapdecConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.tokenizer = CaptionTokenizer.from_text(assets[TOKENIZER])
        self.tokenizer.prompt(config.prompt, max_tokens=config.max_tokens)  # a bad one is said before training
        self.loss, self.noise = build_caption_loss(config), build_configured_noise(config)
        self.embedder = build_configured_embedder(config, models)
        self.decoder, width = build_prefix_decoder(config, assets, words=len(self.tokenizer))
        self.mapper = build_prefix_mapper(config, width=self.embedder.width, prefix_width=width)
        offset = json.loads(assets[OFFSET]) if config.correct_offset else [0.0] * self.embedder.width
        self.register_buffer("offset", torch.tensor(offset), persistent=False)  # it lies among the assets

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """In training texts, in evaluation pictures with their captions; embeddings, where samples have them."""
        config, ids = self.config, [s.id for s in samples]
        captions = [s.captions if draws is None else s.captions[:1] for s in samples]
        batch: Batch = {"ids": ids, **collate_captions(self.tokenizer, captions, max_tokens=config.max_tokens)}
        batch["noise_keys"] = noise_keys(draws or Draws(config.seed, 0), ids)
        if samples and all(s.features is not None for s in samples):
            batch["embeddings"] = torch.from_numpy(np.stack([s.features for s in samples if s.features is not None]))
        if draws is not None:
            return batch | collate_replaced(config, batch, draws)
        if "embeddings" not in batch:
            batch["pictures"] = np.stack([s.picture for s in samples if s.picture is not None])
        first = collate_captions(self.tokenizer, [texts[:1] for texts in captions], max_tokens=config.max_tokens)
        batch |= {"first_tokens": first["tokens"], "first_places": first["places"]}
        if config.decoding == "sample":
            batch["uniforms"] = decoding_uniforms(config, ids)
        return batch

    def forward(self, batch: Batch) -> Loss:
        """The loss of writing the texts from their own embeddings with noise, summed over their tokens."""
        texts = (captions[0] for captions in batch["captions"])
        given = batch["embeddings"] if "embeddings" in batch else self.embedder.encode_texts([*texts])
        embeddings = scaled(self.config, given)
        return summed_loss(self.loss, *self._read(scaled(self.config, self._noised(embeddings, batch)), batch))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """A caption for each picture and, where it has captions, what the model thinks of them and of the gap."""
        assert not self.training, "dropout would make records depend on chance"
        known = "embeddings" in batch
        embeddings = batch["embeddings"] if known else self._embed(batch["pictures"], batch["captions"])
        pictures, texts, first = embeddings.unbind(1)
        pictures = self._seen(pictures)
        memory = self.decoder.prepare(self.mapper(pictures))
        captions = self._written(memory, batch, Way(self.config, batch.get("uniforms")))
        records: list[Record] = [{"id": i, "caption": c} for i, c in zip(batch["ids"], captions, strict=True)]
        if not any(batch["captions"]):
            return records
        records = token_records(records, batch, *read_captions(self.decoder, memory, batch))
        ways = sampling_ways(self.config, batch["ids"])
        records = with_samples(records, [self._written(memory, batch, way) for way in ways])
        return self._text_records(records, batch, pictures=pictures, texts=texts, first=scaled(self.config, first))

    @torch.no_grad()
    def caption(self, batch: Batch, ways: Sequence[Way]) -> list[list[str]]:
        """In each way a caption for each picture, whatever the model's own settings are."""
        known = "embeddings" in batch
        embeddings = batch["embeddings"] if known else self._embed(batch["pictures"], batch["captions"])
        memory = self.decoder.prepare(self.mapper(self._seen(embeddings[:, 0])))
        return [self._written(memory, batch, way) for way in ways]

    def _written(self, memory: Any, batch: Batch, way: Way) -> list[str]:
        written = write_captions(
            self.decoder,
            memory,
            way,
            prompt=self.tokenizer.prompt(way.settings.prompt, max_tokens=way.settings.max_tokens),
            pictures=len(batch["ids"]),
            device=self.get_buffer("offset").device,
        )
        return [self.tokenizer.decode(row) for row in written.tolist()]

    def score(self, records: Sequence[Record]) -> Scores:
        """Caption metrics and token metrics, over all pictures and for each; the gap, over all of them."""
        captions = with_further(score_records(records, cache=self.cache), records, self.config, cache=self.cache)
        metrics, each = captions.metrics, captions.records
        nll, tokens = (sum(r[key] for r in records) for key in ("text_nll", "text_tokens"))
        means = [np.mean([r[key] for r in records], 0, dtype=np.float64) for key in ("_picture", "_texts")]
        own = {
            "text_val_loss": nll / tokens,
            "modality_gap": float(np.linalg.norm(means[0] - means[1])),
            "noise_acceptance": float(np.mean([r["noise_accepted"] for r in records])),
            "noise_unmoved": float(np.mean([r["noise_accepted"] == 0 for r in records])),
        }
        of_texts = (
            {
                "text_val_loss": r["text_nll"] / r["text_tokens"],
                "noise_acceptance": r["noise_accepted"],
                "noise_unmoved": float(r["noise_accepted"] == 0),
            }
            for r in records
        )
        pairs = np.array([r["_picture"] - r["_texts"] for r in records])

        def resampled(counts: np.ndarray) -> dict[str, np.ndarray]:
            drawn_nll, drawn_tokens = drawn_sums(counts, records, "text_nll", "text_tokens")
            gap = np.linalg.norm(counts @ pairs, axis=1) / len(records)
            of_captions = captions.resample(counts) if captions.resample is not None else {}
            return {**of_captions, "text_val_loss": drawn_nll / drawn_tokens, "modality_gap": gap}

        return Scores(metrics | own, [e | t for e, t in zip(each, of_texts, strict=True)], resampled)

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Good and bad captions, what is similar, and how far pictures lie from texts, as the mapper gets both."""
        shown = [samples[i] for i in range(min(SEARCHED, len(samples)))]
        gallery = caption_gallery(samples, records, objective=self.config.objective, metrics=self.metrics)
        reads = "The decoder learned from texts with noise: pictures that lie far from these are new to it."
        groups = self._groups(shown)
        pictures = [s.picture for s in shown if s.picture is not None]
        seen, read = (_of_length_one(groups[kind]) for kind in ("pictures", "texts"))
        embedded = Embedded(pictures, [s.captions[:1] for s in shown], seen, read)
        return [*gallery, similarity_drawing(embedded), gap_drawing(groups, reads=reads)]

    def _groups(self, shown: Sequence[Sample]) -> dict[str, np.ndarray]:
        """Embeddings of pictures and of their first captions, without and with the noise of training."""
        batch = to_device(self.collate(shown, None), self.get_buffer("offset").device)
        known = "embeddings" in batch
        embeddings = batch["embeddings"] if known else self._embed(batch["pictures"], batch["captions"])
        pictures, _, texts = embeddings.unbind(1)
        texts = scaled(self.config, texts)
        own = {**batch, "tokens": batch["first_tokens"], "places": batch["first_places"]}
        noised = scaled(self.config, self._noised(texts, own))
        groups = {"pictures": self._seen(pictures), "texts": texts, "texts with noise": noised}
        return {name: vectors.float().cpu().numpy() for name, vectors in groups.items()}

    def alone(self, sample: Sample) -> Sample:
        """A picture without captions."""
        return Sample(sample.id, sample.picture, ())

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files; a file's path is its sample's id."""
        return [Sample(s, read_picture(s, size=self.embedder.picture_size), ()) for s in sources]

    def referenced(self) -> Sequence[str]:
        """The embedder, and a language model that has the very weights of its files."""
        return (*self.uses, *(["decoder.language_model"] if is_language_model_kept(self.config) else []))

    def features(self, *, fixed: bool = False) -> Features | None:  # noqa: ARG002 - the embedder never learns
        """The embedder's vectors of texts and of pictures; none where the embedder was not found by its hash."""
        weights = promoted_hash(self.config) or self.config.embedder_hash
        key = fingerprint([weights, self.config.text_file_hash])
        return Features(lambda: key, self.embed) if weights else None

    @torch.no_grad()
    def embed(self, samples: Sequence[Sample]) -> np.ndarray:
        """Embeddings as they come: of texts (texts, width); of pictures (pictures, 3, width), as ``predict`` takes."""
        pictures = [s.picture for s in samples if s.picture is not None]
        if not pictures:
            return self.embedder.encode_texts([s.captions[0] for s in samples]).cpu().numpy()
        return self._embed(np.stack(pictures), [s.captions for s in samples]).cpu().numpy()

    def _embed(self, pictures: np.ndarray, captions: Sequence[Sequence[str]]) -> Float[Tensor, "pictures 3 width"]:
        """Of each picture, its embedding, the mean of its captions' at length 1, and its first caption's; or zeros."""
        counts = [len(texts) for texts in captions]
        seen = self.embedder.encode_pictures(pictures)
        read = self.embedder.encode_texts([text for texts in captions for text in texts]).split(counts)
        nothing = seen.new_zeros(self.embedder.width)
        means = [normalize(some, dim=-1).mean(0) if len(some) else nothing for some in read]
        return torch.stack((seen, torch.stack(means), torch.stack([s[0] if len(s) else nothing for s in read])), 1)

    def _seen(self, pictures: Float[Tensor, "pictures width"]) -> Float[Tensor, "pictures width"]:
        """Embeddings of pictures, as the mapper gets them."""
        pictures = scaled(self.config, pictures)
        return scaled(self.config, pictures - self.get_buffer("offset")) if self.config.correct_offset else pictures

    def _read(
        self, embeddings: Float[Tensor, "samples width"], batch: Batch
    ) -> tuple[Float[Tensor, "places words"], Int[Tensor, " places"]]:
        return read_captions(self.decoder, self.decoder.prepare(self.mapper(embeddings)), batch)

    def _noised(self, embeddings: Float[Tensor, "texts width"], batch: Batch) -> Float[Tensor, "texts width"]:
        if self.config.noise != "gradient":
            return self.noise(embeddings, batch["noise_keys"]).embeddings
        return self.noise(
            embeddings, batch["noise_keys"], loss_gradient=lambda at: self._gradient(at, batch)
        ).embeddings

    def _gradient(self, embeddings: Float[Tensor, "texts width"], batch: Batch) -> Float[Tensor, "texts width"]:
        """The gradient of the training loss at the embeddings; those of the weights are not touched."""
        at = embeddings.detach().requires_grad_()
        with torch.enable_grad():
            loss = summed_loss(self.loss, *self._read(at, batch))
        return torch.autograd.grad(loss.sum, at)[0]

    def _text_records(
        self,
        records: Sequence[Record],
        batch: Batch,
        *,
        pictures: Float[Tensor, "pictures width"],
        texts: Float[Tensor, "pictures width"],
        first: Float[Tensor, "pictures width"],
    ) -> list[Record]:
        """Records with what the model makes of the first caption's own embedding, and what the gap is measured by."""
        own = {**batch, "tokens": batch["first_tokens"], "places": batch["first_places"]}
        again = token_records([{} for _ in records], own, *self._read(first, own))
        rejects = self.config.noise == "cosine_directed"
        accepted = self.noise(first, batch["noise_keys"]).accepted.tolist() if rejects else [1.0] * len(records)
        arrays = [normalize(pictures, dim=-1).cpu().numpy(), texts.cpu().numpy()]
        found = zip(records, again, accepted, *arrays, strict=True)
        return [
            {
                **record,
                "text_nll": text["nll"],
                "text_tokens": text["tokens"],
                "noise_accepted": share,
                "_picture": picture,
                "_texts": mean,
            }
            if text
            else record
            for record, text, share, picture, mean in found
        ]


def _of_length_one(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
