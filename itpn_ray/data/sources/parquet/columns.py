"""The columns of a Parquet file: which holds images, which labels, and what may stand in them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from itpn_ray.data.sources.label_values import Label, as_label, as_labels, text_label
from itpn_ray.errors import DataError

_HINT = "Give class numbers or names, or pass --unlabelled"


def find_column(file: pq.ParquetFile, known: tuple[str, ...], path: str, hint: str) -> str:
    """The first of the known names that is a column of a file.

    Raises:
        DataError: none of them is, or several columns have that name.
    """
    names = file.schema_arrow.names
    for name in known:
        if names.count(name) > 1:
            raise DataError(path, name, "is the name of several columns", "Rename all but one")
        if name in names:
            return name
    raise DataError(
        path,
        ", ".join(names),
        f"has no column named {' or '.join(filter(None, (', '.join(known[:-1]), known[-1])))}",
        hint,
    )


def check_images(file: pq.ParquetFile, column: str, path: str) -> None:
    """Refuse a column that cannot hold one encoded image a row.

    Raises:
        DataError: as said.
    """
    kind = _plain(file.schema_arrow.field(column).type)
    inner = kind
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = _plain(kind.field("bytes").type)
    if not _is_binary(inner):
        raise DataError(
            path,
            column,
            f"is a column of {kind}, not of one encoded image a row",
            "Give bytes, or a struct {bytes, path}",
        )


def column_labels(file: pq.ParquetFile, column: str, path: str) -> list[Label | list[Label] | None]:
    """The labels of all rows, see `itpn_ray.data.sources.label_values.as_labels`.

    Raises:
        DataError: the column holds something else.
        pyarrow.ArrowException: the file is damaged.
    """
    found = file.read(columns=[column]).column(column)
    # Offsets beyond the buffers of a damaged file would be read from other memory.
    found.validate(full=True)
    kind = _plain(found.type)
    where = f"{path} column {column}"
    if len(found) != file.metadata.num_rows:
        raise pa.ArrowInvalid(f"column {column} has {len(found)} of {file.metadata.num_rows} rows")
    if _is_binary(kind):
        cells = found.to_pylist()
        return [None if cell is None else text_label(cell, where, _HINT) for cell in cells]
    if _is_list(kind):
        return [as_labels(value, where, _HINT) for value in found.to_pylist()]
    known = (pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    if not (any(is_kind(kind) for is_kind in known) or _is_text(kind)):
        raise DataError(where, str(kind), "is no type of labels", _HINT)
    return [as_label(value, where, _HINT) for value in found.to_pylist()]


def class_names(file: pq.ParquetFile, column: str) -> tuple[str, ...]:
    """Class names that Hugging Face's library wrote into the file's metadata; may be none.

    Of a column of lists they are those of the values in the lists.
    """
    written = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        feature = json.loads(written)["info"]["features"][column]
        # A list of a type is written as [type], or as {"feature": type, "_type": "List"}.
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        names = feature["names"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ()
    # Two classes of one name could not be told apart in a report.
    usable = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if usable and len(set(names)) == len(names) else ()


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without dictionary or extension around it."""
    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    sized = types.is_binary(kind) or types.is_large_binary(kind)
    return sized or types.is_fixed_size_binary(kind) or types.is_binary_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
