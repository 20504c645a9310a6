"""Files of somebody else's captioner: its small texts as one asset, and the processor and the model made of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from trainables.parts.hub import CONFIG, load_foreign, outline_foreign
from vltune.errors import BadInput, nearest

CAPTIONER = "captioner.json"
"""The asset that holds a model's configuration, processor and tokenizer: file name -> text."""

_ENDINGS = (".json", ".jinja", ".txt")
_LEFT_OUT = (".safetensors.index.json", "README.txt", "LICENSE.txt")
_WORDS = ("tokenizer.json", "vocab.txt", "vocab.json")
"""Files one of which holds the words of a tokenizer."""
_UNUSED = ("encoder.pooler.",)
"""Layers above the picture encoder that a caption never needs; many files come without them."""
_LARGEST = 1024
"""Side of the largest pictures that a processor may ask for without being told, in pixels."""


def read_files(folder: Path) -> str:
    """The texts that lie with a model's weights, as one.

    Raises:
        BadInput: the folder holds a model that writes no text about pictures, or no tokenizer.
    """
    files = [f for f in sorted(folder.iterdir()) if f.name.endswith(_ENDINGS) and not f.name.endswith(_LEFT_OUT)]
    try:
        texts = {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}
        kind = json.loads(texts[CONFIG]).get("model_type", "")
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"{folder}: its {CONFIG} or another text file cannot be read ({error}).") from error
    _check_kind(kind, folder)
    if texts.keys().isdisjoint(_WORDS):
        # The library would take a tokenizer without words for it.
        raise BadInput(f"{folder} has no {_WORDS[0]}; save the model's fast tokenizer there.")
    return json.dumps(texts, ensure_ascii=False)


def _check_kind(kind: str, folder: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES  # slow to import

    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise BadInput(
            f"{folder} holds a model of the type {kind!r}, which writes no text about pictures"
            f"{nearest(kind, ('blip', 'blip-2', 'florence2', 'git', 'llava', 'paligemma', 'vision-encoder-decoder'))}"
        )


def read_processor(texts: str) -> Any:
    """What prepares pictures and prompts for a model: ``image_processor``, ``tokenizer``, and a call for both.

    Models that were put together from two (a Vision Transformer with GPT-2) have no processor for both: the call is
    missing then.

    Raises:
        BadInput: the files are of no processor.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer  # slow to import

    with TemporaryDirectory() as folder:
        for name, text in json.loads(texts).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:  # anything: the files are as people left them
            processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            if getattr(processor, "image_processor", None) is None:
                pictures = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
                words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                processor = SimpleNamespace(image_processor=pictures, tokenizer=words)
        except Exception as error:
            line = " ".join(str(error).split())[:160]
            raise BadInput(f"captioner_model: its processor or tokenizer cannot be read ({line}).") from error
    return processor


def build_model(texts: str, folder: Path | None) -> nn.Module:
    """The model, in single precision and in evaluation mode.

    Args:
        texts: as ``read_files`` gives them.
        folder: where its weights are; None: random weights, to be replaced by those of a checkpoint.

    Raises:
        BadInput: the weights are of another architecture than the configuration says.
    """
    from transformers import AutoModelForImageTextToText  # slow to import

    if folder is not None:
        return _plainly(load_foreign(AutoModelForImageTextToText, folder, unused=_UNUSED))
    return _plainly(_from_texts(texts))


def outline_model(texts: str, folder: Path | None) -> nn.Module:
    """The same model without its weights, on the ``meta`` device: enough to know what it can be asked.

    Args:
        texts: as ``read_files`` gives them.
        folder: where its weights are, of which names and shapes are checked; None: nothing is.

    Raises:
        BadInput: the weights are of another architecture than the configuration says.
    """
    from transformers import AutoModelForImageTextToText  # slow to import

    if folder is not None:
        model = outline_foreign(AutoModelForImageTextToText, folder, unused=_UNUSED)
        return _plainly(_with_settings(model, texts))
    with torch.device("meta"):
        return _plainly(_from_texts(texts))


def _from_texts(texts: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageTextToText  # slow to import

    fields = json.loads(json.loads(texts)[CONFIG])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    return _with_settings(model.eval(), texts)


def _with_settings(model: Any, texts: str) -> nn.Module:
    """The model with its own settings of ``generate``."""
    from transformers import GenerationConfig  # slow to import

    files: Mapping[str, str] = json.loads(texts)
    if "generation_config.json" in files:
        model.generation_config = GenerationConfig.from_dict(json.loads(files["generation_config.json"]))
    return model


def _plainly(model: nn.Module) -> nn.Module:
    """Drops settings of ``generate`` of which every call would warn, because we give them anew."""
    for module in model.modules():
        settings: Any = getattr(module, "generation_config", None)
        if settings is not None:
            settings.max_length = None
            ends = settings.eos_token_id
            if settings.pad_token_id is None and ends is not None:
                settings.pad_token_id = ends[0] if isinstance(ends, list) else ends
    return model


def picture_side(processor: Any, asked: int) -> int:
    """Side of the square pictures that a processor is given, in pixels.

    Args:
        processor: as ``read_processor`` gives it.
        asked: what the configuration says; 0: what the processor resizes to.

    Raises:
        BadInput: the processor has no size of its own.
    """
    if asked:
        return asked
    size = dict(processor.image_processor.size or {})
    sides = [size.get(key) or 0 for key in ("height", "width", "shortest_edge", "longest_edge")]
    side = max(sides[:2]) or next(filter(None, sides[2:]), 0)
    if not 0 < side <= _LARGEST:
        raise BadInput("picture_size=0: the model takes pictures of many sizes; set picture_size, such as 384.")
    return side


def crops(processor: Any) -> bool:
    """Whether a processor looks at the middle of a picture alone, where we show it the whole, squeezed to a square."""
    return bool(getattr(processor.image_processor, "do_center_crop", False))


def processed(
    processor: Any, pictures: UInt8[Tensor, "pictures height width 3"], *, taken: tuple[str, ...], dtype: torch.dtype
) -> dict[str, Tensor]:
    """What the model's own processor makes of pictures, on their device: resized, rescaled and normalised as it does.

    Args:
        processor: as ``read_processor`` gives it.
        pictures: as bytes.
        taken: what the model takes; some processors give more.
        dtype: of the model's weights.
    """
    given = processor.image_processor(images=[*pictures.permute(0, 3, 1, 2)], return_tensors="pt")
    tensors = {key: value for key, value in given.items() if key in taken and isinstance(value, Tensor)}
    moved = {key: value.to(pictures.device) for key, value in tensors.items()}
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in moved.items()}
