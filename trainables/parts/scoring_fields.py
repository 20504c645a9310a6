"""The fields that ask for further metrics of captions, and what each of these needs."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.parts.bert_scores import check_bert_model
from trainables.parts.embedders import processed_size
from trainables.parts.glove import glove_hash
from trainables.parts.hub import hub_source
from trainables.parts.meteor import DRAWN_WITH_METEOR
from trainables.parts.sentences import check_sentence_model
from trainables.parts.spice_files import spice_hash
from vltune.configuration import Library, TrialConfig, absolute_reference, in_range, listed
from vltune.contract import Direction
from vltune.errors import BadInput, nearest

FURTHER: dict[str, dict[str, Direction]] = {
    "meteor": {"meteor": "max"},
    "spice": {"spice": "max"},
    "similarity": {"similarity": "max"},
    "glove": {"glove_similarity": "max"},
    "bert_score": dict.fromkeys(("bert_score_precision", "bert_score_recall", "bert_score_f1"), "max"),
    "clip_score": dict.fromkeys(("clip_score", "ref_clip_score"), "max"),
    "diversity": {"self_bleu": "min", **dict.fromkeys(("distinct_1", "distinct_2", "vocabulary_used"), "max")},
    "samples": {
        "samples_similarity": "max",
        "samples_self_bleu": "min",
        **dict.fromkeys(("samples_distinct_1", "samples_distinct_2"), "max"),
    },
}
"""What ``further_metrics`` may name -> the metrics that come of it, and which way each is better."""

FURTHER_METRICS: dict[str, Direction] = {name: way for metrics in FURTHER.values() for name, way in metrics.items()}
ASKED_BY = {name: ("further_metrics", asked) for asked, metrics in FURTHER.items() for name in metrics}
"""``Family.asked_by`` of families that caption."""

_MEASURED_WITH: dict[str, tuple[str, ...]] = {
    "spice": ("spice_hash",),
    "similarity": ("sentence_model_hash",),
    "glove": ("glove_file_hash",),
    "bert_score": ("bert_model_hash", "bert_layer"),
    "clip_score": ("clip_model_hash",),
    "samples": ("samples_per_picture", "sentence_model_hash"),
}
FURTHER_MEASURED_BY = {name: fields for asked, fields in _MEASURED_WITH.items() for name in FURTHER[asked]}
"""``Family.measured_by`` of the further metrics."""

RELATIVE = frozenset({"self_bleu"})
"""``Family.relative``: what a picture's value says depends on the captions of the others."""

