"""How good are the captioners that others have trained, as they are and fine-tuned, and what do they cost?

The rows are the pretrained models that the source documents set beside their own: BLIP, GIT and BLIP-2, Florence-2 base
as it is and fine-tuned, and PaliGemma, with their parameters and the time of one caption. The search goes on over which
model to fine-tune, whole or through low-rank adapters, at which rate, and how captions are written. The largest models
need 80 GB to be fine-tuned whole: with less, set ``finetune=lora``, or another ``captioner_model``.
"""

from typing import Any

from trainables.pretrained import Pretrained, PretrainedConfig
from vltune.contract import Search

MODELS = {
    "BLIP base": "Salesforce/blip-image-captioning-base",
    "BLIP large": "Salesforce/blip-image-captioning-large",
    "BLIP-2, OPT 2.7B": "Salesforce/blip2-opt-2.7b",
    "GIT base": "microsoft/git-base-coco",
    "Florence-2 base": "florence-community/Florence-2-base",
    "PaliGemma 3B": "google/paligemma-3b-mix-224",
}


def define(trial: Any) -> PretrainedConfig:
    """A model, how it is fine-tuned, and how it writes."""
    captioner_model = trial.suggest_categorical("captioner_model", tuple(MODELS.values()))
    finetune = trial.suggest_categorical("finetune", ("lora", "full", "none"))
    learning_rate, label_smoothing, lora_rank, lora_dropout = 2e-5, 0.0, 8, 0.0
    if finetune != "none":
        learning_rate = trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)
        label_smoothing = trial.suggest_float("label_smoothing", 0.0, 0.2)
    if finetune == "lora":
        lora_rank = trial.suggest_int("lora_rank", 2, 64, log=True)
        lora_dropout = trial.suggest_float("lora_dropout", 0.0, 0.2)

    decoding = trial.suggest_categorical("decoding", ("beam", "greedy"))
    beam_width, length_penalty = 3, 1.0
    if decoding == "beam":
        beam_width = trial.suggest_int("beam_width", 2, 6)
        length_penalty = trial.suggest_float("length_penalty", 0.0, 2.0)

    return PretrainedConfig(
        captioner_model=captioner_model,
        finetune=finetune,
        epochs=0 if finetune == "none" else 3,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        lora_rank=lora_rank,
        lora_dropout=lora_dropout,
        batch_size=32,
        micro_batch_size=8,
        precision="bf16",
        decoding=decoding,
        beam_width=beam_width,
        length_penalty=length_penalty,
        measure_latency=True,
        further_metrics="meteor,similarity",  # as captioning_rnn, beside which these rows stand
    )


_BEAM = {"decoding": "beam", "beam_width": 3, "length_penalty": 1.0}
_WHOLE = {"finetune": "full", "learning_rate": 1e-5, "label_smoothing": 0.0}

SEARCH = Search(
    name="pretrained_captioners",
    family=Pretrained,
    define=define,
    objective="cider",
    num_trials=24,
    rows={
        **{row: {"captioner_model": model, "finetune": "none", **_BEAM} for row, model in MODELS.items()},
        "Florence-2 base, fine-tuned": {"captioner_model": MODELS["Florence-2 base"], **_WHOLE, **_BEAM},
    },
    base_row="BLIP base",
    group_by="finetune",
    columns=(
        "cider",
        "bleu_1",
        "bleu_2",
        "bleu_3",
        "bleu_4",
        "rouge_l",
        "parameters",
        "trainable_parameters",
        "latency_ms",
        "peak_memory_mb",
    ),
    note="BLIP, GIT and PaliGemma have seen COCO's training captions: on COCO they are not without practice. "
    "Each model cuts words into tokens in its own way: val_loss, perplexity and token_accuracy compare within one.",
)
