"""Tables on disk, as Parquet files that any program reads: a checkpoint's records, and what their resamples say."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vltune.contract import Record, Resampled

_JSON = {b"encoding": b"json"}
"""Marks a column of values that have no column type in common: they are written as JSON texts."""


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Writes records, a row each and a column for each key; a key that is missing, or None, is an empty cell.

    Embeddings, arrays of one width and of shape (width,) or (texts, width), become lists of float32, of fixed size
    where no cell is empty.
    """
    arrays = {key: _array([record.get(key) for record in records]) for key in _keys(records)}
    fields = [pa.field(key, array.type, metadata=_JSON if is_json else {}) for key, (array, is_json) in arrays.items()]
    pq.write_table(pa.table([array for array, _ in arrays.values()], schema=pa.schema(fields)), path)


def read_records(path: Path, *, embeddings: bool = False) -> list[Record]:
    """What ``write_records`` wrote, without the keys of empty cells.

    Args:
        path: of the file.
        embeddings: whether they are read too. Those of 1,000 pictures with five captions each, of width 512, take
            about 200 MB as numbers of Python.

    Raises:
        FileNotFoundError: there is no such file.
    """
    schema = pq.read_schema(path)
    names = [field.name for field in schema if embeddings or not _is_embedding(field.type)]
    # A name would choose all that begin with it and a dot, too.
    table = pq.read_table(path, columns=names if len(names) < len(schema) else None)
    as_json = {field.name for field in table.schema if (field.metadata or {}).get(b"encoding") == b"json"}
    return [
        {key: json.loads(cell) if key in as_json else cell for key, cell in row.items() if cell is not None}
        for row in table.to_pylist()
    ]


def write_resamples(path: Path, resampled: Resampled) -> None:
    """Writes what a model's metrics would be on resamples of its split: a column for each metric, a row a resample."""
    about = {"samples": str(resampled.samples), "drawn": resampled.drawn}
    pq.write_table(pa.table(dict(resampled.values)).replace_schema_metadata(about), path)


def read_resamples(path: Path) -> Resampled | None:
    """What ``write_resamples`` wrote; None where there is no such file, or it is damaged."""
    try:
        table = pq.read_table(path)
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        values = {name: table.column(name).to_numpy() for name in table.column_names}
        return Resampled(values, int(about["samples"]), about["drawn"])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def _keys(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record))


def _array(values: Sequence[Any]) -> tuple[pa.Array, bool]:
    """The values as a column, and whether as JSON texts."""
    if arrays := [value for value in values if isinstance(value, np.ndarray)]:
        # Parquet gives lists of fixed size back only where no cell is empty.
        kind = pa.list_(pa.float32(), arrays[0].shape[-1] if len(arrays) == len(values) else -1)
        kind = pa.list_(kind) if arrays[0].ndim > 1 else kind
        return pa.array([None if value is None else value.tolist() for value in values], kind), False
    if not any(map(_has_mapping, values)):  # as a struct, each would get the keys of all others
        try:
            return pa.array(values), False
        except (pa.ArrowException, UnicodeError, OverflowError):
            pass
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string()), True


def _is_embedding(kind: pa.DataType) -> bool:
    """Whether a column holds arrays: lists that were no arrays are of wider numbers."""
    is_list = False
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        is_list, kind = True, kind.value_type
    return is_list and kind == pa.float32()


def _has_mapping(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(map(_has_mapping, value)))
