"""Pretraining by masked words: which word is missing in this caption?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainables.parts.caption_fields import TOKENIZER, drawn_captions
from trainables.parts.kept_folders import open_kept_folder
from trainables.parts.masking import WRITTEN_MASK, fill, mask_places, read_written_masks
from trainables.parts.metrics import drawn_token_metrics, token_metrics
from trainables.parts.pretraining import check_learns
from trainables.parts.pretraining_drawings import GUESSED, guessed_words_drawing
from trainables.parts.text import MASK, CaptionTokenizer, pad
from trainables.parts.text_fields import (
    TEXT_TOKENIZER_FIELDS,
    TextConfig,
    build_text_encoder,
    fit_text_tokenizer,
    text_tokens,
)
from vltune.configuration import TrialConfig, in_range, one_of
from vltune.contract import NO_MODELS, Assets, Batch, Data, Direction, Draws, Family, Loss, Record, Sample, Scores
from vltune.devices import to_device
from vltune.drawings import Drawing
from vltune.errors import BadInput

EVALUATED = Draws(0, 0)
"""What the masks of an evaluation are drawn with: every trial, whatever its seed, guesses the same words."""
SHOWN_SIZE = 96
"""Side of the pictures beside masked captions, in pixels: no model sees them, but people do."""
NOT_KNOWN = -1
"""Target where nobody knows the word: a person asks for it."""


@dataclass(frozen=True, kw_only=True)
class MaskedWordConfig(TextConfig):
    """Everything that can be chosen about guessing hidden words."""

    text_encoder: str = "lstm"
    """``lstm``, ``gru``, ``transformer`` or ``mlp``."""
    mask_share: float = 0.0
    """Share of a caption's words that are hidden in training, at least one; 0: one, as in the matching study, and as in
    every evaluation. In [0, 1)."""
    captions_per_picture: int = 5
    """Captions of each picture in a training batch, drawn anew each epoch where a picture has more. At least 1."""
    allow_leakage: bool = False
    """Takes data whose splits share pictures, and says so in the notes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # A pretrained encoder has a vocabulary of its own, and a mask of its own or none.
        one_of(self, "text_encoder", ("lstm", "gru", "transformer", "mlp"))
        in_range(self, "mask_share", 0, 1, below=True)
        in_range(self, "captions_per_picture", 1)
        check_learns(self, "train_text_encoder")
        if self.text_encoder == "mlp" and self.mask_share:
            raise BadInput(
                f"mask_share={self.mask_share!r} does not go with text_encoder='mlp', whose state is the same for all "
                "hidden words: leave mask_share at 0.0, or take another text_encoder."
            )


