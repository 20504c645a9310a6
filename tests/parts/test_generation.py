"""Generation against a naive reference: one picture at a time, the whole prefix computed anew for each word.

What changes the logits in the reference is transformers' own.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trainables.parts.decoder import Decoder
from trainables.parts.decoders import DECODERS, build_decoder
from trainables.parts.generation import beam, greedy, sample
from trainables.parts.text import END, MASK, PADDING, START, UNKNOWN

PICTURES, WORDS, MAX_TOKENS = 8, 13, 8
CPU = torch.device("cpu")
decoders = pytest.mark.parametrize("name", DECODERS)
prompts = pytest.mark.parametrize("prompt", [(), (5, 7)], ids=["no prompt", "prompt"])


def make(name: str) -> Decoder:
    torch.manual_seed({"lstm": 0, "gru": 3, "transformer": 3}[name])
    decoder = build_decoder(
        name,
        width=6,
        words=WORDS,
        max_tokens=MAX_TOKENS,
        embedding_width=8,
        hidden_width=8,
        attention_width=8,
        encoder_layers=1,
        decoder_layers=2,
        heads=2,
        feedforward_width=16,
        dropout=0.0,
        activation="relu",
        positions="learned",
        gradient_checkpointing=False,
    )
    with torch.no_grad():  # decided, and now and then at an end, so that captions differ and have unequal lengths
        for parameter in decoder.parameters():
            if parameter.dim() > 1:
                parameter *= 3
        decoder.words.bias[END] += 2
    return decoder.double().eval()


def features() -> Tensor:
    return 2 * torch.randn(PICTURES, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def log_probabilities(decoder: Decoder, picture: Tensor, words: list[int], *, penalty: float = 1.0) -> list[float]:
    logits = decoder(decoder.prepare(picture[None]), torch.tensor([[[START, *words]]]))[0, 0, -1:]
    if words:
        process: Any = RepetitionPenaltyLogitsProcessor(penalty)
        logits = process(torch.tensor([words]), logits)
    values = logits[0].tolist()
    allowed = {i: value for i, value in enumerate(values) if i not in (PADDING, START, UNKNOWN, MASK)}
    total = math.log(sum(map(math.exp, allowed.values())))
    return [allowed[i] - total if i in allowed else -math.inf for i in range(len(values))]


def naive_greedy(decoder: Decoder, picture: Tensor, prompt: tuple[int, ...], *, penalty: float) -> list[int]:
    words = [*prompt]
    while len(words) < MAX_TOKENS and words[len(prompt) :][-1:] != [END]:
        words.append(int(np.argmax(log_probabilities(decoder, picture, words, penalty=penalty))))
    return words


def naive_beam(
    decoder: Decoder, picture: Tensor, prompt: tuple[int, ...], *, width: int, length_penalty: float, penalty: float
) -> list[int]:
    beams = [([*prompt], 0.0)]
    for _ in range(MAX_TOKENS - len(prompt)):
        longer = []
        for words, score in beams:
            if words[len(prompt) :][-1:] == [END]:
                longer.append((words, score))
                continue
            for word, value in enumerate(log_probabilities(decoder, picture, words, penalty=penalty)):
                longer.append(([*words, word], score + value))
        beams = sorted(longer, key=lambda pair: -pair[1])[:width]
    return max(beams, key=lambda pair: pair[1] / (len(pair[0]) - len(prompt)) ** length_penalty)[0]


def naive_sample(
    decoder: Decoder,
    picture: Tensor,
    prompt: tuple[int, ...],
    *,
    draws: list[float],
    top_k: int,
    top_p: float,
    temperature: float,
    penalty: float,
) -> list[int]:
    words = [*prompt]
    while len(words) < MAX_TOKENS and words[len(prompt) :][-1:] != [END]:
        scores = torch.tensor([log_probabilities(decoder, picture, words, penalty=penalty)], dtype=torch.float64)
        warped = warpers(top_k=top_k, top_p=top_p, temperature=temperature)(torch.tensor([words]), scores)[0].tolist()
        best = sorted(range(WORDS), key=lambda word: -scores[0, word])
        weights = [math.exp(warped[word]) for word in best if warped[word] > -math.inf]
        target, place = draws[len(words)] * sum(weights), 0
        while place < len(weights) - 1 and target >= sum(weights[: place + 1]):
            place += 1
        words.append(best[place])
    return words


def warpers(*, top_k: int, top_p: float, temperature: float) -> Any:
    """What transformers' own ``generate`` makes of these settings."""
    made: list[Any] = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    made += [TopKLogitsWarper(top_k)] if top_k else []
    return LogitsProcessorList([*made, *([TopPLogitsWarper(top_p)] if top_p < 1 else [])])


