"""How should a captioner that is trained write its captions: greedily, with a beam, or by sampling, and how boldly?

Nothing is trained: each trial lets the same promoted captioner (``captioner``, of any family) caption the validation
pictures with other settings, so that hundreds of trials take minutes. The rows are the settings of the caption-sampling
study (greedy, and top-k with four temperatures) and the beams that published captioners use; the study's table over
prompts is the search ``decoding_prompts``.
"""

from typing import Any

from trainables.decoding import Decoding, DecodingTrialConfig
from vltune.contract import Search


def define(trial: Any) -> DecodingTrialConfig:
    """A strategy and its own settings."""
    decoding = trial.suggest_categorical("decoding", ("sample", "beam", "greedy"))
    beam_width, length_penalty, top_k, top_p, temperature = 3, 1.0, 0, 1.0, 1.0
    if decoding == "beam":
        beam_width = trial.suggest_int("beam_width", 2, 8)
        length_penalty = trial.suggest_float("length_penalty", 0.0, 2.0)
    if decoding == "sample":
        top_k = trial.suggest_categorical("top_k", (10, 25, 50, 75, 100))
        top_p = trial.suggest_float("top_p", 0.5, 1.0)
        temperature = trial.suggest_float("temperature", 0.1, 1.0)
    return DecodingTrialConfig(
        decoding=decoding,
        beam_width=beam_width,
        length_penalty=length_penalty,
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        repetition_penalty=trial.suggest_float("repetition_penalty", 1.0, 1.5),
    )


def _sampled(top_k: int, temperature: float) -> dict[str, Any]:
    settings = {"decoding": "sample", "top_k": top_k, "temperature": temperature, "top_p": 1.0}
    return {**settings, "repetition_penalty": 1.0}


def _beam(width: int, length_penalty: float = 1.0) -> dict[str, Any]:
    return {"decoding": "beam", "beam_width": width, "length_penalty": length_penalty, "repetition_penalty": 1.0}


SEARCH = Search(
    name="decoding",
    family=Decoding,
    define=define,
    objective="cider",
    num_trials=200,
    rows={
        "greedy": {"decoding": "greedy", "repetition_penalty": 1.0},
        "beam of 3": _beam(3),
        "beam of 5": _beam(5),
        "top-k 50, temperature 1.0": _sampled(50, 1.0),
        "top-k 50, temperature 0.7": _sampled(50, 0.7),
        "top-k 50, temperature 0.5": _sampled(50, 0.5),
        "top-k 50, temperature 0.3": _sampled(50, 0.3),
        "top-k 10, temperature 1.0": _sampled(10, 1.0),
        "top-k 100, temperature 0.3": _sampled(100, 0.3),
    },
    base_row="greedy",
    group_by="decoding",
    columns=("cider", "bleu_4", "rouge_l", "caption_length", "distinct_captions"),
    note="All rows are one captioner; sampled captions are drawn once for each picture, with the search's seed.",
)
