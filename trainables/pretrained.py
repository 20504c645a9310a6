"""Pretrained: somebody else's captioner (BLIP, Florence-2, …), as it is or fine-tuned, in the same tables as ours."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from trainables.parts.caption_drawings import ATTENDED, attention_maps, caption_gallery
from trainables.parts.caption_fields import DRAWN_WITH, METRICS, TOKEN_METRICS, drawn_captions, score_records
from trainables.parts.captioner_files import (
    CAPTIONER,
    build_model,
    crops,
    outline_model,
    picture_side,
    read_files,
    read_processor,
)
from trainables.parts.decoding_fields import DecodingConfig, Way, decoding_uniforms, sampling_ways, with_samples
from trainables.parts.foreign_prompts import Captioner
from trainables.parts.further_metrics import with_further
from trainables.parts.hub import hub_folder, hub_source
from trainables.parts.kept_folders import open_kept_folder
from trainables.parts.lora import add_adapters, is_adapter, unreached
from trainables.parts.metric_words import CAPTION_WORDS
from trainables.parts.pictures import read_picture
from trainables.parts.scoring_fields import ASKED_BY, FURTHER_MEASURED_BY, RELATIVE
from trainables.parts.vision_language import (
    IGNORED,
    ask,
    caption_tokens,
    encode,
    is_encoded,
    picture_attention,
    read,
    write,
)
from vltune.checkpoints import hash_tensors
from vltune.configuration import Library, TrialConfig, in_range, one_of, only_with
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

FINETUNINGS = ("none", "full", "lora")


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(DecodingConfig):
    """Everything that can be chosen about somebody else's captioner."""

    captioner_model: str = "Salesforce/blip-image-captioning-base"
    """The model: a name on the Hugging Face hub, or a folder of its files with safetensors."""
    captioner_model_hash: str = ""
    """SHA-256 of the model's weights and configuration; filled in when the search starts, and checked when they are
    read."""
    picture_size: int = 0
    """Side of the square pictures that the model's own processor is given, in pixels; it resizes them to what the model
    needs. 0: what the processor resizes to, filled in when the search starts."""
    allow_leakage: bool = False
    """Takes data whose splits share pictures, and says so in the notes."""
    max_tokens: int = 30
    """Tokens of the longest caption in the model's own vocabulary, its end counted and its prompt not; longer captions
    lose their last words. At least 2."""
    prompt: str = ""
    """What the model is asked or has to go on from (``a picture of``), or a task's name (``<CAPTION>``). It is not part
    of the caption. Empty: what the kind of model is used to."""
    captions_per_picture: int = 1
    """Captions of each picture in a training batch, drawn anew each epoch where a picture has more. At least 1."""
    epochs: int = 0
    """Passes over the training split; 0 evaluates without training."""
    learning_rate: float = 2e-5
    """Highest learning rate of the schedule. Above 0."""
    finetune: str = "none"
    """``none`` (needs ``epochs=0``), ``full`` (all weights learn), or ``lora`` (low-rank adapters learn, and are all
    that a checkpoint holds)."""
    lora_rank: int = 8
    """``lora``: rank of each adapter. At least 1."""
    lora_alpha: float = 16.0
    """``lora``: adapters count ``lora_alpha / lora_rank`` times. Above 0."""
    lora_dropout: float = 0.0
    """``lora``: share of an adapter's inputs that are zeroed in training. In [0, 1)."""
    lora_targets: str = "auto"
    """``lora``: last parts of the names of the layers that get adapters, ``q_proj,v_proj``; ``auto``: attention's
    queries and values."""
    label_smoothing: float = 0.0
    """``full``, ``lora``: share of the target's probability spread over all tokens. In [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "finetune", FINETUNINGS)
        for key, low in {"picture_size": 0, "captions_per_picture": 1, "lora_rank": 1}.items():
            in_range(self, key, low)
        in_range(self, "lora_alpha", 0, above=True)
        for key in ("lora_dropout", "label_smoothing"):
            in_range(self, key, 0, 1, below=True)
        only_with(self, TUNED_WITH)
        if self.finetune == "none" and self.epochs:
            raise BadInput(
                f"epochs={self.epochs} has nothing to train with finetune='none': set finetune, or epochs=0."
            )

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the model's folder made absolute; a name on the hub stays."""
        model = Path(str(fields.get("captioner_model", ""))).expanduser()
        whole = {"captioner_model": str(model.absolute())} if fields.get("captioner_model") and model.is_dir() else {}
        return {**super().with_absolute_paths(fields), **whole}

    def find_sources(self, library: Library) -> "PretrainedConfig":
        """The same, with the model's path, hash and size of pictures; it is downloaded if need be."""
        found = super().find_sources(library)
        folder, model_hash = hub_source(self.captioner_model, self.captioner_model_hash, field="captioner_model")
        captioner = _outline(read_files(folder), folder, model_hash)
        size = picture_side(captioner.processor, self.picture_size)
        # Whether all fits is known without the weights, which may not fit into this machine's memory.
        ask(captioner, self.prompt, picture_size=size, max_tokens=self.max_tokens)
        _choose_weights(copy.deepcopy(captioner.model), self)
        return dataclasses.replace(
            found,
            captioner_model=self.with_absolute_paths({"captioner_model": self.captioner_model})["captioner_model"],
            captioner_model_hash=model_hash,
            picture_size=size,
        )

    def without_sources(self) -> "PretrainedConfig":
        """The same, for a model whose weights come from a checkpoint: only one that learnt as a whole has them all."""
        whole = {"captioner_model": "", "captioner_model_hash": ""} if self.finetune == "full" else {}
        return dataclasses.replace(super().without_sources(), **whole)


