"""Scheduled sampling: in training a decoder reads some words of its own in place of the caption's."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from trainables.parts.decoder import Decoder
from trainables.parts.text import END, NEVER_GENERATED, PADDING
from vltune.contract import Draws


def draw_replaced(
    tokens: Int64[Tensor, "samples captions tokens"], ids: Sequence[str], draws: Draws, *, probability: float
) -> Int64[Tensor, " replaced"]:
    """Which of the words that a decoder reads are to be its own: places in the flattened ``tokens[:, :, :-1]``.

    The start is never among them, nor what stands behind the last word.

    Args:
        tokens: captions with start and end.
        ids: the samples; what is drawn for one does not depend on the others.
        draws: of the epoch.
        probability: of each word, in [0, 1].
    """
    words = tokens[:, :, 1:] != PADDING
    words[:, :, 0] = False
    chosen = [torch.empty(0, dtype=torch.int64)]
    for number, (sample, of_sample) in enumerate(zip(ids, words.flatten(1), strict=True)):
        places = of_sample.nonzero().squeeze(1)
        drawn = draws.generator(sample, "scheduled_sampling").random(len(places)) < probability
        chosen.append(places[torch.from_numpy(drawn)] + number * len(of_sample))
    return torch.cat(chosen)


@torch.no_grad()
def with_own_words(
    decoder: Decoder,
    memory: Any,
    inputs: Int[Tensor, "samples captions inputs"],
    replaced: Int64[Tensor, " replaced"],
) -> Int[Tensor, "samples captions inputs"]:
    """What the decoder reads, with its own likeliest words at some places.

    After Bengio et al. (https://arxiv.org/abs/1506.03099), in the two passes of Mihaylova & Martins
    (https://arxiv.org/abs/1906.07651), for recurrent decoders too: a first pass over the caption as it is finds all
    words at once, so that a word stands on the caption's words before it, not on others that were replaced. Unlike
    there, the first pass is without the decoder's dropout, and finds only words that generation would go on from.
    """
    mode = decoder.training
    decoder.eval()
    before = decoder.hidden(memory, inputs).flatten(0, 2)[replaced - 1]
    stopping = torch.tensor((*NEVER_GENERATED, END), device=inputs.device)
    own = decoder.words(before).index_fill(-1, stopping, -torch.inf).argmax(-1)
    decoder.train(mode)
    return inputs.flatten().index_copy(0, replaced, own.to(inputs.dtype)).view_as(inputs)