FURTHER_DRAWN_WITH = {
    **DRAWN_WITH_METEOR,
    "self_bleu": "the captions that each is compared to stay those of the whole split",
}
"""``Family.drawn_with`` of the further metrics."""


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(TrialConfig):
    """What is measured of captions beside the usual, and with which models and files."""

    further_metrics: str = ""
    """Names with commas between them, ``meteor,similarity``: ``meteor``, ``spice`` (needs ``spice_folder``),
    ``similarity`` of sentence embeddings, ``glove`` (needs ``glove_file``), ``bert_score``, ``clip_score``,
    ``diversity`` of all captions, and ``samples``, several sampled captions of each picture."""
    sentence_model: str = "all-MiniLM-L6-v2"
    """``similarity``, ``samples``: what embeds sentences, by the mean over their tokens: a name on the hub, or a
    folder with safetensors."""
    sentence_model_hash: str = ""
    """SHA-256 over the files of that model; filled in when the search starts, checked when it is read."""
    glove_file: str = ""
    """``glove``: vectors of words as text, a word and its numbers on each line, as GloVe
    (https://nlp.stanford.edu/projects/glove) is distributed."""
    glove_file_hash: str = ""
    """SHA-256 of that file; filled in when the search starts, checked when it is read."""
    bert_model: str = "roberta-large"
    """``bert_score``: the encoder whose vectors of tokens are matched: a name on the hub, or a folder."""
    bert_model_hash: str = ""
    """SHA-256 over the files of that model; filled in when the search starts, checked when it is read."""
    bert_layer: int = 0
    """``bert_score``: the layer whose vectors are matched; 0: what the metric's authors recommend for such a model."""
    clip_model: str = "openai/clip-vit-base-patch32"
    """``clip_score``: what embeds pictures and texts in one space: a CLIP by its name on the hub, or its folder."""
    clip_model_hash: str = ""
    """SHA-256 over the files of that model; filled in when the search starts, checked when it is read."""
    spice_folder: str = ""
    """``spice``: the folder of what SPICE (https://panderson.me/spice) needs beside itself: the jars of the Stanford
    parser with its models, and of a JavaScript engine."""
    spice_hash: str = ""
    """SHA-256 over the programs in that folder; filled in when the search starts, checked when they are used."""
    samples_per_picture: int = 5
    """``samples``: captions that are sampled of each picture, as ``top_k``, ``top_p`` and ``temperature`` say. At
    least 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = listed(self, "further_metrics")
        for name in names:
            if name not in FURTHER:
                raise BadInput(f"further_metrics={self.further_metrics!r}: {name!r} is unknown{nearest(name, FURTHER)}")
            if names.count(name) > 1:
                raise BadInput(f"further_metrics={self.further_metrics!r} names {name!r} twice; name it once.")
        for key, (asked, what) in _NEEDED.items():
            if asked in names and not getattr(self, key):
                raise BadInput(f"further_metrics={self.further_metrics!r} asks for {asked}: set {key} to {what}.")
        for key, readers in _READ_BY.items():
            default = type(self).__dataclass_fields__[key].default
            if getattr(self, key) != default and not set(readers) & set(names):
                raise BadInput(
                    f"{key}={getattr(self, key)!r} has no effect without further_metrics={' or '.join(readers)}: ask "
                    f"for that, or leave {key} at {default!r}."
                )
        in_range(self, "bert_layer", 0)
        in_range(self, "samples_per_picture", 2)

    @classmethod
    def with_absolute_paths(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the fields, with the paths of models and files made absolute; names on the hub stay."""
        models = {key: absolute_reference(fields[key]) for key in _MODELS if fields.get(key)}
        files = {
            key: str(Path(fields[key]).expanduser().absolute())
            for key in ("glove_file", "spice_folder")
            if fields.get(key)
        }
        return {**super().with_absolute_paths(fields), **models, **files}

    def find_sources(self, library: Library) -> Any:
        """The same, with the hashes of all that the further metrics need; models are downloaded if need be."""
        found: Any = super().find_sources(library)
        names, hashes = listed(self, "further_metrics"), {}
        for key, (readers, check) in _MODELS.items():
            if not set(readers) & set(names):
                continue
            folder, hashes[f"{key}_hash"] = hub_source(getattr(self, key), getattr(self, f"{key}_hash"), field=key)
            check(folder, self)
        if "glove" in names:
            hashes["glove_file_hash"] = glove_hash(self.glove_file, self.glove_file_hash)
        if "spice" in names:
            hashes["spice_hash"] = spice_hash(self.spice_folder, self.spice_hash)
        return dataclasses.replace(found, **hashes) if hashes else found


def asks_for(config: ScoringConfig, name: str) -> bool:
    """Whether a configuration asks for a group of further metrics."""
    return name in listed(config, "further_metrics")


_NEEDED = {
    "glove_file": ("glove", "a file of vectors, such as glove.6B.300d.txt of https://nlp.stanford.edu/projects/glove"),
    "spice_folder": ("spice", "the folder of its parser's jars, as README.md says"),
}
_MODELS: dict[str, tuple[tuple[str, ...], Any]] = {
    "sentence_model": (("similarity", "samples"), lambda folder, _: check_sentence_model(folder)),
    "bert_model": (("bert_score",), lambda folder, config: check_bert_model(folder, layer=config.bert_layer)),
    "clip_model": (("clip_score",), lambda folder, _: processed_size(folder, field="clip_model")),
}
"""Fields that name a model -> what reads them, and what can be known of the files before they are loaded."""
_READ_BY: dict[str, tuple[str, ...]] = {
    **{key: readers for key, (readers, _) in _MODELS.items()},
    **{f"{key}_hash": readers for key, (readers, _) in _MODELS.items()},
    **dict.fromkeys(("glove_file", "glove_file_hash"), ("glove",)),
    **dict.fromkeys(("spice_folder", "spice_hash"), ("spice",)),
    "bert_layer": ("bert_score",),
    "samples_per_picture": ("samples",),
}
"""Fields that are read only if one of these was asked for."""
