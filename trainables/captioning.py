"""Captioning: a picture encoder and a decoder that writes a sentence about what it sees."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from trainables.parts.augmentation import AUGMENTATIONS, IMPROVED, augment, draw_augmentation
from trainables.parts.datasets import open_folder
from trainables.parts.decoders import DECODERS, build_decoder
from trainables.parts.encoders import ACTIVATIONS as CNN_ACTIVATIONS
from trainables.parts.encoders import ENCODERS, FEATURES, build_encoder, freeze, weights_file
from trainables.parts.generation import beam, greedy, sample
from trainables.parts.losses import LOSSES, build_loss
from trainables.parts.metrics import score_captions, token_metrics
from trainables.parts.pictures import read_picture
from trainables.parts.text import PADDING, CaptionTokenizer
from trainables.parts.transformer import ACTIVATIONS, POSITIONS
from vltune.contract import (
    Assets,
    BadInput,
    Batch,
    Data,
    Direction,
    Draws,
    Family,
    Loss,
    Record,
    Sample,
    Scores,
    TrialConfig,
    in_range,
    one_of,
)

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class CaptioningConfig(TrialConfig):
    """Everything that can be chosen about a captioner."""

    picture_size: int = 96
    """Side of the square pictures that the encoder sees, in pixels. At least what the encoder needs."""
    captions_per_picture: int = 5
    """Captions of each picture in a training batch, drawn anew each epoch where a picture has more; the picture is
    encoded once for all of them. At least 1."""
    min_word_count: int = 2
    """Words that occur less often in the training captions become ``<unk>``. At least 1."""
    max_tokens: int = 30
    """Words of the longest caption, its end counted; longer captions lose their last words. At least 2."""
    picture_encoder: str = "cnn"
    """``cnn`` (small, from scratch), ``efficientnet_b0``, ``efficientnet_b7``, ``resnet18``, ``resnet50``,
    ``inception_v3`` or ``densenet121``."""
    weights: str = "none"
    """First weights of the encoder: ``none`` (random), ``imagenet``, or the path of a file."""
    weights_hash: str = ""
    """SHA-256 of the file of first weights; filled in when the search starts, and checked when they are read."""
    train_encoder: bool = True
    """Whether the encoder learns; without it, its weights and statistics stay as they are."""
    features: str = "grid"
    """``grid``: a vector for each position of the picture; ``pooled``: one, their mean."""
    cnn_width: int = 32
    """``cnn``: channels of the first convolution, doubled in each of the next three. At least 1."""
    cnn_extra_layers: int = 0
    """``cnn``: convolutions beyond the four. At least 0."""
    cnn_activation: str = "relu"
    """``cnn``: ``relu`` or ``leaky_relu``."""
    cnn_batch_norm: bool = False
    """``cnn``: whether each convolution is followed by batch normalisation, which the study's network has not."""
    decoder: str = "lstm"
    """``lstm`` or ``gru`` with additive attention, or ``transformer``."""
    embedding_width: int = 256
    """Length of the vectors of words and of picture positions; a Transformer's width. At least 1."""
    hidden_width: int = 256
    """``lstm``, ``gru``: length of the hidden vector. At least 1."""
    attention_width: int = 256
    """``lstm``, ``gru``: length of the vectors that attention compares. At least 1."""
    encoder_layers: int = 1
    """``transformer``: layers of self-attention over the picture's positions. At least 0."""
    decoder_layers: int = 1
    """``transformer``: layers that attend to the words before and to the picture. At least 1."""
    heads: int = 4
    """``transformer``: attention heads of each layer; must divide ``embedding_width``."""
    feedforward_width: int = 512
    """``transformer``: length of the vectors inside the feed-forward networks. At least 1."""
    dropout: float = 0.3
    """Share of the decoder's activations that are zeroed in training. In [0, 1)."""
    activation: str = "relu"
    """``transformer``: ``relu`` or ``gelu``, in the feed-forward networks."""
    positions: str = "learned"
    """``transformer``: ``learned`` or ``sinusoidal`` vectors for the places in a caption."""
    loss: str = "cross_entropy"
    """What is trained on: ``cross_entropy``, ``focal`` or ``kl_divergence``. ``val_loss`` is cross-entropy always."""
    label_smoothing: float = 0.0
    """``cross_entropy``, ``kl_divergence``: share of the target's probability spread over all words. In [0, 1)."""
    focal_alpha: float = 0.25
    """``focal``: factor of the loss. Above 0."""
    focal_gamma: float = 2.0
    """``focal``: how much less a well predicted word counts. At least 0."""
    augmentation: str = "none"
    """Changes of training pictures: ``none``, ``base`` (flip, rotation, contrast), ``improved`` (all five)."""
    augmentation_flip: float = 0.5
    """Probability of a mirror image. In [0, 1]."""
    augmentation_rotation: float = 0.2
    """Largest rotation either way, in radians. In [0, 3.2]."""
    augmentation_contrast: float = 0.3
    """Largest change of the contrast's factor 1, either way. In [0, 1]."""
    augmentation_zoom: float = 0.2
    """Largest change of the zoom's factor 1, either way. In [0, 1)."""
    augmentation_brightness: float = 0.2
    """Largest share of the range of values that is added or taken away. In [0, 1]."""
    decoding: str = "greedy"
    """How captions are written: ``greedy``, ``beam`` or ``sample``."""
    beam_width: int = 3
    """``beam``: captions that grow side by side. At least 1."""
    length_penalty: float = 1.0
    """``beam``: captions compare by log-probability / length**length_penalty. At least 0."""
    top_k: int = 0
    """``sample``: draws from this many likeliest words; 0: from all."""
    temperature: float = 1.0
    """``sample``: what logits are divided by; lower is closer to greedy. Above 0."""
    prompt: str = ""
    """Words with which every caption begins; they are part of the caption."""
    allow_leakage: bool = False
    """Takes data whose splits share pictures, and says so in the notes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "picture_encoder": ENCODERS,
            "features": FEATURES,
            "cnn_activation": CNN_ACTIVATIONS,
            "decoder": DECODERS,
            "activation": ACTIVATIONS,
            "positions": POSITIONS,
            "loss": LOSSES,
            "augmentation": AUGMENTATIONS,
            "decoding": DECODINGS,
        }
        for key, table in choices.items():
            one_of(self, key, table)
        for key, low in LOWEST.items():
            in_range(self, key, low)
        for key in ("dropout", "label_smoothing", "augmentation_zoom"):
            in_range(self, key, 0, 1, below=True)
        for key in ("augmentation_flip", "augmentation_contrast", "augmentation_brightness"):
            in_range(self, key, 0, 1)
        in_range(self, "augmentation_rotation", 0, 3.2)
        for key in ("focal_alpha", "temperature"):
            in_range(self, key, 0, above=True)
        if self.decoder == "transformer" and self.embedding_width % self.heads:
            raise BadInput(f"heads={self.heads} does not divide embedding_width={self.embedding_width}; change one.")
        encoder = ENCODERS[self.picture_encoder]
        if self.picture_size < encoder.smallest:
            raise BadInput(
                f"picture_size={self.picture_size} is too small for picture_encoder={self.picture_encoder!r}: it needs "
                f"at least {encoder.smallest} pixels; {encoder.native} is its native size."
            )
        if self.weights == "imagenet" and encoder.imagenet is None:
            raise BadInput(f"weights='imagenet' does not exist for {self.picture_encoder!r}; take weights='none'.")
        self._refuse_what_has_no_effect()

    def _refuse_what_has_no_effect(self) -> None:
        for key, (other, values) in ONLY_WITH.items():
            default = type(self).__dataclass_fields__[key].default
            if getattr(self, key) != default and getattr(self, other) not in values:
                raise BadInput(
                    f"{key}={getattr(self, key)!r} has no effect with {other}={getattr(self, other)!r}: set {other} to "
                    f"{' or '.join(values)}, or leave {key} at {default!r}."
                )
        if self.weights_hash and self.weights == "none":
            raise BadInput(f"weights_hash={self.weights_hash!r} has no effect with weights='none': leave it out.")

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the path of the encoder's first weights made absolute."""
        weights = fields.get("weights", "none")
        whole = {} if weights in ("none", "imagenet") else {"weights": str(Path(weights).expanduser().absolute())}
        return {**fields, **whole}

    def find_sources(self) -> "CaptioningConfig":
        """The same, with the path and the hash of the encoder's first weights, which are fetched if need be."""
        file, weights_hash = weights_file(self.picture_encoder, self.weights, weights_hash=self.weights_hash)
        if file is None:
            return self
        return dataclasses.replace(
            self, **self.with_absolute_paths({"weights": self.weights}), weights_hash=weights_hash
        )

    def without_sources(self) -> "CaptioningConfig":
        """The same, for a model whose weights come from a checkpoint: the encoder's first weights are not read."""
        return dataclasses.replace(self, weights="none", weights_hash="")


