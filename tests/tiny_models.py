"""CLIP, SigLIP and GPT-2 of a few thousand weights, made with transformers and written as the hub has them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

SENTENCES = tuple(
    f"a {colour} {thing} {does}"
    for colour in ("red", "green", "blue", "white")
    for thing in ("dog", "cat", "ball", "house")
    for does in ("on the grass", "in the snow", "that runs", "of wood")
)
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}

ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 32}
"""A text encoder's special tokens and its longest text."""


def byte_pairs(special: list[str], texts: Iterable[str] = SENTENCES) -> Any:
    """A byte-level tokenizer of 300 tokens, of GPT-2's and CLIP's kind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def clip(folder: Path) -> Path:
    """A CLIP with pictures of 16 pixels and vectors of 12 numbers."""
    from tokenizers import processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    tokenizer = byte_pairs(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    named = {"bos_token": "<|startoftext|>", **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 32}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=SMALL | ends | {"vocab_size": 300, "projection_dim": 12},
        vision_config=SMALL | {"image_size": 16, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    """A SigLIP with pictures of 16 pixels, vectors of 16 numbers, and a tokenizer that says nothing of padding."""
    return _siglip(folder, model_input_names=["input_ids"])


def siglip2(folder: Path) -> Path:
    """A SigLIP 2 of a fixed resolution: the same classes, with a tokenizer of Gemma's kind, which gives a mask."""
    return _siglip(folder, padding_side="right")


def _siglip(folder: Path, **tokenizer: Any) -> Path:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    _with_end(folder, **tokenizer)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=SMALL | ENDS | {"vocab_size": 300, "projection_size": 16},
        vision_config=SMALL | {"image_size": 16, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    return folder


def siglip2_naflex(folder: Path) -> Path:
    """A SigLIP 2 that takes pictures of any size."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    _with_end(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=4).save_pretrained(folder)
    config = Siglip2Config(
        text_config=SMALL | ENDS | {"vocab_size": 300, "projection_size": 16},
        vision_config=SMALL | {"patch_size": 8, "num_patches": 4},
    )
    Siglip2Model(config).save_pretrained(folder)
    return folder


def _with_end(folder: Path, **named: Any) -> None:
    """A tokenizer that puts an end behind each text."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_pairs(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens, **named).save_pretrained(folder)


def gpt2(folder: Path) -> Path:
    """A GPT-2 of two layers that reads 32 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_pairs([end]), eos_token=end, bos_token=end)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.2}
    config = GPT2Config(vocab_size=300, bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
