"""Parquet, a few rows at a time; what a file unpacks to is counted as it is read, whatever it declares."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from workbench.data.table import RawRow, RawTable, RowError
from workbench.errors import DataError
from workbench.foreign import GIB

__all__ = ["read_parquet"]

_MOST = 4 * GIB  # bytes in memory, over all rows
_BATCH = 256  # rows


def read_parquet(name: str, data: bytes) -> RawTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _damaged(name), pq.ParquetFile(pa.BufferReader(data)) as file:
        columns, rows = file.schema_arrow.names, file.metadata.num_rows
    if twice := next((column for column, n in Counter(columns).items() if n > 1), None):
        raise DataError(f"{name} has two columns called {twice[:40]!r}.", hint="Rename one of them and export it again.")
    if not rows:
        raise DataError(f"{name} holds no rows.", hint="Give a file with at least one row.")
    return RawTable("Parquet", lambda: _rows(name, data), columns=list(columns))


def _rows(name: str, data: bytes) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, size = 0, 0
    with _damaged(name), pq.ParquetFile(pa.BufferReader(data)) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            if (size := size + batch.nbytes) > _MOST:
                raise DataError(f"{name} unpacks to more than {_MOST // GIB} GiB.", hint="Split it, or take a sample.")
            for row in _batch(batch):
                yield (number := number + 1), row


def _batch(batch: Any) -> list[dict[str, Any] | RowError]:
    try:
        return [_without_none(row) for row in batch.to_pylist()]
    except (ValueError, OverflowError, ImportError, RecursionError):  # some value has no form in Python: find it
        return [_row(batch, i) for i in range(batch.num_rows)]


def _row(batch: Any, i: int) -> dict[str, Any] | RowError:
    row = {}
    for column in batch.schema.names:
        try:
            row[column] = batch.column(column)[i].as_py()
        except (ValueError, OverflowError, ImportError, RecursionError) as error:
            return RowError("broken", f"'{column}' holds a value that cannot be read ({str(error)[:80]}).")
    return dict(_without_none(row))


def _without_none(value: Any) -> Any:
    """Parquet gives every struct every field; a null there is a key that was not written. NaN is how tables write null."""
    if isinstance(value, dict):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None and not (isinstance(v, float) and v != v)}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _damaged(name: str) -> Iterator[None]:
    """Turns what pyarrow raises about a file into one `DataError`."""
    import pyarrow as pa

    try:
        yield
    except (DataError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        words = (str(error).splitlines() or [""])[0][:160]
        raise DataError(f"{name} is damaged and cannot be read as Parquet ({words}).", hint="Export it again.") from None
