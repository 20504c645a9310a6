"""The metrics of captions that a configuration asks for beside the usual ones."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trainables.parts.bert_scores import score_bert
from trainables.parts.clip_scores import score_clip
from trainables.parts.diversity import score_diversity, score_samples
from trainables.parts.glove import score_glove
from trainables.parts.scoring_fields import ScoringConfig, asks_for
from trainables.parts.sentences import score_similarity
from vltune.contract import Record, Resample, Scores


class Captioned(NamedTuple):
    """What further metrics are computed from."""

    config: ScoringConfig
    ids: list[str]
    captions: list[str]
    references: list[Sequence[str]]
    records: Sequence[Record]
    cache: str


def meteor(given: Captioned) -> Scores:
    """METEOR."""
    from trainables.parts.meteor import score_meteor  # starts Java

    return score_meteor(given.captions, given.references, cache=given.cache)


def spice(given: Captioned) -> Scores:
    """SPICE."""
    from trainables.parts.spice import score_spice  # starts Java

    return score_spice(given.captions, given.references, folder=given.config.spice_folder, cache=given.cache)


def similarity(given: Captioned) -> Scores:
    """Cosines of sentence embeddings."""
    config = given.config
    model = {"model": config.sentence_model, "model_hash": config.sentence_model_hash}
    return score_similarity(given.captions, given.references, **model, cache=given.cache)


def glove(given: Captioned) -> Scores:
    """Cosines of mean word vectors."""
    file = {"file": given.config.glove_file, "recorded": given.config.glove_file_hash}
    return score_glove(given.captions, given.references, **file, cache=given.cache)


def bert_score(given: Captioned) -> Scores:
    """BERTScore."""
    config = given.config
    model = {"model": config.bert_model, "model_hash": config.bert_model_hash, "layer": config.bert_layer}
    return score_bert(given.captions, given.references, **model, cache=given.cache)


def clip_score(given: Captioned) -> Scores:
    """CLIPScore, without and with references."""
    config = given.config
    data = {"ids": given.ids, "data": config.data, "data_hash": config.data_hash}
    model = {"model": config.clip_model, "model_hash": config.clip_model_hash}
    return score_clip(given.captions, given.references, **data, **model, cache=given.cache)


def diversity(given: Captioned) -> Scores:
    """How much all captions differ."""
    return score_diversity(given.captions)


def samples(given: Captioned) -> Scores:
    """Several captions of each picture."""
    config = given.config
    drawn = [record["samples"] for record in given.records]
    model = {"model": config.sentence_model, "model_hash": config.sentence_model_hash}
    return score_samples(drawn, given.references, **model, cache=given.cache)


def with_further(scores: Scores, records: Sequence[Record], config: ScoringConfig, *, cache: str) -> Scores:
    """Scores together with those that a configuration asks for.

    Args:
        scores: the usual ones of a split.
        records: of all its pictures: ``id``, ``caption``, ``references`` and, where these are asked for, ``samples``.
        config: what is asked for.
        cache: folder in which what belongs to the split stays; empty: nowhere.

    Raises:
        NotFound: a model or a file is not there.
        BadInput: it is another one than was recorded.
        TrainingFailure: a program that scores does not run.
    """
    asked = [score for name, score in FURTHER_SCORES.items() if asks_for(config, name)]
    if not asked:
        return scores
    given = Captioned(
        config=config,
        ids=[record["id"] for record in records],
        captions=[record["caption"] for record in records],
        references=[record["references"] for record in records],
        records=records,
        cache=cache,
    )
    found = [scores, *(score(given) for score in asked)]
    metrics = {name: value for some in found for name, value in some.metrics.items()}
    each = [{k: v for own in rows for k, v in own.items()} for rows in zip(*(s.records for s in found), strict=True)]
    return Scores(metrics, each, _together([some.resample for some in found if some.resample is not None]))


def _together(drawings: Sequence[Resample]) -> Resample | None:
    def drawn(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values for draw in drawings for name, values in draw(counts).items()}

    return drawn if drawings else None


FURTHER_SCORES: dict[str, Callable[[Captioned], Scores]] = {
    f.__name__: f for f in (meteor, spice, similarity, glove, bert_score, clip_score, diversity, samples)
}
"""What ``further_metrics`` may name, in the order of ``scoring_fields.FURTHER``."""
