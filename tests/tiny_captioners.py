"""Image-text models of a few thousand weights, made with transformers' own classes and saved as the hub has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZE = 16
"""Side of the pictures that all of them see, in pixels."""
SPREAD = 0.3
"""Deviation of the weights: larger than at a model's birth, or all tokens would be as likely as each other whatever the
picture."""
SENTENCES = tuple(
    f"a {colour} {thing} {does}"
    for colour in ("red", "green", "blue", "white")
    for thing in ("dog", "cat", "ball", "house")
    for does in ("on the grass", "in the snow", "that runs", "of wood", "and nothing else", "caption en")
)
CHAT = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT: ' }}{% endif %}"
)
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 8,
    "initializer_range": 0.3,
}
TEXT: dict[str, Any] = {**VISION, "max_position_embeddings": 64, "initializer_range": 0.3}
for _name in ("image_size", "patch_size"):
    TEXT.pop(_name)


def byte_pairs(special: list[str], **named: str) -> Any:
    """A byte-level tokenizer, as GPT-2, OPT, BART and their kin have it, learnt from the sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def with_ends(tokenizer: Any, first: str, last: str) -> Any:
    """The same, putting its special tokens around every text."""
    from tokenizers import processors

    around = f"{first} $A {last}".strip()
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys((first, last)) if token]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    return tokenizer


def word_pieces(extra: list[str]) -> Any:
    """A tokenizer of BERT's kind, as BLIP and GIT have it."""
    from transformers import BertTokenizer

    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    letters = [letter for c in "abcdefghijklmnopqrstuvwxyz<>" for letter in (c, f"##{c}")]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *extra]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *words, *letters]))}
    return BertTokenizer(vocab=vocabulary, extra_special_tokens=extra)


def blip(folder: Path) -> None:
    """Vision Transformer, and a BERT that looks at it."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = word_pieces(["[DEC]", "[ENC]"])
    ids = tokenizer.convert_tokens_to_ids
    text = TEXT | {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": ids("[DEC]"), "projection_dim": 8}
    text |= {"sep_token_id": ids("[SEP]"), "eos_token_id": ids("[CLS]"), "is_decoder": True}
    text["encoder_hidden_size"] = VISION["hidden_size"]
    config = BlipConfig(text_config=text, vision_config=VISION, projection_dim=8, image_text_hidden_size=8)
    square = {"height": SIZE, "width": SIZE}
    _write(folder, BlipForConditionalGeneration(config), BlipProcessor(BlipImageProcessor(size=square), tokenizer))


def _blip_2(folder: Path, text: Any, tokenizer: Any) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    processor = Blip2Processor(BlipImageProcessor(size={"height": SIZE, "width": SIZE}), tokenizer, num_query_tokens=3)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=TEXT | {"encoder_hidden_size": 16, "vocab_size": 8},
        text_config=text,
        num_query_tokens=3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    _write(folder, Blip2ForConditionalGeneration(config), processor)


def blip_2(folder: Path) -> None:
    """A frozen picture encoder, a Q-Former, and OPT, whose captions end at a line's end."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    named = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = with_ends(byte_pairs(special, **named), "</s>", "")
    (line,) = tokenizer("\n", add_special_tokens=False).input_ids
    text = {"model_type": "opt", "vocab_size": len(tokenizer), "ffn_dim": 32, "word_embed_proj_dim": 16}
    text |= {"bos_token_id": 2, "eos_token_id": line, "pad_token_id": 1, "init_std": 0.3}
    _blip_2(folder, TEXT | text, tokenizer)


def blip_2_t5(folder: Path) -> None:
    """The same with T5, which has an encoder of its own."""
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = with_ends(byte_pairs(["<pad>", "</s>", "<unk>", "<image>"], **named), "", "</s>")
    text = {"model_type": "t5", "vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2}
    text |= {"num_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    _blip_2(folder, text, tokenizer)


def git(folder: Path) -> None:
    """One Transformer over the picture's positions and the words; its processor crops the middle."""
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    tokenizer = word_pieces([])
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = GitConfig(vision_config=VISION, vocab_size=len(tokenizer), **TEXT, **ends)
    crop = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=crop)
    _write(folder, GitForCausalLM(config), GitProcessor(pictures, tokenizer))


def florence2(folder: Path) -> None:
    """DaViT and BART, asked by a task's name."""
    from transformers import CLIPImageProcessor, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor

    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = byte_pairs(special, **named, extra_special_tokens={"image_token": "<image>"})
    tokenizer = with_ends(tokenizer, "<s>", "</s>")
    square = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessor(size=square, crop_size=square, do_center_crop=False, image_seq_length=5)
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "max_position_embeddings": 64}
    for half in ("encoder", "decoder"):
        text |= {f"{half}_layers": 2, f"{half}_attention_heads": 2, f"{half}_ffn_dim": 32}
    text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "init_std": 0.3}
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1]}
    vision |= {"patch_prenorm": [False, True], "embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision |= {"window_size": 2, "projection_dim": 16, "initializer_range": 0.3, "drop_path_rate": 0.0}
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=4)
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.update(
        forced_bos_token_id=0, decoder_start_token_id=2, bos_token_id=0, eos_token_id=2, pad_token_id=1, num_beams=3
    )
    _write(folder, model, Florence2Processor(pictures, tokenizer))


def paligemma(folder: Path) -> None:
    """SigLIP and Gemma; picture and prompt see each other, a caption sees what is before it."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = byte_pairs(special, **named)
    pictures = SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, image_seq_length=4)
    processor = PaliGemmaProcessor(pictures, tokenizer)
    vision = VISION | {"model_type": "siglip_vision_model", "projection_dim": 16, "vision_use_head": False}
    text = TEXT | {"model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 8, "num_key_value_heads": 1}
    text |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        projection_dim=16,
        hidden_size=16,
    )
    model = PaliGemmaForConditionalGeneration(config)
    model.generation_config.update(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    _write(folder, model, processor)


def vit_gpt2(folder: Path) -> None:
    """A Vision Transformer and GPT-2, which has no special tokens but the end of a text."""
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    end = "<|endoftext|>"
    tokenizer = byte_pairs([end], bos_token=end, eos_token=end, unk_token=end)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {"n_embd": TEXT["hidden_size"], "n_layer": TEXT["num_hidden_layers"], "n_head": TEXT["num_attention_heads"]}
    sizes["n_positions"] = TEXT["max_position_embeddings"]
    text = GPT2Config(vocab_size=len(tokenizer), **sizes, **ends, is_decoder=True, add_cross_attention=True)
    config = VisionEncoderDecoderConfig(encoder=ViTConfig(**VISION).to_dict(), decoder=text.to_dict())
    config.update(ends | {"decoder_start_token_id": 0})
    model = VisionEncoderDecoderModel(config)
    model.generation_config.update(**ends, decoder_start_token_id=0)
    _write(folder, model, None)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def llava(folder: Path) -> None:
    """CLIP and Llama with a chat template: a model that the table of kinds does not name."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = with_ends(byte_pairs(special, **named), "<s>", "")
    pictures = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )
    vision = VISION | {"model_type": "clip_vision_model", "projection_dim": 16}
    text = TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "num_key_value_heads": 2}
    text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-2)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    _write(folder, model, processor)


def _write(folder: Path, model: Any, processor: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, SPREAD)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (blip, blip_2, blip_2_t5, git, florence2, paligemma, vit_gpt2, llava)
}


def write_captioner(kind: str, folder: Path) -> str:
    """A model of one kind, with the same weights each time; returns its folder."""
    torch.manual_seed(0)
    KINDS[kind](folder)
    return str(folder)
