"""The searches that come with vltune: one file each, and this table of them."""

from search_spaces import captioning_architectures, captioning_losses, captioning_overfit, captioning_rnn, quickstart

SEARCHES = {
    search.name: search
    for search in (
        quickstart.SEARCH,
        captioning_architectures.SEARCH,
        captioning_losses.SEARCH,
        captioning_rnn.SEARCH,
        captioning_overfit.SEARCH,
    )
}
"""Every search by its name."""
