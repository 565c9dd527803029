"""Reading .npz files that may be damaged or hostile: the arrays as they were saved, or one kind of error."""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_NPY = ".npy"
# Deflate can shrink zeros a thousandfold. What lcr_edge writes shrinks at most a few times, small files apart.
_INFLATED, _SMALL = 20, 16_000_000
# A .npy file of format 1 as numpy writes it: magic, length of the header, header. Numbers only: no objects, no records.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<>|=][biufc]\d{1,2})', 'fortran_order': (?P<fortran>False|True), "
    rb"'shape': \((?P<shape>(?:\d{1,15},? ?){0,32})\), \} *\n",
    re.DOTALL,
)


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name. Nothing is unpickled, and memory stays in proportion to the file's size.

    Raises OSError where the file cannot be opened, and ValueError for everything that is wrong with its content.
    """
    with path.open("rb") as file:
        return _whole(file, os.fstat(file.fileno()).st_size)


def npz_of(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """As :func:`read_npz`, of a file's content. Raises ValueError."""
    return _whole(io.BytesIO(data), len(data))


def _whole(file: BinaryIO, size: int) -> dict[str, npt.NDArray[Any]]:
    try:
        return _read(file, size)
    except Exception as error:  # zipfile and zlib have many errors of their own for changed bytes
        raise ValueError(f"not a whole .npz file: {str(error) or type(error).__name__}") from error


def _read(file: BinaryIO, size: int) -> dict[str, npt.NDArray[Any]]:
    # Not numpy.load: it trusts the sizes that are declared, and evaluates the header as Python.
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(_NPY)]
        # zipfile never yields more of an entry than is declared here. Of bzip2 and lzma it may inflate more on the way.
        declared = sum(entry.file_size for entry in entries)
        if declared > _INFLATED * size + _SMALL:
            raise ValueError(f"{size} bytes that would inflate to {declared}")
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise ValueError("a compression that numpy does not write")
        return {entry.filename[: -len(_NPY)]: _array(bytearray(archive.read(entry))) for entry in entries}


def _array(content: bytearray) -> npt.NDArray[Any]:
    header = _HEADER.match(content)
    if header is None or int.from_bytes(header["length"], "little") != header.end() - header.end("length"):
        raise ValueError("an entry without the header of an array of numbers")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(number) for number in re.findall(rb"\d+", header["shape"]))
    if len(content) - header.end() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content) - header.end()} bytes for an array {list(shape)} of {dtype}")
    values = np.frombuffer(content, dtype, offset=header.end())
    return values.reshape(shape, order="F" if header["fortran"] == b"True" else "C")
