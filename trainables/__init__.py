"""The model families by name."""

from trainables.capdec import Capdec
from trainables.captioning import Captioning
from trainables.correspondence import Correspondence, CorrespondenceTransfer
from trainables.decoding import Decoding
from trainables.matching import Matching
from trainables.predictions import Predictions
from trainables.pretrained import Pretrained
from trainables.pretraining_masked_word import MaskedWord
from trainables.pretraining_reconstruction import Reconstruction
from trainables.pretraining_rotation import Rotation
from trainables.retrieval import Retrieval

FAMILIES = {
    f.name: f
    for f in (
        Captioning,
        Capdec,
        Decoding,
        Correspondence,
        CorrespondenceTransfer,
        Pretrained,
        Predictions,
        Retrieval,
        Matching,
        Rotation,
        MaskedWord,
        Reconstruction,
    )
}