def rows(tokens: Tensor) -> list[list[int]]:
    """Without the padding, which must stand behind the end only."""
    result = []
    for row in tokens.tolist():
        while row[-1] == PADDING:
            row.pop()
        assert PADDING not in row
        assert len(row) == tokens.shape[1] or row[-1] == END
        result.append(row)
    return result


@torch.no_grad()
@decoders
@prompts
@pytest.mark.parametrize("penalty", [1.0, 1.6])
def test_greedy(name: str, prompt: tuple[int, ...], penalty: float) -> None:
    decoder = make(name)
    expected = [naive_greedy(decoder, picture, prompt, penalty=penalty) for picture in features()]
    assert len(set(map(tuple, expected))) > 3
    assert len(set(map(len, expected))) > 1
    for chosen in (slice(None), slice(3, 5)):
        memory, count = decoder.prepare(features()[chosen]), len(expected[chosen])
        settings: Any = {"prompt": prompt, "max_tokens": MAX_TOKENS, "repetition_penalty": penalty}
        assert rows(greedy(decoder, memory, pictures=count, device=CPU, **settings)) == expected[chosen]


@torch.no_grad()
@decoders
@prompts
@pytest.mark.parametrize(
    ("width", "length_penalty", "penalty"), [(1, 1.0, 1.0), (3, 1.0, 1.6), (4, 0.0, 1.0), (10, 2.0, 0.7)]
)
def test_beam(name: str, prompt: tuple[int, ...], width: int, length_penalty: float, penalty: float) -> None:
    decoder = make(name)
    settings: Any = {"width": width, "length_penalty": length_penalty, "penalty": penalty}
    expected = [naive_beam(decoder, picture, prompt, **settings) for picture in features()]
    assert length_penalty == 0 or len(set(map(tuple, expected))) > 2
    for chosen in (slice(None), slice(3, 5), slice(7, 8)):
        memory = decoder.prepare(features()[chosen])
        found = beam(
            decoder,
            memory,
            pictures=len(expected[chosen]),
            beam_width=width,
            length_penalty=length_penalty,
            prompt=prompt,
            max_tokens=MAX_TOKENS,
            device=CPU,
            repetition_penalty=penalty,
        )
        assert rows(found) == expected[chosen]


@torch.no_grad()
@decoders
@prompts
@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature", "penalty"),
    [(0, 1.0, 1.0, 1.0), (3, 1.0, 0.7, 1.0), (99, 1.0, 2.0, 1.0), (0, 0.8, 2.0, 1.0), (4, 0.7, 3.0, 1.3)],
)
def test_sample(
    name: str, prompt: tuple[int, ...], top_k: int, top_p: float, temperature: float, penalty: float
) -> None:
    decoder = make(name)
    uniforms = torch.rand(PICTURES, MAX_TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    settings: Any = {"top_k": top_k, "top_p": top_p, "temperature": temperature}
    expected = [
        naive_sample(decoder, picture, prompt, draws=draws.tolist(), penalty=penalty, **settings)
        for picture, draws in zip(features(), uniforms, strict=True)
    ]
    assert len(set(map(tuple, expected))) > 2
    settings |= {"repetition_penalty": penalty, "prompt": prompt, "max_tokens": MAX_TOKENS}
    for chosen in (slice(None), slice(4, 6)):
        memory = decoder.prepare(features()[chosen])
        assert rows(sample(decoder, memory, uniforms=uniforms[chosen], **settings)) == expected[chosen]


@torch.no_grad()
def test_one_word_of_top_k_and_a_low_temperature_are_greedy() -> None:
    decoder = make("gru")
    memory = decoder.prepare(features())
    expected = greedy(decoder, memory, pictures=PICTURES, prompt=(), max_tokens=MAX_TOKENS, device=CPU)
    uniforms = torch.full((PICTURES, MAX_TOKENS), 0.999, dtype=torch.float64)
    for top_k, temperature in ((1, 1.0), (0, 1e-3)):
        found = sample(
            decoder, memory, uniforms=uniforms, prompt=(), top_k=top_k, temperature=temperature, max_tokens=MAX_TOKENS
        )
        assert torch.equal(found, expected)


class FixedLogits:
    """A decoder that knows one distribution, whatever came before."""

    def __init__(self, logits: list[float]) -> None:
        self.logits = torch.tensor(logits, dtype=torch.float64)

    def start(self, memory: Any) -> None:
        return None

    def step(self, tokens: Tensor, state: None) -> tuple[Tensor, None]:
        return self.logits.expand(*tokens.shape, -1), None

    def reorder(self, state: None, source: Tensor) -> None:
        return None


def test_forbidden_words_are_never_generated_however_likely() -> None:
    decoder = FixedLogits([99.0, 99.0, 0.0, 99.0, 99.0, 1.0, 0.5])
    uniforms = torch.rand(50, 6, generator=torch.Generator().manual_seed(3))
    settings: Any = {"prompt": (), "max_tokens": 6}
    found = [
        *rows(greedy(decoder, None, pictures=1, device=CPU, **settings)),
        *rows(beam(decoder, None, pictures=1, beam_width=3, length_penalty=1.0, device=CPU, **settings)),
        *rows(sample(decoder, None, uniforms=uniforms, top_k=0, temperature=1.0, **settings)),
    ]
    assert {word for row in found for word in row} == {END, 5, 6}


def test_samples_have_the_frequencies_of_the_softmax() -> None:
    logits = [0.0, 0.0, 0.3, 0.0, 0.0, 1.0, -0.5]
    uniforms = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(4))
    found = sample(FixedLogits(logits), None, uniforms=uniforms, prompt=(), top_k=0, temperature=0.5, max_tokens=1)
    weights = {word: math.exp(logits[word] / 0.5) for word in (END, 5, 6)}
    for word, weight in weights.items():
        share = weight / sum(weights.values())
        # Four standard deviations of a count.
        assert abs((found == word).double().mean().item() - share) < 4 * math.sqrt(share * (1 - share) / len(found))


