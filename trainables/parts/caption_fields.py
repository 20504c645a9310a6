"""The fields of every family that learns to write captions, and what comes of them: decoder, loss, scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from trainables.parts.decoder import Decoder
from trainables.parts.decoders import DECODERS, build_decoder
from trainables.parts.decoding_fields import DecodingConfig
from trainables.parts.losses import LOSSES, build_loss
from trainables.parts.metrics import drawn_bleu, drawn_token_metrics, score_captions, token_metrics
from trainables.parts.scheduled_sampling import draw_replaced, with_own_words
from trainables.parts.scoring_fields import FURTHER_DRAWN_WITH, FURTHER_METRICS
from trainables.parts.text import PADDING, SMALLEST_BYTE_PAIR, TOKENS, CaptionTokenizer
from trainables.parts.transformer import ACTIVATIONS, POSITIONS
from vltune.configuration import in_range, one_of, only_with
from vltune.contract import Batch, Direction, Draws, Loss, Record, Sample, Scores
from vltune.errors import BadInput

CAPTION_TOKENIZER_FIELDS = ("tokens", "min_word_count", "vocabulary_size")
"""Fields that a vocabulary of captions is made by."""
TOKENIZER = "tokenizer.json"
"""The asset that holds the vocabulary."""

METRICS: dict[str, Direction] = {
    **dict.fromkeys(("val_loss", "perplexity"), "min"),
    **dict.fromkeys(("token_accuracy", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider"), "max"),
    **dict.fromkeys(("rouge_l", "rouge_l_precision", "rouge_l_recall", "rouge_l_f1"), "max"),
    **FURTHER_METRICS,
}
"""What is measured of captions, the further metrics where they are asked for, and which way is better."""

TOKEN_METRICS = ("val_loss", "perplexity", "token_accuracy")
"""Those that count tokens: the vocabulary and the longest caption decide which."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(DecodingConfig):
    """How captions become tokens, and what writes them."""

    tokens: str = "words"
    """What captions are made of: ``words``, or ``byte_pair``, pieces of words of which any text can be made."""
    min_word_count: int = 2
    """``words``: those that occur less often in the training captions become ``<unk>``. At least 1."""
    vocabulary_size: int = 4096
    """``byte_pair``: the most tokens, 256 bytes and five special ones included. At least 261."""
    embedding_width: int = 256
    """Length of the vectors of words and of picture positions; a Transformer's width. At least 1."""
    decoder: str = "lstm"
    """``lstm`` or ``gru`` with additive attention, or ``transformer``."""
    hidden_width: int = 256
    """``lstm``, ``gru``: length of the hidden vector. At least 1."""
    attention_width: int = 256
    """``lstm``, ``gru``: length of the vectors that attention compares. At least 1."""
    encoder_layers: int = 1
    """``transformer``: layers of self-attention over what the decoder looks at. At least 0."""
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
    scheduled_sampling: float = 0.0
    """Largest probability that a word which the decoder reads in training is its own guess, not the caption's; it
    rises linearly over the epochs (https://arxiv.org/abs/1506.03099). In [0, 1]; 0: always the caption's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, table in {"tokens": TOKENS, "activation": ACTIVATIONS, "positions": POSITIONS, "loss": LOSSES}.items():
            one_of(self, key, table)
        for key, low in LOWEST.items():
            in_range(self, key, low)
        for key in ("dropout", "label_smoothing"):
            in_range(self, key, 0, 1, below=True)
        words = sum(any(sign.isalnum() for sign in word) for word in self.prompt.split())
        if self.tokens == "words" and words >= self.max_tokens:
            raise BadInput(
                f"prompt={self.prompt!r} has {words} words: it must have fewer than max_tokens={self.max_tokens}; "
                "shorten it."
            )
        in_range(self, "focal_alpha", 0, above=True)
        in_range(self, "scheduled_sampling", 0, 1)
        self.check_decoder()
        if self.decoder == "transformer" and self.embedding_width % self.heads:
            raise BadInput(f"heads={self.heads} does not divide embedding_width={self.embedding_width}; change one.")
        only_with(self, READ_WITH)

    def check_decoder(self) -> None:
        """Checks the decoder's name; a family that has others than these looks for its own.

        Raises:
            BadInput: no such decoder.
        """
        one_of(self, "decoder", DECODERS)


def fit_tokenizer(config: CaptionConfig, captions: Iterable[str]) -> CaptionTokenizer:
    """The vocabulary that a configuration describes, of the training captions.

    Raises:
        BadInput: there is nothing to make one of.
    """
    return CaptionTokenizer.fit(
        captions,
        min_word_count=config.min_word_count,
        tokens=config.tokens,
        vocabulary_size=config.vocabulary_size,
    )


def build_caption_decoder(config: CaptionConfig, *, width: int, words: int) -> Decoder:
    """The decoder that a configuration describes, for features of ``width`` and a vocabulary of ``words``."""
    return build_decoder(
        config.decoder,
        width=width,
        words=words,
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


def build_caption_loss(config: CaptionConfig) -> Any:
    """The training loss that a configuration describes."""
    return build_loss(
        config.loss,
        label_smoothing=config.label_smoothing,
        focal_alpha=config.focal_alpha,
        focal_gamma=config.focal_gamma,
    )


def drawn_captions(sample: Sample, draws: Draws | None, count: int) -> tuple[str, ...]:
    """Up to ``count`` captions of a sample in training, drawn anew each epoch; all of them in evaluation."""
    if draws is None or len(sample.captions) <= count:
        return sample.captions
    chosen = draws.generator(sample.id, "captions").choice(len(sample.captions), count, replace=False)
    return tuple(sample.captions[i] for i in chosen)


def collate_captions(tokenizer: CaptionTokenizer, captions: Sequence[Sequence[str]], *, max_tokens: int) -> Batch:
    """Captions as (samples, captions, tokens), and where in them a word is to be predicted.

    A sample with fewer captions than others gets some of padding alone.
    """
    flat = tokenizer.encode([text for texts in captions for text in texts], max_tokens=max_tokens)
    most = max(1, *map(len, captions))
    tokens = torch.full((len(captions), most, max(2, flat.shape[1])), PADDING)
    given = torch.arange(most) < torch.tensor([len(texts) for texts in captions])[:, None]
    if len(flat):
        tokens[given] = flat
    # Found here, because finding them on a GPU would make the processor wait for it.
    places = (tokens[:, :, 1:] != PADDING).flatten().nonzero().squeeze(1)
    return {"captions": [*captions], "tokens": tokens, "places": places}


def collate_replaced(config: CaptionConfig, batch: Batch, draws: Draws | None) -> Batch:
    """Which words of a collated batch the decoder will replace by its own: none in evaluation."""
    if draws is None or not config.scheduled_sampling:
        return {}
    probability = config.scheduled_sampling * draws.epoch / config.epochs
    return {"replaced": draw_replaced(batch["tokens"], batch["ids"], draws, probability=probability)}


def read_captions(
    decoder: Decoder, memory: Any, batch: Batch
) -> tuple[Float[Tensor, "places words"], Int[Tensor, " places"]]:
    """Logits and targets of all tokens to be predicted, of all captions of a batch."""
    inputs = batch["tokens"][:, :, :-1]
    if "replaced" in batch:
        inputs = with_own_words(decoder, memory, inputs, batch["replaced"])
    hidden = decoder.hidden(memory, inputs)
    places = batch["places"]
    return decoder.words(hidden.flatten(0, 2)[places]), batch["tokens"][:, :, 1:].flatten()[places]


def summed_loss(loss: Any, logits: Float[Tensor, "places words"], targets: Int[Tensor, " places"]) -> Loss:
    """The training loss over all tokens, and how many they are."""
    total = loss(logits[None], targets[None], padding=PADDING)
    return Loss(total, torch.tensor(len(targets), device=total.device))


def token_records(
    records: Sequence[Record], batch: Batch, logits: Float[Tensor, "places words"], targets: Int[Tensor, " places"]
) -> list[Record]:
    """Records with what the model thinks of a sample's captions: ``references``, ``nll``, ``tokens``, ``correct``."""
    nll = F.cross_entropy(logits.float(), targets, reduction="none")
    correct = logits.argmax(-1) == targets
    samples = (batch["places"] // batch["tokens"][0, :, 1:].numel()).cpu()
    # On the processor and in double precision: the order of additions on a GPU is not always the same.
    of_tokens = torch.stack((nll.cpu().double(), correct.cpu().double(), torch.ones(len(nll)).double()), 1)
    sums = torch.zeros(len(records), 3, dtype=torch.float64).index_add_(0, samples, of_tokens)
    return [
        {**record, "references": [*references], "nll": total, "tokens": int(count), "correct": int(right)}
        if references
        else record
        for record, references, (total, right, count) in zip(records, batch["captions"], sums.tolist(), strict=True)
    ]


DRAWN_WITH = {"cider": "document frequencies stay those of the whole split", **FURTHER_DRAWN_WITH}
"""``Family.drawn_with`` of families that caption."""


def score_records(records: Sequence[Record], *, cache: str) -> Scores:
    """Caption metrics and token metrics, over all samples and for each.

    Args:
        cache: folder where what is computed of the references is kept; empty: in memory only.
    """
    references = [r.get("references", ()) for r in records]
    whole, each = score_captions([r["caption"] for r in records], references, cache=cache)
    nll, tokens, correct = (sum(r[key] for r in records) for key in ("nll", "tokens", "correct"))
    return Scores(
        token_metrics(nll, tokens, correct) | whole,
        [token_metrics(r["nll"], r["tokens"], r["correct"]) | e for r, e in zip(records, each, strict=True)],
        lambda counts: drawn_token_metrics(counts, records) | drawn_bleu(counts, each),
    )


LOWEST = {
    "min_word_count": 1,
    "vocabulary_size": SMALLEST_BYTE_PAIR,
    "embedding_width": 1,
    "hidden_width": 1,
    "attention_width": 1,
    "encoder_layers": 0,
    "decoder_layers": 1,
    "heads": 1,
    "feedforward_width": 1,
    "focal_gamma": 0,
}
"""Smallest values of the fields that have no other bound."""

READ_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "min_word_count": ("tokens", ("words",)),
    "vocabulary_size": ("tokens", ("byte_pair",)),
    "label_smoothing": ("loss", ("cross_entropy", "kl_divergence")),
    "focal_alpha": ("loss", ("focal",)),
    "focal_gamma": ("loss", ("focal",)),
}
"""Fields that are read only if another field has one of these values."""
