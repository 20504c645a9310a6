"""Where foreign captioners look, by what their own layers of attention give."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_captioners import SIZE, write_captioner

from trainables.parts.captioner_files import build_model, read_files, read_processor
from trainables.parts.vision_language import Asked, Captioner, ask, caption_tokens, encode, picture_attention

torch.set_num_threads(1)
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8))


def opened(kind: str, folder: Path) -> tuple[Captioner, Asked]:
    texts = read_files(Path(write_captioner(kind, folder)))
    captioner = Captioner(build_model(texts, folder).eval(), read_processor(texts))
    return captioner, ask(captioner, "", picture_size=SIZE, max_tokens=8)


@torch.no_grad()
def test_weights_are_those_of_the_last_layer_that_looks(tmp_path: Path) -> None:
    captioner, asked = opened("blip", tmp_path)
    rows = caption_tokens(captioner, asked, ["a red dog"], max_tokens=8)
    kept: list[Any] = []
    *_, last = (m for n, m in captioner.model.named_modules() if n.endswith("crossattention.self"))
    hook = last.register_forward_hook(lambda *given: kept.append(given[-1][1]))
    owners, tokens = torch.tensor([1]), torch.tensor(rows)
    found = picture_attention(captioner, asked, seen=encode(captioner, PICTURES), owners=owners, tokens=tokens)
    hook.remove()
    assert found is not None
    patches = kept[0].shape[-1] - 1
    assert found.shape == (1, len(rows[0]), patches)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, len(rows[0])))
    wanted = kept[0].mean(1)[:, len(asked.prefix) - 1 :, 1:]
    torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True))
