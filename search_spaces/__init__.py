"""The searches that come with vltune: one file each, and this table of them."""

from search_spaces import (
    capdec_architecture,
    capdec_directed,
    capdec_noise,
    captioning_architectures,
    captioning_losses,
    captioning_overfit,
    captioning_pareto,
    captioning_pbt,
    captioning_rnn,
    correspondence,
    correspondence_transfer,
    decoding,
    decoding_prompts,
    matching,
    matching_pretrained,
    pretrained_captioners,
    pretraining_masked_word,
    pretraining_reconstruction,
    pretraining_rotation,
    quickstart,
    retrieval,
    retrieval_finetune,
)

SEARCHES = {
    search.name: search
    for search in (
        quickstart.SEARCH,
        captioning_architectures.SEARCH,
        captioning_losses.SEARCH,
        captioning_rnn.SEARCH,
        captioning_overfit.SEARCH,
        captioning_pareto.SEARCH,
        captioning_pbt.SEARCH,
        correspondence.SEARCH,
        correspondence_transfer.SEARCH,
        pretrained_captioners.SEARCH,
        retrieval.SEARCH,
        retrieval_finetune.SEARCH,
        capdec_noise.SEARCH,
        capdec_architecture.SEARCH,
        capdec_directed.SEARCH,
        decoding.SEARCH,
        decoding_prompts.SEARCH,
        pretraining_rotation.SEARCH,
        pretraining_masked_word.SEARCH,
        pretraining_reconstruction.SEARCH,
        matching.SEARCH,
        matching_pretrained.SEARCH,
    )
}
"""Every search by its name."""
