"""Records as Parquet: what comes back is what went in, and other programs can read it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vltune.columns import read_records, read_resamples, write_records, write_resamples
from vltune.contract import Resampled

_TEXTS = st.sampled_from(["", "ein Hund läuft", "犬", "a half of a pair: \ud800", '"\n\\'])
_PLAIN = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), _TEXTS, st.none())
_VALUES = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=2), max_leaves=6
)
_RECORDS = st.lists(
    st.fixed_dictionaries({"id": _TEXTS}, optional=dict.fromkeys("abc", _VALUES)), min_size=1, max_size=4
)


def through(folder: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    write_records(folder / "records.parquet", records)
    return read_records(folder / "records.parquet")


@given(records=_RECORDS)
def test_what_comes_back_is_what_json_would_keep(
    records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = [{key: value for key, value in json.loads(json.dumps(r)).items() if value is not None} for r in records]
    assert through(tmp_path_factory.getbasetemp(), records) == kept


def test_columns_have_types_that_other_programs_know(tmp_path: Path) -> None:
    records = [
        {"id": "a", "caption": "ein Hund läuft", "references": ["x", "y"], "cider": 0.5, "iou": {"left": 1.0}},
        {"id": "b", "caption": "", "references": [], "cider": math.inf, "tokens": 3, "iou": {"right": 0.0}},
    ]
    assert through(tmp_path, records) == records
    table = pq.read_table(tmp_path / "records.parquet")
    assert [str(field.type) for field in table.schema] == [
        *("string", "string", "list<element: string>", "double", "string", "int64")
    ]
    assert table.column("caption").to_pylist() == ["ein Hund läuft", ""]
    assert table.column("tokens").to_pylist() == [None, 3]


def test_resamples_come_back_to_the_last_bit(tmp_path: Path) -> None:
    values = {"cider": np.random.default_rng(0).normal(size=50), "loss": np.full(50, math.nan)}
    write_resamples(tmp_path / "r.parquet", Resampled(values, 7, "drawn ä"))
    found = read_resamples(tmp_path / "r.parquet")
    assert found is not None
    assert (found.samples, found.drawn) == (7, "drawn ä")
    assert found.values.keys() == values.keys()
    for name, column in values.items():
        np.testing.assert_array_equal(found.values[name], column)


def test_resamples_that_are_gone_or_damaged_are_none(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    assert read_resamples(path) is None
    write_resamples(path, Resampled({"a": np.zeros(9)}, 7, "x"))
    path.write_bytes(path.read_bytes()[:-9])
    assert read_resamples(path) is None
    write_records(path, [{"id": "a"}])
    assert read_resamples(path) is None, "another file"


def test_embeddings_are_lists_of_fixed_size(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    rows = [
        {"id": "a", "seen": np.array([0.1, 2], np.float32), "texts": np.ones((3, 2), np.float32)},
        {"id": "b", "seen": np.zeros(2, np.float32), "texts": np.zeros((1, 2), np.float32), "some": np.ones(3)},
    ]
    write_records(path, rows)
    kinds = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert kinds["seen"] == "fixed_size_list<element: float>[2]"
    assert kinds["texts"] == "list<element: fixed_size_list<element: float>[2]>"
    assert kinds["some"] == "list<element: float>"
    assert read_records(path) == [{"id": "a"}, {"id": "b"}], "they are large, and read where they are asked for"
    assert read_records(path, embeddings=True) == [
        {"id": "a", "seen": [np.float32(0.1), 2.0], "texts": [[1.0, 1.0]] * 3},
        {"id": "b", "seen": [0.0, 0.0], "texts": [[0.0, 0.0]], "some": [1.0] * 3},
    ]
