import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import AWKWARD, peer_tokens, real_pictures
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from trainables.parts import metrics
from trainables.parts import references as split
from trainables.parts.metrics import score_captions, token_metrics
from vltune.errors import BadInput

WORDS = ("a", "the", "dog", "cat", "red", "blue", "ball", "runs", "on", "in", "of", "grass")


def peers(captions, references):
    """pycocoevalcap on texts that are tokens already."""
    result, reference = {}, {}
    for index, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        result[index], reference[index] = [caption], list(texts)
    bleu, bleus = Bleu(4).compute_score(reference, result, verbose=0)
    cider, ciders = Cider().compute_score(reference, result)
    rouge, rouges = Rouge().compute_score(reference, result)
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider", "rouge_l")
    whole = dict(zip(names, [*bleu, cider, rouge], strict=True))
    return whole, [dict(zip(names, row, strict=True)) for row in zip(*bleus, ciders, rouges, strict=True)]


def assert_equal_to_peers(captions, references):
    whole, each = score_captions(captions, references)
    expected, rows = peers(captions, references)
    for name, value in expected.items():
        assert whole[name] == pytest.approx(value, abs=1e-9), name
    for ours, theirs in zip(each, rows, strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-9), name


texts = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts.filter(bool), min_size=1, max_size=4)), min_size=1, max_size=6))
def test_equal_to_pycocoevalcap(pairs):
    assert_equal_to_peers([caption for caption, _ in pairs], [references for _, references in pairs])


def test_equal_to_pycocoevalcap_on_a_split_of_realistic_size():
    rng = random.Random(0)
    vocabulary = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    sentence = lambda low: " ".join(rng.choices(vocabulary[:40] + vocabulary, k=rng.randint(low, 15)))  # noqa: E731
    references = [[sentence(3) for _ in range(rng.randint(1, 6))] for _ in range(150)]
    captions = [rng.choice([rng.choice(group), sentence(0), "unseenword " + sentence(1)]) for group in references]
    captions[3], captions[4], references[5][0] = "", " ".join(vocabulary * 2)[:900].rsplit(" ", 1)[0], ""
    assert_equal_to_peers(captions, references)


def assert_equal_to_peers_from_text(patch, captions, references):
    words = [tokens for (tokens,) in peer_tokens([[caption] for caption in captions], patch)]
    expected, rows = peers(words, peer_tokens(references, patch))
    whole, each = score_captions(captions, references)
    assert {name: whole[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for ours, theirs in zip(each, rows, strict=True):
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


@pytest.mark.integration
@pytest.mark.shared_data
def test_real_captions_equal_pycocoevalcap(shared_data, monkeypatch):
    captions, references = real_pictures(shared_data, number=150)
    assert_equal_to_peers_from_text(monkeypatch, captions, references)
    assert 0.1 < score_captions(captions, references)[0]["cider"] < 5


@pytest.mark.integration
def test_awkward_captions_equal_pycocoevalcap(monkeypatch):
    # a caption of several lines moves all that follow it to the pictures before, there: test_ptb.py has ours
    told = [row for row in AWKWARD if all(len(text.splitlines()) < 2 for text in (row[0], *row[1]))]
    assert len(told) == len(AWKWARD) - 1
    captions, references = zip(*told, strict=True)
    assert_equal_to_peers_from_text(monkeypatch, captions, references)


@pytest.mark.integration
def test_tokens_with_a_space_inside_count_as_with_pycocoevalcap():
    tokenised = ["1\u00a01/2 men", "two men"]
    whole, _ = score_captions(["1 1/2 men", "two men"], [["1 1/2 men run"], ["two men"]])
    expected, _ = peers(tokenised, [["1\u00a01/2 men run"], ["two men"]])
    assert {name: whole[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    whole, each = score_captions(["the cat sat", "a dog"], [["the cat sat down"], ["a dog", "one dog runs here"]])
    # matches 5 of 5 words, 3 of 3 pairs, 1 of 1 triple; 5 words against closest lengths 4 + 2
    brevity = math.exp(1 - 6 / 5)
    assert [whole[f"bleu_{n}"] for n in (1, 2, 3)] == pytest.approx([brevity] * 3, abs=1e-6)
    # no caption has four words: 1e-15 of 1e-9 possible, as pycocoevalcap guards itself against zero
    assert whole["bleu_4"] == pytest.approx(1e-6**0.25 * brevity, rel=1e-6)
    assert [row["rouge_l_precision"] for row in each] == [1, 1]
    assert [row["rouge_l_recall"] for row in each] == [0.75, 1]
    assert [row["rouge_l_f1"] for row in each] == pytest.approx([6 / 7, 1])
    assert whole["rouge_l_f1"] == pytest.approx((6 / 7 + 1) / 2)
    # the words of the second reference are rarer and do not match: cosine 1 with one reference, less with the other
    assert 0 < each[0]["cider"] < 10
    assert each[1]["cider"] < 10


def test_precision_and_recall_belong_to_one_reference():
    # against "a": precision 1/4, recall 1, F1 0.4; against "a b c d e f g h": 1, 1/2, 2/3
    row = score_captions(["a b c d"], [["a", "a b c d e f g h"]])[1][0]
    assert (row["rouge_l_precision"], row["rouge_l_recall"]) == (1, 0.5)
    assert row["rouge_l_f1"] == pytest.approx(2 / 3)
    assert row["rouge_l"] == pytest.approx(1)  # pycocoevalcap joins the best precision and the best recall


def test_an_empty_caption_scores_nothing():
    whole, _ = score_captions(["", ""], [["a dog"], ["a cat"]])
    assert whole == pytest.approx(dict.fromkeys(whole, 0.0), abs=1e-9)


def test_a_split_without_any_word():
    whole, each = score_captions([""], [[""]])
    assert whole["cider"] == 0
    assert whole["rouge_l_f1"] == 0
    assert len(each) == 1


@given(st.lists(texts.filter(bool), min_size=1, max_size=5), texts.filter(bool))
def test_common_subsequences_of_all_references_at_once(references, caption):
    masks, ones, spans = split._masks(references)
    expected = [my_lcs(text.split(" "), caption.split(" ")) for text in references]
    assert metrics._common(caption.split(" "), masks, ones, spans) == expected


def test_nothing_is_printed(capfd):
    score_captions(["a dog"], [["a dog runs"]])
    assert capfd.readouterr() == ("", "")


def test_values_are_plain_numbers():
    whole, each = score_captions(["a dog"], [["a dog runs"]])
    assert {type(value) for row in (whole, *each) for value in row.values()} == {float}
    summed = ("bleu_words", "bleu_nearest", "bleu_matched")
    assert {name for name in each[0] if not name.startswith(summed)} == set(whole)


def test_refusals():
    with pytest.raises(BadInput, match="no pictures"):
        score_captions([], [])
    with pytest.raises(BadInput, match="picture 1 of the split has no reference"):
        score_captions(["a", "b"], [["a"], []])


def test_token_metrics():
    assert token_metrics(20 * math.log(8), 20, 5) == pytest.approx(
        {"val_loss": math.log(8), "perplexity": 8, "token_accuracy": 0.25}
    )
    assert token_metrics(1e6, 1, 0)["perplexity"] == np.inf
