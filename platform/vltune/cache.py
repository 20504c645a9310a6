"""Memory-mapped Arrow files that all processes of a node share: built once, read without copying."""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import pyarrow as pa
from filelock import FileLock

from vltune.errors import BadInput

_BATCH_BYTES = 8 << 20


class Stored(Sequence[np.ndarray]):
    """Rows of one shape in a memory-mapped file. A row is a read-only view of the file, not a copy. So are several that
    follow one another, as one array, unless they lie in two of the file's batches (8 MB each).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(path, "r"))
        self.schema = reader.schema
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._chunks: list[np.ndarray] = [batch.column("row").to_numpy_ndarray() for batch in batches]
        self._step = len(self._chunks[0]) if batches else 1
        self._length = sum(batch.num_rows for batch in batches)
        remarks = (remark for batch in batches for remark in batch.column("remark").to_pylist())
        self.remarks: dict[int, str] = {row: remark for row, remark in enumerate(remarks) if remark}
        """What was said about single rows when they were built: row -> text."""

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> np.ndarray: ...
    def __getitem__(self, index: int | slice) -> np.ndarray:
        if isinstance(index, slice):
            return self._several(range(len(self))[index])
        chunk, row = divmod(range(len(self))[index], self._step)
        return self._chunks[chunk][row]

    def _several(self, rows: range) -> np.ndarray:
        if not rows or rows.step != 1:
            kind = self.schema.field("row").type
            return np.array([self[row] for row in rows], kind.value_type.to_pandas_dtype()).reshape(-1, *kind.shape)
        parts, start = [], rows.start
        while start < rows.stop:
            chunk, row = divmod(start, self._step)
            parts.append(self._chunks[chunk][row : row + rows.stop - start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __reduce__(self) -> tuple[type["Stored"], tuple[str]]:
        # Another process maps the same file instead of being sent its content.
        return Stored, (self.path,)


def stored(
    folder: str,
    key: str,
    *,
    rows: int,
    shape: tuple[int, ...],
    dtype: str,
    build: Callable[[], Iterable[tuple[np.ndarray, str]]],
) -> Stored:
    """The rows kept under a content key; built when they are not there, or not sound.

    Whoever comes first builds under a file lock, the others wait and map the same file.

    Args:
        folder: folder of the cache, created when missing.
        key: names the content, so that equal keys mean equal rows: letters, digits, ``-``, ``_``.
        rows: number of rows.
        shape: shape of one row.
        dtype: NumPy's name of the element type, such as ``uint8``.
        build: yields each row with a remark, which is empty where there is nothing to say.

    Raises:
        BadInput: the folder cannot be written, or the disk is full.
    """
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key), key
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), shape)
    schema = pa.schema([("row", kind), ("remark", pa.string())], metadata={"key": key, "rows": str(rows)})
    path = Path(folder) / f"{key}.arrow"
    found = _sound(path, schema, rows)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        with lock:
            found = _sound(path, schema, rows)
            if found is None:
                _build(path, schema, rows, build)
                found = Stored(str(path))
    except OSError as error:
        raise BadInput(f"{path}: the cache cannot be written ({error.strerror or error}); choose another.") from error
    return found


def kept_bytes(folder: str, key: str, *, build: Callable[[], bytes]) -> bytes:
    """Bytes kept under a content key; built when they are not there, or differ from what was written.

    Whoever comes first builds under a file lock, the others wait and read the same file.

    Args:
        folder: folder of the cache, created when missing.
        key: names the content, so that equal keys mean equal bytes: letters, digits, ``-``, ``_``.

    Raises:
        BadInput: the folder cannot be written, or the disk is full.
    """
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key), key
    path = Path(folder) / f"{key}.bin"
    found = _kept(path)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _kept(path)
            if found is None:
                _sweep(path)
                found = build()
                _write(path, hashlib.sha256(found).digest() + found)
    except OSError as error:
        raise BadInput(f"{path}: the cache cannot be written ({error.strerror or error}); choose another.") from error
    return found


def _kept(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return data[size:] if hashlib.sha256(data[size:]).digest() == data[:size] else None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, text.encode())


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _build(path: Path, schema: pa.Schema, rows: int, build: Callable[[], Iterable[tuple[np.ndarray, str]]]) -> None:
    _sweep(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    kind = schema.field("row").type
    shape, dtype = tuple(kind.shape), kind.value_type.to_pandas_dtype()
    step = max(1, _BATCH_BYTES // max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize))
    count = 0
    try:
        with part.open("wb") as file:
            sink = _Summed(file)
            with pa.ipc.new_file(sink, schema) as writer:
                buffer, remarks = np.empty((step, *shape), dtype), []
                for row, remark in build():
                    assert row.shape == shape, (row.shape, shape)
                    buffer[len(remarks)] = row
                    remarks.append(remark)
                    count += 1
                    if len(remarks) == step:
                        writer.write_batch(_batch(schema, buffer, remarks))
                        remarks = []
                if remarks:
                    writer.write_batch(_batch(schema, buffer[: len(remarks)], remarks))
            assert count == rows, (count, rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        # The manifest comes last: a file without one, or with the one before, is not trusted.
        status = path.stat()
        _write_manifest(path, size=status.st_size, crc32=sink.crc32, mtime_ns=status.st_mtime_ns)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """The lock is ours: whatever lies here under a temporary name was left by a process that died."""
    for rest in path.parent.glob(f".{path.name}.*.part"):
        rest.unlink(missing_ok=True)


def _batch(schema: pa.Schema, buffer: np.ndarray, remarks: list[str]) -> pa.RecordBatch:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(buffer.reshape(-1)), int(np.prod(buffer.shape[1:])))
    row = pa.ExtensionArray.from_storage(schema.field("row").type, flat)
    return pa.record_batch([row, pa.array(remarks, pa.string())], schema=schema)


def _sound(path: Path, schema: pa.Schema, rows: int) -> Stored | None:
    """The file, if it is whole and holds what is asked for.

    Reading all bytes at each opening would take as long as an epoch, so the checksum is only looked at when the
    file is not the one that was written here: another modification time.
    """
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        status = path.stat()
        if status.st_size != manifest["size"]:
            return None
        if status.st_mtime_ns != manifest["mtime_ns"]:
            if _crc32(path) != manifest["crc32"]:
                return None
            _write_manifest(path, size=status.st_size, crc32=manifest["crc32"], mtime_ns=status.st_mtime_ns)
        found = Stored(str(path))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    return found if found.schema.equals(schema, check_metadata=True) and len(found) == rows else None


def _write_manifest(path: Path, **fields: int) -> None:
    write_text(path.with_suffix(".json"), json.dumps(fields))


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BATCH_BYTES):
            value = zlib.crc32(block, value)
    return value


class _Summed(RawIOBase):
    """A file that sums up what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc32 = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Any) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        return self._file.write(data)
