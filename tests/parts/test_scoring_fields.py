import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from families import NoLibrary

from trainables.captioning import Captioning, CaptioningConfig
from trainables.parts.decoding_fields import DecodingConfig, decoding_uniforms, sampling_ways, with_samples
from trainables.parts.scoring_fields import FURTHER, FURTHER_METRICS, ScoringConfig
from vltune.errors import BadInput, NotFound


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"further_metrics": "metor"}, "'metor' is unknown; did you mean 'meteor'"),
        ({"further_metrics": "meteor,meteor"}, "names 'meteor' twice"),
        ({"further_metrics": "glove"}, "asks for glove: set glove_file"),
        ({"further_metrics": "spice"}, "asks for spice: set spice_folder"),
        ({"glove_file": "g.txt"}, "glove_file='g.txt' has no effect without further_metrics=glove"),
        ({"samples_per_picture": 3, "further_metrics": "similarity"}, "no effect without further_metrics=samples"),
        ({"bert_layer": -1, "further_metrics": "bert_score"}, "bert_layer=-1 is out of range"),
        ({"samples_per_picture": 1, "further_metrics": "samples"}, "samples_per_picture=1 is out of range"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        ScoringConfig(**fields)


def test_a_family_measures_what_it_is_asked_for() -> None:
    usual = Captioning.measures(CaptioningConfig())
    assert not usual.keys() & FURTHER_METRICS.keys()
    assert usual.keys() | FURTHER_METRICS.keys() == Captioning.metrics.keys()
    asked = Captioning.measures(CaptioningConfig(further_metrics=" diversity, bert_score"))
    assert {*asked} - {*usual} == {*FURTHER["diversity"], *FURTHER["bert_score"]}
    assert asked["self_bleu"] == "min"


def test_sources_are_found_and_recorded(tmp_path: Path) -> None:
    glove = tmp_path / "glove.txt"
    glove.write_text("the 1 2\n")
    clip = tiny_models.clip(tmp_path / "clip")
    asked = {"further_metrics": "similarity,glove,clip_score", "glove_file": str(glove), "clip_model": str(clip)}
    found = ScoringConfig(**asked).find_sources(NoLibrary())
    assert all(len(h) == 64 for h in (found.sentence_model_hash, found.glove_file_hash, found.clip_model_hash))
    assert found.bert_model_hash == ""
    assert found.find_sources(NoLibrary()) == found, "a record finds the same again"
    glove.write_text("the 1 3\nmore 4 5\n")
    with pytest.raises(BadInput, match=r"glove_file=.* has changed"):
        found.find_sources(NoLibrary())
    assert ScoringConfig().find_sources(NoLibrary()) == ScoringConfig(), "nothing is asked for what nobody reads"


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"further_metrics": "similarity", "sentence_model": "no where/at all"}, NotFound, "neither a folder nor"),
        ({"further_metrics": "glove", "glove_file": "nowhere.txt"}, NotFound, "glove_file='nowhere.txt'"),
        ({"further_metrics": "spice", "spice_folder": "nowhere"}, NotFound, "spice_folder='nowhere'"),
        ({"further_metrics": "clip_score", "clip_model": "all-MiniLM-L6-v2"}, BadInput, "clip_model=.*does not embed"),
        (
            {"further_metrics": "bert_score", "bert_model": "all-MiniLM-L6-v2"},
            BadInput,
            "set bert_layer to one of 1 to 6",
        ),
    ],
)
def test_what_is_missing_is_one_line(fields: dict[str, Any], kind: type[BadInput], reason: str) -> None:
    with pytest.raises(kind, match=reason) as caught:
        ScoringConfig(**fields).find_sources(NoLibrary())
    assert "\n" not in str(caught.value)


def test_spice_is_known_by_its_programs(tmp_path: Path) -> None:
    config = ScoringConfig(further_metrics="spice", spice_folder=str(tmp_path))
    with pytest.raises(NotFound, match=r"SPICE needs stanford-corenlp-3.6.0.jar and .* and a JavaScript engine"):
        config.find_sources(NoLibrary())
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar", "nashorn-core-15.4.jar"):
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            jar.writestr("META-INF/services/javax.script.ScriptEngineFactory", name)
    found = config.find_sources(NoLibrary())
    (tmp_path / "cache").write_text("what it has computed")
    assert found.find_sources(NoLibrary()) == found
    (tmp_path / "other.jar").write_text("program")
    with pytest.raises(BadInput, match=r"spice_folder=.* has changed"):
        found.find_sources(NoLibrary())


def test_samples_are_drawn_by_seed_picture_and_number() -> None:
    config = DecodingConfig(
        further_metrics="samples", samples_per_picture=3, decoding="beam", beam_width=4, temperature=0.5, max_tokens=4
    )

    def drawn(*ids: str) -> list[list[tuple[float, ...]]]:
        """What each picture's samples are drawn with."""
        ways = sampling_ways(config, ids)
        assert {(way.settings.decoding, way.settings.temperature) for way in ways} == {("sample", 0.5)}
        rows = [[tuple(row) for row in way.uniforms.tolist()] for way in ways if way.uniforms is not None]
        return [[*of_picture] for of_picture in zip(*rows, strict=True)]

    together = drawn("a", "b")
    assert together[1:] == drawn("b")
    assert len({row for rows in together for row in rows}) == 6
    usual = decoding_uniforms(config, ["a"])[0].tolist()
    assert tuple(usual) not in together[0], "the caption itself is drawn otherwise"
    assert sampling_ways(DecodingConfig(), ["a"]) == []
    records = [{"id": "a"}, {"id": "b"}]
    assert with_samples(records, [["1", "2"], ["3", "4"]]) == [
        {"id": "a", "samples": ["1", "3"]},
        {"id": "b", "samples": ["2", "4"]},
    ]
    assert with_samples(records, []) == records
    with pytest.raises(BadInput, match=r"temperature=0\.5 has no effect"):
        DecodingConfig(temperature=0.5)