class MaskedWord(Family):
    """Hides words of captions and guesses them from the rest, after BERT (https://arxiv.org/abs/1810.04805).

    The guess is made from the state at the hidden place and the vector of the whole text, because the states of an
    LSTM know only what stands before. ``init_from=text_encoder=…`` of other families takes what it trained, with the
    vocabulary.
    """

    name: ClassVar[str] = "pretraining_masked_word"
    Config: ClassVar[type[TrialConfig]] = MaskedWordConfig
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min", "perplexity": "min", "token_accuracy": "max"}
    measured_by: ClassVar[dict[str, tuple[str, ...]]] = dict.fromkeys(
        metrics,
        (
            "tokens",
            "min_word_count",
            "vocabulary_size",
            "stem_words",
            "clean_text",
            "max_tokens",
            "train_pictures",
        ),
    )
    part_assets: ClassVar[dict[str, tuple[str, ...]]] = {"text_encoder": (TOKENIZER,)}
    asset_fields: ClassVar[dict[str, tuple[str, ...]]] = {TOKENIZER: TEXT_TOKENIZER_FIELDS}

    @classmethod
    def load(cls, config: MaskedWordConfig, cache: str) -> Data:
        """A folder of pictures with captions; the pictures are not looked at."""
        return open_kept_folder(config.data, picture_size=SHOWN_SIZE, cache=cache, allow_leakage=config.allow_leakage)

    @classmethod
    def prepare(cls, config: MaskedWordConfig, data: Data) -> Assets:
        """The vocabulary of the training captions, those of ``train_pictures`` alone if it is set."""
        split = data.splits["train"]
        captions = (text for i in range(config.train_pictures or len(split)) for text in split[i].captions)
        return fit_text_tokenizer(config, captions)

    def __init__(self, config: MaskedWordConfig, assets: Assets, models: Mapping[str, Family] = NO_MODELS) -> None:
        super().__init__(config, assets, models)
        self.config = config
        self.tokenizer = CaptionTokenizer.from_text(assets[TOKENIZER])
        self.text_encoder = build_text_encoder(config, assets, words=len(self.tokenizer))
        self.classifier = nn.Linear(2 * self.text_encoder.width, len(self.tokenizer))

    def collate(self, samples: Sequence[Sample], draws: Draws | None) -> Batch:
        """Tokens of captions in which some are hidden; where these are, and what they were."""
        rows: list[list[int]] = []
        owners: list[int] = []
        places: list[tuple[int, int]] = []
        targets: list[int] = []
        for owner, sample in enumerate(samples):
            for tokens, hidden in self._masked(sample, draws):
                places += [(len(rows), place) for place in hidden]
                targets += hidden.values()
                rows.append([MASK if place in hidden else token for place, token in enumerate(tokens)])
                owners.append(owner)
        return {
            "ids": [s.id for s in samples],
            "rows": rows,
            "owners": owners,
            "tokens": pad(rows),
            "places": torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
            "targets": torch.tensor(targets, dtype=torch.int64),
        }

    def forward(self, batch: Batch) -> Loss:
        """Cross-entropy of the hidden words, summed over them."""
        nll = F.cross_entropy(self._logits(batch).float(), batch["targets"], reduction="none")
        return Loss(nll.sum(), torch.tensor(len(nll), device=nll.device))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Record]:
        """For each sample its captions with guesses in place of what is hidden, and how good they are."""
        assert not self.training, "dropout would make records depend on chance"
        logits, targets = self._logits(batch).float(), batch["targets"]
        nll = F.cross_entropy(logits, targets, reduction="none", ignore_index=NOT_KNOWN).tolist()
        guesses = logits.argmax(-1).tolist()
        filled: list[dict[int, int]] = [{} for _ in batch["rows"]]
        sums = [{"nll": 0.0, "tokens": 0, "correct": 0} for _ in batch["ids"]]
        for (row, place), target, guess, loss in zip(
            batch["places"].tolist(), targets.tolist(), guesses, nll, strict=True
        ):
            filled[row][place] = guess
            if target != NOT_KNOWN:
                of_sample = sums[batch["owners"][row]]
                of_sample["nll"] += loss
                of_sample["tokens"] += 1
                of_sample["correct"] += int(guess == target)
        captions: list[list[str]] = [[] for _ in batch["ids"]]
        for owner, tokens, row_guesses in zip(batch["owners"], batch["rows"], filled, strict=True):
            captions[owner].append(fill(self.tokenizer, tokens, row_guesses))
        return [
            {"id": name, "caption": "; ".join(texts), **of_sample}
            for name, texts, of_sample in zip(batch["ids"], captions, sums, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> Scores:
        """Loss and accuracy of the hidden words, over all captions and for each picture's."""
        nll, tokens, correct = (sum(r[key] for r in records) for key in ("nll", "tokens", "correct"))
        each = [token_metrics(r["nll"], r["tokens"], r["correct"]) if r["tokens"] else {} for r in records]
        return Scores(token_metrics(nll, tokens, correct), each, lambda counts: drawn_token_metrics(counts, records))

    def illustrate(self, samples: Sequence[Sample], records: Sequence[Record]) -> list[Drawing]:  # noqa: ARG002
        """Captions with hidden words, and what was guessed for them."""
        shown = [samples[i] for i in range(min(GUESSED, len(samples)))]
        batch = to_device(self.collate(shown, None), self.classifier.weight.device)
        guesses = self._logits(batch).argmax(-1).tolist()
        words: list[dict[int, tuple[int, int]]] = [{} for _ in batch["rows"]]
        for (row, place), guess, hidden in zip(
            batch["places"].tolist(), guesses, batch["targets"].tolist(), strict=True
        ):
            words[row][place] = (guess, hidden)
        told: list[list[tuple[str, list[tuple[str, str]]]]] = [[] for _ in shown]
        for owner, tokens, at in zip(batch["owners"], batch["rows"], words, strict=True):
            text = fill(self.tokenizer, tokens, {place: guess for place, (guess, _) in at.items()})
            decoded = [(self.tokenizer.decode([guess]), self.tokenizer.decode([word])) for guess, word in at.values()]
            told[owner].append((text, decoded))
        return [guessed_words_drawing(shown, told)]

    def read(self, sources: Sequence[str]) -> list[Sample]:
        """Texts in which ``<mask>`` stands for a word; a text is its sample's id.

        Raises:
            BadInput: no word is missing in a text.
        """
        for text in sources:
            if WRITTEN_MASK not in text:
                raise BadInput(f"{text!r} misses no word: write {WRITTEN_MASK} where one is to be guessed.")
        return [Sample(text, None, (text,)) for text in sources]

    def _masked(self, sample: Sample, draws: Draws | None) -> Iterator[tuple[list[int], dict[int, int]]]:
        """The tokens of captions, and what is hidden of them: place -> token."""
        config = self.config
        for text in drawn_captions(sample, draws, config.captions_per_picture):
            if draws is None and WRITTEN_MASK in text:
                tokens = read_written_masks(self.tokenizer, text)[: config.max_tokens]
                yield tokens, {place: NOT_KNOWN for place, token in enumerate(tokens) if token == MASK}
                continue
            tokens = text_tokens(self.tokenizer, [text], max_tokens=config.max_tokens)[0].tolist()
            generator = (draws or EVALUATED).generator(sample.id, f"mask/{text}")
            # Whatever was trained on, so that trials compare.
            share = 0.0 if draws is None else config.mask_share
            yield tokens, {place: tokens[place] for place in mask_places(tokens, generator, share=share)}

    def _logits(self, batch: Batch) -> Float[Tensor, "hidden words"]:
        encoded, (rows, places) = self.text_encoder(batch["tokens"]), batch["places"].unbind(1)
        return self.classifier(torch.cat((encoded.states[rows, places], encoded.vectors[rows]), 1))