def test_a_length_penalty_prefers_longer_captions() -> None:
    decoder = FixedLogits([0.0, 0.0, 1.0, 0.0, 0.0, 0.9])
    lengths = [
        (
            beam(decoder, None, pictures=1, beam_width=5, length_penalty=p, prompt=(), max_tokens=4, device=CPU)
            != PADDING
        )
        .sum()
        .item()
        for p in (0.0, 3.0)
    ]
    assert lengths == [1, 4]


def test_a_vocabulary_smaller_than_the_beam() -> None:
    decoder = FixedLogits([0.0, 0.0, -3.0, 0.0, 0.0, 2.0])
    found = beam(decoder, None, pictures=2, beam_width=50, length_penalty=1.0, prompt=(5,), max_tokens=5, device=CPU)
    assert rows(found) == [[5, 5, 5, 5, 5]] * 2


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize(("top_k", "temperature"), [(0, 1.0), (3, 2.0)])
def test_the_nucleus_is_that_of_transformers(top_p: float, top_k: int, temperature: float) -> None:
    logits = [-math.inf, -math.inf, 0.1, -math.inf, -math.inf, 1.0, -0.5, 0.7, -3.0, 0.2]
    warp = warpers(top_k=top_k, top_p=top_p, temperature=temperature)
    kept = warp(torch.zeros(1, 0), torch.tensor([logits])).softmax(-1)[0]
    uniforms = torch.linspace(0, 1, 2001)[:-1, None]
    settings: Any = {"prompt": (), "top_k": top_k, "top_p": top_p, "temperature": temperature, "max_tokens": 1}
    found = sample(FixedLogits(logits), None, uniforms=uniforms, **settings).flatten()
    torch.testing.assert_close(found.bincount(minlength=10) / 2000, kept, atol=1e-3, rtol=0)


def test_a_repetition_penalty_makes_words_differ() -> None:
    decoder = FixedLogits([0.0, 0.0, -3.0, 0.0, 0.0, 2.0, 1.9, -0.1])
    settings: Any = {"pictures": 2, "prompt": (5,), "max_tokens": 4, "device": CPU}
    # By hand: 2 / 1.5 < 1.9, and once both are there 2 / 1.5 > 1.9 / 1.5.
    assert greedy(decoder, None, repetition_penalty=1.5, **settings).tolist() == [[5, 6, 5, 5]] * 2
    assert greedy(decoder, None, **settings).tolist() == [[5, 5, 5, 5]] * 2
    below_zero = FixedLogits([0.0, 0.0, -9.0, 0.0, 0.0, -1.0, -1.1])
    # -1 * 1.5 < -1.1, and then -1 * 1.5 > -1.1 * 1.5.
    assert greedy(below_zero, None, repetition_penalty=1.5, **settings).tolist() == [[5, 6, 5, 5]] * 2
