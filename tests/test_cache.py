"""The shared cache: built once, mapped without copying, rebuilt when it is not sound."""

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vltune.cache import Stored, kept_bytes, stored, write_text
from vltune.errors import BadInput


def _rows(count: int, shape: tuple[int, ...] = (5, 3), dtype: str = "uint8") -> list[tuple[np.ndarray, str]]:
    rng = np.random.default_rng(0)
    return [((rng.random(shape) * 255).astype(dtype), "odd" if i == 2 else "") for i in range(count)]


def _ask(folder: Path, rows: list[tuple[np.ndarray, str]], built: list[int], key: str = "k") -> Stored:
    def build():
        built.append(1)
        return iter(rows)

    shape, dtype = (rows[0][0].shape, str(rows[0][0].dtype)) if rows else ((5, 3), "uint8")
    return stored(str(folder), key, rows=len(rows), shape=shape, dtype=dtype, build=build)


@pytest.mark.parametrize(("shape", "dtype"), [((5, 3), "uint8"), ((7,), "float32"), ((2, 3, 4), "float16")])
def test_rows_come_back_as_they_were(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    rows = _rows(9, shape, dtype)
    found = _ask(tmp_path, rows, [])
    assert len(found) == 9
    assert found.remarks == {2: "odd"}
    for got, (want, _) in zip(found, rows, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(found[-1], rows[8][0])
    np.testing.assert_array_equal(found[1:3][1], rows[2][0])
    with pytest.raises(IndexError):
        found[9]


def test_rows_of_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vltune.cache._BATCH_BYTES", 4 * 15)
    rows = _rows(10)
    found = _ask(tmp_path, rows, [])
    whole = np.stack([row for row, _ in rows])
    np.testing.assert_array_equal(np.stack(list(found)), whole)
    for start in range(11):
        for stop in range(start, 12):
            np.testing.assert_array_equal(found[start:stop], whole[start:stop])
    np.testing.assert_array_equal(found[::-3], whole[::-3])


def test_rows_that_lie_together_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vltune.cache._BATCH_BYTES", 4 * 15)
    found = _ask(tmp_path, _rows(10), [])
    assert np.shares_memory(found[1:3], found[2])
    assert not np.shares_memory(found[3:5], found[4]), "the fifth row begins another batch"


def test_no_rows(tmp_path: Path) -> None:
    found = _ask(tmp_path, [], [])
    assert len(found) == 0
    assert found[:].shape == (0, 5, 3)


def test_a_row_is_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    found = _ask(tmp_path, _rows(200, (64, 64, 3)), [])
    row = found[7]
    assert not row.flags.writeable
    assert not row.flags.owndata
    assert np.shares_memory(row, found[7])
    assert pa.total_allocated_bytes() - before < 100_000, "2.4 MB of rows were copied"


def test_built_once_and_by_key(tmp_path: Path) -> None:
    built: list[int] = []
    for _ in range(3):
        _ask(tmp_path, _rows(4), built)
    assert len(built) == 1
    _ask(tmp_path, _rows(4), built, key="other")
    assert len(built) == 2


def test_another_process_maps_the_same_file(tmp_path: Path) -> None:
    found = _ask(tmp_path, _rows(300, (64, 64)), [])
    sent = pickle.dumps(found)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent)[7], found[7])


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _without_manifest(path: Path) -> None:
    path.with_suffix(".json").unlink()


def _odd_manifest(path: Path) -> None:
    path.with_suffix(".json").write_text("[1]")


@pytest.mark.parametrize("harm", [_cut, _flip, _zeros, _without_manifest, _odd_manifest, Path.unlink])
def test_what_is_not_sound_is_built_again(tmp_path: Path, harm) -> None:
    built: list[int] = []
    rows = _rows(50, (64, 64))
    _ask(tmp_path, rows, built)
    harm(tmp_path / "k.arrow")
    found = _ask(tmp_path, rows, built)
    assert len(built) == 2
    np.testing.assert_array_equal(np.stack(list(found)), np.stack([row for row, _ in rows]))


def test_a_sound_file_of_another_content_is_not_taken(tmp_path: Path) -> None:
    built: list[int] = []
    _ask(tmp_path, _rows(4), built, key="a")
    for suffix in (".arrow", ".json"):
        (tmp_path / f"b{suffix}").write_bytes((tmp_path / f"a{suffix}").read_bytes())
    _ask(tmp_path, _rows(4), built, key="b")
    assert len(built) == 2


def test_a_copied_file_is_checked_and_taken(tmp_path: Path) -> None:
    built: list[int] = []
    _ask(tmp_path, _rows(4), built)
    os.utime(tmp_path / "k.arrow", (1, 1))
    _ask(tmp_path, _rows(4), built)
    assert len(built) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build():
        yield np.zeros((5, 3), np.uint8), ""
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        stored(str(tmp_path), "k", rows=2, shape=(5, 3), dtype="uint8", build=build)
    assert {path.name for path in tmp_path.iterdir()} <= {"k.lock"}
    (tmp_path / ".k.arrow.99.part").write_bytes(b"left by a killed process")
    _ask(tmp_path, _rows(2), [])
    assert not list(tmp_path.glob(".*.part"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written") as caught:
        _ask(tmp_path / "file", _rows(2), [])
    assert "\n" not in str(caught.value)


def _race(folder: str, log: str, start) -> None:
    def build():
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        for row in range(20):
            time.sleep(0.01)
            yield np.full((4, 4), row, np.uint8), ""

    start.wait()
    found = stored(folder, "k", rows=20, shape=(4, 4), dtype="uint8", build=build)
    assert [int(row[0, 0]) for row in found] == list(range(20))


def test_processes_that_ask_together_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    log = tmp_path / "log"
    processes = [context.Process(target=_race, args=(str(tmp_path / "c"), str(log), start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_write_text_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.json"]


def test_bytes_are_built_once_and_again_when_they_differ(tmp_path: Path) -> None:
    built = []

    def build() -> bytes:
        built.append(1)
        return b"content"

    (tmp_path / ".k.bin.99.part").write_bytes(b"left by a killed process")
    assert [kept_bytes(str(tmp_path), "k", build=build) for _ in range(2)] == [b"content"] * 2
    assert len(built) == 1
    assert not list(tmp_path.glob(".*.part"))
    path = tmp_path / "k.bin"
    path.write_bytes(path.read_bytes().replace(b"content", b"contend"))
    assert kept_bytes(str(tmp_path), "k", build=build) == b"content"
    assert len(built) == 2


def test_bytes_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"k\.bin: the cache cannot be written \(File exists\); choose another\."):
        kept_bytes(str(tmp_path / "file"), "k", build=lambda: b"")