class Pretrained(Family):
    """Asks a foreign model for a caption, and lets it read those of people."""

    name: ClassVar[str] = "pretrained"
    Config: ClassVar[type[TrialConfig]] = PretrainedConfig
    metrics: ClassVar[dict[str, Direction]] = METRICS
    asked_by: ClassVar[dict[str, tuple[str, str]]] = ASKED_BY
    explained: ClassVar[dict[str, str]] = CAPTION_WORDS
    drawn_with: ClassVar[dict[str, str]] = DRAWN_WITH
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = {
        **dict.fromkeys(TOKEN_METRICS, ("captioner_model", "max_tokens")),
        **FURTHER_MEASURED_BY,
    }
    relative: ClassVar[frozenset[str]] = RELATIVE
    part_assets: ClassVar[dict[str, tuple[str, ...]]] = {"captioner": (CAPTIONER,)}
    rehearsed: ClassVar[bool] = False  # some have more weights than the machine has memory from which searches start

    @classmethod
    def load(cls, config: PretrainedConfig, cache: str) -> Data:
        """A folder of pictures with captions, at the size that the model's processor resizes to."""
        # A search has filled it in: data can be opened again where the model's files are gone.
        size = config.picture_size or picture_side(read_processor(read_files(hub_folder(config.captioner_model))), 0)
        return open_kept_folder(config.data, picture_size=size, cache=cache, allow_leakage=config.allow_leakage)

    @classmethod
    def prepare(cls, config: PretrainedConfig, data: Data) -> Assets:  # noqa: ARG003 - nothing is fitted
        """The model's own configuration, processor and tokenizer."""
        return {CAPTIONER: read_files(hub_folder(config.captioner_model))}

    def __init__(self, config: PretrainedConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.files = fingerprint(assets[CAPTIONER])
        self.processor = read_processor(assets[CAPTIONER])
        self.picture_size = picture_side(self.processor, config.picture_size)
        folder = None
        if config.captioner_model:
            folder, _ = hub_source(config.captioner_model, config.captioner_model_hash, field="captioner_model")
        self.captioner: Any = build_model(assets[CAPTIONER], folder)
        self.asked = ask(self._captioner(), config.prompt, picture_size=self.picture_size, max_tokens=config.max_tokens)
        _choose_weights(self.captioner, config)
        if config.finetune != "none":
            self._freeze_what_is_not_needed()
            if config.gradient_checkpointing:
                _checkpoint_gradients(self.captioner)
        if crops(self.processor):
            self.notes = ("pictures are squeezed to squares, of which the model's own processor would crop the middle",)

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes, or what was kept of them, and captions as tokens of the model's own vocabulary."""
        config, ids = self.config, [s.id for s in samples]
        captions = [drawn_captions(s, draws, config.captions_per_picture) for s in samples]
        flat = [text for texts in captions for text in texts]
        rows = caption_tokens(self._captioner(), self.asked, flat, max_tokens=config.max_tokens)
        tokens = _padded(rows)
        batch: Batch = {
            "ids": ids,
            "captions": captions,
            **_collate_pictures(samples),
            "tokens": tokens,
            "owners": torch.tensor([i for i, texts in enumerate(captions) for _ in texts], dtype=torch.long),
            "count": torch.tensor(sum(map(len, rows))),
        }
        if draws is None and config.decoding == "sample":
            batch["uniforms"] = decoding_uniforms(config, ids)
        return batch

    def forward(self, batch: Batch) -> Loss:
        """Cross-entropy, summed over the tokens of all captions."""
        smoothing, targets = self.config.label_smoothing, batch["tokens"].flatten()
        seen = self._seen(batch)
        logits = read(self._captioner(), self.asked, seen=seen, owners=batch["owners"], tokens=batch["tokens"])
        surprise = F.cross_entropy(
            logits.flatten(0, 1).float(), targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
        )
        return Loss(surprise, batch["count"])

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """A caption for each picture and, where it has captions, what the model thinks of them."""
        assert not self.training, "dropout would make records depend on chance"
        seen = self._seen(batch)
        written = self._written(seen, Way(self.config, batch.get("uniforms")))
        records: list[Record] = [{"id": i, "caption": c} for i, c in zip(batch["ids"], written, strict=True)]
        for record, references, opinion in zip(records, batch["captions"], self._opinions(batch, seen), strict=True):
            if references:
                record |= {"references": [*references], **opinion}
        if not any(batch["captions"]):
            return records
        return with_samples(records, [self._written(seen, way) for way in sampling_ways(self.config, batch["ids"])])

    @torch.no_grad()
    def caption(self, batch: Batch, ways: Sequence[Way]) -> list[list[str]]:
        """In each way a caption for each picture; where its settings have no prompt, the model's own is used."""
        seen = self._seen(batch)
        return [self._written(seen, way) for way in ways]

    def _written(self, seen: Shaped[Tensor, "pictures ..."], way: Way) -> list[str]:
        asked, settings = self.asked, way.settings
        if settings.prompt and settings.prompt != self.config.prompt:
            longest = settings.max_tokens
            asked = ask(self._captioner(), settings.prompt, picture_size=self.picture_size, max_tokens=longest)
        return write(
            self._captioner(),
            asked,
            seen=seen,
            decoding=settings.decoding,
            max_tokens=settings.max_tokens,
            beam_width=settings.beam_width,
            length_penalty=settings.length_penalty,
            repetition_penalty=settings.repetition_penalty,
            top_k=settings.top_k,
            top_p=settings.top_p,
            temperature=settings.temperature,
            uniforms=None if way.uniforms is None else way.uniforms.to(self.captioner.device),
        )

    @classmethod
    def check_settings(cls, config: PretrainedConfig, assets: Assets, settings: DecodingConfig) -> None:
        """Checks, without its weights, that a model can write as ``settings`` say.

        Raises:
            BadInput: it does not take the prompt, or the caption may be too long.
        """
        captioner = _outline(assets[CAPTIONER], None, "")
        size = picture_side(captioner.processor, config.picture_size)
        longest = settings.max_tokens or config.max_tokens
        ask(captioner, settings.prompt or config.prompt, picture_size=size, max_tokens=longest)

    def score(self, records: Sequence[Record]) -> Scores:
        """Caption metrics and token metrics, over all pictures and for each."""
        return with_further(score_records(records, cache=self.cache), records, self.config, cache=self.cache)

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:
        """Good and bad captions, and where the decoder looked for each word, if it says so."""
        gallery = caption_gallery(samples, records, objective=self.config.objective, metrics=self.metrics)
        shown = [samples[i] for i in range(min(ATTENDED, len(samples)))]
        device = next(self.captioner.parameters()).device
        batch = to_device(self.collate(shown, None), device)
        seen, longest = self._seen(batch), self.config.max_tokens
        captions = self._written(seen, Way(self.config, batch.get("uniforms")))
        rows = caption_tokens(self._captioner(), self.asked, captions, max_tokens=longest)
        weights = picture_attention(
            self._captioner(),
            self.asked,
            seen=seen,
            owners=torch.arange(len(shown), device=device),
            tokens=_padded(rows).to(device),
        )
        if weights is None:
            return gallery
        words = [[self.processor.tokenizer.decode([token]).strip() for token in row[:-1]] for row in rows]
        return [*gallery, *attention_maps(shown, list(zip(captions, words, strict=True)), weights)]

    def alone(self, sample: Sample) -> Sample:
        """A picture without captions."""
        return Sample(sample.id, sample.picture, ())

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files; a file's path is its sample's id."""
        return [Sample(s, read_picture(s, size=self.picture_size), ()) for s in sources]

    def referenced(self) -> Sequence[str]:
        """The model, unless it has learnt as a whole."""
        return () if self.config.finetune == "full" else ("captioner",)

    def is_stored(self, name: str) -> bool:
        """Everything, the adapters alone, or nothing: what was not trained lies where it came from."""
        return super().is_stored(name) or (self.config.finetune == "lora" and is_adapter(name))

    def features(self, *, fixed: bool = False) -> Features | None:
        """What the model makes of pictures before it is asked, where that stays as it is for trials that stand on it.

        Not for trials of its own: most evaluate a model once, and vectors of 5000 pictures may take 10 GB.
        """
        if not fixed or not is_encoded(self._captioner(), picture_size=self.picture_size):
            return None

        def key() -> str:
            return fingerprint([self.files, self.picture_size, hash_tensors(self.captioner.state_dict())])

        return Features(key, self._encode)

    @torch.no_grad()
    def _encode(self, samples: Sequence[Sample]) -> np.ndarray:
        pictures = _collate_pictures(samples)["pictures"].to(self.captioner.device)
        return encode(self._captioner(), pictures).float().cpu().numpy()

    def _seen(self, batch: Batch) -> Shaped[Tensor, "pictures ..."]:
        """What the model makes of the pictures: what was kept, or made now."""
        if "features" in batch:
            return batch["features"].to(self.captioner.dtype)
        return encode(self._captioner(), batch["pictures"])

    def _captioner(self) -> Captioner:
        # Made when it is needed: a copy of this family must read with its own weights.
        return Captioner(self.captioner, self.processor)

    def _freeze_what_is_not_needed(self) -> None:
        """Layers that no caption needs (poolers, a layer above the one that is looked at) get no gradients.

        Distributed training would wait for those for ever.
        """
        blank = Sample("", np.zeros((self.picture_size, self.picture_size, 3), np.uint8), ("a",))
        self.eval()
        loss = self(self.collate([blank], None)).sum
        for parameter in unreached(loss, self):
            parameter.requires_grad = False

    def _opinions(self, batch: Batch, seen: Shaped[Tensor, "pictures ..."]) -> list[Record]:
        """Of each picture's captions: negative log-likelihood, number of tokens, and how many were the likeliest.

        As many captions at once as there are pictures: logits take most of the memory.
        """
        pictures = len(batch["ids"])
        counts = [len(texts) for texts in batch["captions"]]
        sums = torch.zeros(pictures, 3, dtype=torch.float64)
        step = max(1, pictures // max(1, *counts, 1))
        for first in range(0, pictures, step):
            begin, end = sum(counts[:first]), sum(counts[: first + step])
            if begin == end:
                continue
            tokens, owners = batch["tokens"][begin:end], batch["owners"][begin:end]
            shown = seen[first : first + step]
            logits = read(self._captioner(), self.asked, seen=shown, owners=owners - first, tokens=tokens).float()
            surprise = F.cross_entropy(logits.mT, tokens, ignore_index=IGNORED, reduction="none")
            there = tokens != IGNORED
            right = logits.argmax(-1) == tokens
            # On the processor and in double precision: the order of additions on a GPU is not always the same.
            each = torch.stack((surprise, right, there)).cpu().double().sum(-1).T
            sums.index_add_(0, owners.cpu(), each)
        return [{"nll": nll, "tokens": int(tokens), "correct": int(right)} for nll, right, tokens in sums.tolist()]


def _collate_pictures(samples: Sequence[Sample]) -> Batch:
    if samples and all(s.features is not None for s in samples):
        return {"features": torch.from_numpy(np.stack([s.features for s in samples if s.features is not None]))}
    pictures = [s.picture for s in samples if s.picture is not None]
    assert len(pictures) == len(samples), "every sample needs a picture"
    return {"pictures": torch.from_numpy(np.stack(pictures))}


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    tokens = torch.full((len(rows), max(1, *map(len, rows)) if rows else 1), IGNORED)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
    return tokens


@functools.lru_cache(maxsize=4)
def _outline(texts: str, folder: Path | None, model_hash: str) -> Captioner:  # noqa: ARG001 - the cache's key
    """A model without its weights, with its processor: trials of one search ask for it again and again."""
    return Captioner(outline_model(texts, folder), read_processor(texts))


def _choose_weights(model: Any, config: PretrainedConfig) -> None:
    """Decides what learns, and in which precision the rest lies in memory."""
    if config.finetune != "full":
        model.requires_grad_(requires_grad=False)
        if config.precision == "bf16":  # nothing is added to them, so that half the memory will do
            model.to(torch.bfloat16)
    if config.finetune == "lora":
        add_adapters(
            model,
            lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            lora_targets=config.lora_targets,
        )
    if config.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise BadInput(
            f"gradient_checkpointing=True is not possible with {config.captioner_model!r}, which has no switch for it."
        )


def _checkpoint_gradients(model: Any) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # The switch also asks for gradients of frozen embeddings, which only reentrant checkpoints need, and which breaks
    # models that add to them in place (GIT).
    model.disable_input_require_grads()


TUNED_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"), ("finetune", ("lora",))),
    **dict.fromkeys(
        ("label_smoothing", "captions_per_picture", "gradient_checkpointing"), ("finetune", ("full", "lora"))
    ),
}
"""Fields that are read only if another field has one of these values."""