class Captioning(Family):
    """Encodes a picture once, and reads or writes all its captions from that."""

    name: ClassVar[str] = "captioning"
    Config: ClassVar[type[TrialConfig]] = CaptioningConfig
    metrics: ClassVar[dict[str, Direction]] = {
        **dict.fromkeys(("val_loss", "perplexity"), "min"),
        **dict.fromkeys(("token_accuracy", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider"), "max"),
        **dict.fromkeys(("rouge_l", "rouge_l_precision", "rouge_l_recall", "rouge_l_f1"), "max"),
    }
    # They count tokens: the vocabulary and the longest caption decide which.
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        ("val_loss", "perplexity", "token_accuracy"), ("min_word_count", "max_tokens", "train_pictures")
    )

    @classmethod
    def load(cls, config: CaptioningConfig, cache: str) -> Data:
        """A folder of pictures with captions. Its splits do not depend on the seed: all trials share them."""
        size, leakage = config.picture_size, config.allow_leakage
        return open_folder(config.data, picture_size=size, cache=cache, allow_leakage=leakage)

    @classmethod
    def prepare(cls, config: CaptioningConfig, data: Data) -> Assets:
        """The vocabulary of the training captions, those of ``train_pictures`` alone if it is set."""
        split = data.splits["train"]
        captions = (text for i in range(config.train_pictures or len(split)) for text in split[i].captions)
        return {TOKENIZER: CaptionTokenizer.fit(captions, min_word_count=config.min_word_count).to_text()}

    def __init__(self, config: CaptioningConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        self.config = config
        self.tokenizer = CaptionTokenizer.from_text(assets[TOKENIZER])
        self.prompt = self.tokenizer.prompt(config.prompt, max_tokens=config.max_tokens)
        self.loss = build_loss(
            config.loss,
            label_smoothing=config.label_smoothing,
            focal_alpha=config.focal_alpha,
            focal_gamma=config.focal_gamma,
        )
        self.picture_encoder = build_encoder(
            config.picture_encoder,
            weights=config.weights,
            weights_hash=config.weights_hash,
            picture_size=config.picture_size,
            features=config.features,
            cnn_width=config.cnn_width,
            cnn_extra_layers=config.cnn_extra_layers,
            cnn_activation=config.cnn_activation,
            cnn_batch_norm=config.cnn_batch_norm,
            gradient_checkpointing=config.gradient_checkpointing,
            embedding_width=config.embedding_width,
        )
        if not config.train_encoder:
            freeze(self.picture_encoder)
        self.decoder = build_decoder(
            config.decoder,
            width=self.picture_encoder.width,
            words=len(self.tokenizer),
            max_tokens=config.max_tokens,
            embedding_width=config.embedding_width,
            hidden_width=config.hidden_width,
            attention_width=config.attention_width,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            heads=config.heads,
            feedforward_width=config.feedforward_width,
            dropout=config.dropout,
            activation=config.activation,
            positions=config.positions,
            gradient_checkpointing=config.gradient_checkpointing,
        )

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Pictures as bytes, captions as (pictures, captions, tokens), and where in them a word is to be predicted."""
        config, ids = self.config, [s.id for s in samples]
        pictures = [s.picture for s in samples if s.picture is not None]
        assert len(pictures) == len(samples), "captioning needs pictures"
        captions = [_drawn(s, draws, config.captions_per_picture) for s in samples]
        tokens = self._tokens(captions)
        batch: Batch = {
            "ids": ids,
            "captions": captions,
            "pictures": torch.from_numpy(np.stack(pictures)),
            "tokens": tokens,
            # Found here, because finding them on a GPU would make the processor wait for it.
            "places": (tokens[:, :, 1:] != PADDING).flatten().nonzero().squeeze(1),
        }
        if draws is not None and config.augmentation != "none":
            batch["augmentation"] = draw_augmentation(
                draws,
                ids,
                augmentation=config.augmentation,
                flip=config.augmentation_flip,
                rotation=config.augmentation_rotation,
                contrast=config.augmentation_contrast,
                zoom=config.augmentation_zoom,
                brightness=config.augmentation_brightness,
            )
        if draws is None and config.decoding == "sample":
            # Evaluation is the same in each epoch, so that its captions can be compared.
            drawn = [Draws(config.seed, 0).generator(i, "decoding").random(config.max_tokens, np.float32) for i in ids]
            batch["uniforms"] = torch.from_numpy(np.stack(drawn))
        return batch

    def forward(self, batch: Batch) -> Loss:
        """The loss, summed over the tokens of all captions."""
        memory = self.decoder.prepare(self._features(batch))
        logits, targets = self._read(memory, batch)
        total = self.loss(logits[None], targets[None], padding=PADDING)
        return Loss(total, torch.tensor(len(targets), device=total.device))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """A caption for each picture and, where it has captions, what the model thinks of them."""
        assert not self.training, "dropout and batch statistics would make records depend on chance"
        memory = self.decoder.prepare(self._features(batch))
        written = [self.tokenizer.decode(row) for row in self._write(memory, batch).tolist()]
        records: list[Record] = [{"id": i, "caption": c} for i, c in zip(batch["ids"], written, strict=True)]
        if not any(batch["captions"]):
            return records
        logits, targets = self._read(memory, batch)
        nll = F.cross_entropy(logits.float(), targets, reduction="none")
        correct = logits.argmax(-1) == targets
        pictures = (batch["places"] // batch["tokens"][0, :, 1:].numel()).cpu()
        # On the processor and in double precision: the order of additions on a GPU is not always the same.
        of_tokens = torch.stack((nll.cpu().double(), correct.cpu().double(), torch.ones(len(nll)).double()), 1)
        sums = torch.zeros(len(records), 3, dtype=torch.float64).index_add_(0, pictures, of_tokens)
        for record, references, (total, right, count) in zip(records, batch["captions"], sums.tolist(), strict=True):
            if references:
                record |= {"references": [*references], "nll": total, "tokens": int(count), "correct": int(right)}
        return records

    def score(self, records: Sequence[Record]) -> Scores:
        """Caption metrics and token metrics, over all pictures and for each."""
        whole, each = score_captions([r["caption"] for r in records], [r.get("references", ()) for r in records])
        nll, tokens, correct = (sum(r[key] for r in records) for key in ("nll", "tokens", "correct"))
        return Scores(
            token_metrics(nll, tokens, correct) | whole,
            [token_metrics(r["nll"], r["tokens"], r["correct"]) | e for r, e in zip(records, each, strict=True)],
        )

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Pictures from files; a file's path is its sample's id."""
        return [Sample(s, read_picture(s, size=self.config.picture_size), ()) for s in sources]

    def _tokens(self, captions: Sequence[Sequence[str]]) -> Int[Tensor, "pictures captions tokens"]:
        """Encoded captions; pictures with fewer of them than others get some of padding alone."""
        flat = self.tokenizer.encode([text for texts in captions for text in texts], max_tokens=self.config.max_tokens)
        most = max(1, *map(len, captions))
        tokens = torch.full((len(captions), most, max(2, flat.shape[1])), PADDING)
        given = torch.arange(most) < torch.tensor([len(texts) for texts in captions])[:, None]
        if len(flat):
            tokens[given] = flat
        return tokens

    def _features(self, batch: Batch) -> Float[Tensor, "pictures positions width"]:
        # Bytes travel to the device, a quarter of the floats' size.
        pictures = batch["pictures"].permute(0, 3, 1, 2).to(self.decoder.words.weight.dtype) / 255
        if "augmentation" in batch:
            pictures = augment(pictures, batch["augmentation"])
        return self.picture_encoder(pictures)

    def _read(self, memory: Any, batch: Batch) -> tuple[Float[Tensor, "places words"], Int[Tensor, " places"]]:
        """Logits and targets of all tokens to be predicted, of all captions."""
        hidden = self.decoder.hidden(memory, batch["tokens"][:, :, :-1])
        places = batch["places"]
        return self.decoder.words(hidden.flatten(0, 2)[places]), batch["tokens"][:, :, 1:].flatten()[places]

    def _write(self, memory: Any, batch: Batch) -> Int[Tensor, "pictures tokens"]:
        config, limits = self.config, {"prompt": self.prompt, "max_tokens": self.config.max_tokens}
        where = {"pictures": len(batch["ids"]), "device": batch["pictures"].device}
        if config.decoding == "sample":
            settings = {"top_k": config.top_k, "temperature": config.temperature}
            return sample(self.decoder, memory, uniforms=batch["uniforms"], **settings, **limits)
        if config.decoding == "beam":
            settings = {"beam_width": config.beam_width, "length_penalty": config.length_penalty}
            return beam(self.decoder, memory, **settings, **limits, **where)
        return greedy(self.decoder, memory, **limits, **where)


def _drawn(sample: Sample, draws: Draws | None, count: int) -> tuple[str, ...]:
    if draws is None or len(sample.captions) <= count:
        return sample.captions
    chosen = draws.generator(sample.id, "captions").choice(len(sample.captions), count, replace=False)
    return tuple(sample.captions[i] for i in chosen)


DECODINGS = tuple(f.__name__ for f in (greedy, beam, sample))

LOWEST = {
    "captions_per_picture": 1,
    "min_word_count": 1,
    "max_tokens": 2,
    "cnn_width": 1,
    "cnn_extra_layers": 0,
    "embedding_width": 1,
    "hidden_width": 1,
    "attention_width": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "heads": 1,
    "feedforward_width": 1,
    "focal_gamma": 0,
    "beam_width": 1,
    "length_penalty": 0,
    "top_k": 0,
}
"""Smallest values of the fields that have no other bound."""

ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "cnn_width": ("picture_encoder", ("cnn",)),
    "cnn_extra_layers": ("picture_encoder", ("cnn",)),
    "cnn_activation": ("picture_encoder", ("cnn",)),
    "cnn_batch_norm": ("picture_encoder", ("cnn",)),
    "label_smoothing": ("loss", ("cross_entropy", "kl_divergence")),
    "focal_alpha": ("loss", ("focal",)),
    "focal_gamma": ("loss", ("focal",)),
    "beam_width": ("decoding", ("beam",)),
    "length_penalty": ("decoding", ("beam",)),
    "top_k": ("decoding", ("sample",)),
    "temperature": ("decoding", ("sample",)),
    **{
        f"augmentation_{c}": ("augmentation", tuple(n for n in AUGMENTATIONS if c in AUGMENTATIONS[n]))
        for c in IMPROVED
    },
}
"""Fields that are read only if another field has one of these values."""
