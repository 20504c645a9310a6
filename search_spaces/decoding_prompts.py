"""Which words should a captioner be made to begin with, when its captions are sampled?

Nothing is trained. The first four rows are the prompt-engineering table of the caption-sampling study (four prompts at
top-k 50 and temperature 0.7), the others its joint search over prompt, top-k and temperature; the search goes on over
all three. The prompt does not count when captions are scored (``score_prompt``).

A captioner with a vocabulary of words must know the prompt's words: a row whose words it has never read fails and says
so. One with byte-pair tokens (``tokens=byte_pair``) takes any prompt.
"""

from typing import Any

from trainables.decoding import Decoding, DecodingTrialConfig
from vltune.contract import Search

PROMPTS = ("a picture of", "an image of", "a depiction of", "a figure of")


def define(trial: Any) -> DecodingTrialConfig:
    """A prompt, and how boldly to go on from it."""
    return DecodingTrialConfig(
        decoding="sample",
        prompt=trial.suggest_categorical("prompt", PROMPTS),
        top_k=trial.suggest_categorical("top_k", (10, 25, 50, 75, 100)),
        temperature=trial.suggest_categorical("temperature", (0.3, 0.5, 0.7, 1.0)),
    )


_TABLE = (
    (50, 0.7, "a picture of"),
    (50, 0.7, "an image of"),
    (50, 0.7, "a depiction of"),
    (50, 0.7, "a figure of"),
    (100, 0.5, "an image of"),
    (25, 0.3, "a depiction of"),
    (10, 1.0, "a figure of"),
    (75, 1.0, "a figure of"),
    (100, 0.3, "an image of"),
)

SEARCH = Search(
    name="decoding_prompts",
    family=Decoding,
    define=define,
    objective="bleu_4",
    num_trials=40,
    rows={
        f"{prompt}, top-k {top_k}, temperature {temperature}": {
            "prompt": prompt,
            "top_k": top_k,
            "temperature": temperature,
        }
        for top_k, temperature, prompt in _TABLE
    },
    base_row="a picture of, top-k 50, temperature 0.7",
    group_by="prompt",
    columns=("bleu_1", "bleu_4", "cider", "caption_length", "distinct_captions"),
    note="The study does not say which BLEU its scores are; here the objective is BLEU-4.",
)
