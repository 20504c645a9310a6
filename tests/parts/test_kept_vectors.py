"""Vectors that are computed once: where they stay, and how much memory they take."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from trainables.parts import kept_vectors as module
from trainables.parts.kept_vectors import kept_vectors


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", type(module._KEPT)())


def test_tables_of_a_cache_are_mapped_not_copied(tmp_path: Path) -> None:
    rows, width = 20_000, 256
    table = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    kept_vectors("large", rows=rows, width=width, cache=str(tmp_path), build=lambda: table)
    tracemalloc.start()
    try:
        found = kept_vectors("large", rows=rows, width=width, cache=str(tmp_path), build=lambda: 1 / 0)
        parts = [found[start : start + 10] for start in range(0, rows, 10)]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < table.nbytes / 10
    assert np.array_equal(np.concatenate(parts), table)
    assert not module._KEPT


def test_tables_in_memory_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def ask(name: str, rows: int) -> None:
        def build() -> np.ndarray:
            built.append(name)
            return np.zeros((rows, 25), np.float32)

        assert kept_vectors(name, rows=rows, width=25, cache="", build=build).shape == (rows, 25)

    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    for name in "abcdefghij":  # many small ones stay
        ask(name, 1)
    ask("a", 1)
    assert built == [*"abcdefghij"]
    ask("k", 2)  # the two that nobody has asked for longest make room
    for name in "adefghijk":
        ask(name, 1 + (name == "k"))
    assert built == [*"abcdefghijk"]
    ask("b", 1)
    ask("whole", 1000)  # what is larger than all there is stays as long as it is used
    ask("whole", 1000)
    assert built == [*"abcdefghijkb", "whole"]
    ask("a", 1)
    assert built == [*"abcdefghijkb", "whole", "a"]
