"""Reads images that lie in files, or inside of plain tars, by byte range."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from itpn_ray.storage import filesystem, is_s3

# Larger images are not read at all.
LARGEST_FILE = 512 << 20
# Requests under way at once to a remote store, whose answers take tens of milliseconds.
_REQUESTS = 16

WHOLE_FILE = -1


def read_ranges(uri: str, rows: pa.Table) -> Iterator[bytes | OSError]:
    """The bytes of each row of a listing of ``uri``, in order.

    A file that is gone, barred or huge gives its error in place of bytes.

    Raises:
        OSError: the storage fails otherwise.
    """
    fs, _ = filesystem(uri)
    columns = (rows.column(name).to_pylist() for name in ("file", "offset", "size"))
    ranges = zip(*columns, strict=True)
    if not is_s3(uri):
        yield from (_read(fs, *where) for where in ranges)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        # Each answer that is taken lets the next request begin; the order is kept.
        waiting: deque[Future[bytes | OSError]] = deque(
            pool.submit(_read, fs, *where) for where in islice(ranges, _REQUESTS)
        )
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_read, fs, *where) for where in islice(ranges, 1))


def _read(fs: FileSystem, file: str, offset: int, size: int) -> bytes | OSError:
    try:
        with fs.open_input_file(file) as stream:
            wanted = stream.size() if size == WHOLE_FILE else size
            if wanted > LARGEST_FILE:
                return OSError(errno.EFBIG, f"a file of {wanted >> 20} MB")
            return stream.read_at(wanted, offset)
    # Given back, not raised: one bad file must not end a shard.
    except (FileNotFoundError, NotADirectoryError):
        return OSError(errno.ENOENT, "the file is gone")
    except PermissionError:
        return OSError(errno.EACCES, "the file must not be read")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return OSError(error.errno, "its path is too long")
        # Opening a folder fails in a different way on
        # each filesystem, so it is asked for only here.
        if fs.get_file_info(file).type == FileType.Directory:
            return OSError(errno.EISDIR, "a folder, not a file")
        raise
