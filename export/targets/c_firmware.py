"""A C bundle for processors without files: its weights and golden clip as const arrays, and what memory it takes.

``model_weights.c`` and ``model_golden.c`` hold the very bytes of model.bin and golden.bin, as words of 64 bits, which
compilers read faster than single bytes. On a processor of the other byte order the words come out turned around, and
``lcr_open_memory`` refuses them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lcr_edge.config import Config
from lcr_edge.errors import BundleError
from lcr_edge.runtimes.c_engine import declared
from lcr_edge.runtimes.c_library import library

_WORDS_A_LINE = 5  # lines of 95 characters at most
_ALIGNMENT = 64
_GUARD = """\
#ifndef LCR_MODEL_H
#define LCR_MODEL_H

#include <stdint.h>

/* The library wants both arrays, and the arena, at multiples of 64 bytes. */
#ifndef LCR_ALIGNED
#ifdef __GNUC__
#define LCR_ALIGNED __attribute__((aligned(64)))
#else
#error "define LCR_ALIGNED as what aligns an array to 64 bytes with this compiler"
#endif
#endif
"""


def firmware_files(folder: Path, name: str, config: Config) -> dict[str, str]:
    """Texts of the files that a bundle has for firmware, from model.bin and golden.bin in its folder.

    Raises BundleError for weights that the library on this machine refuses.
    """
    weights, golden = (folder / "model.bin").read_bytes(), (folder / "golden.bin").read_bytes()
    arena, state, selftest = _memory(weights)
    sizes = {
        "HEIGHT": (config.height, "of a frame, pixels"),
        "WIDTH": (config.width, ""),
        "CLASSES": (config.classes, ""),
        "WEIGHTS_SIZE": (len(weights), "bytes of lcr_model_weights"),
        "GOLDEN_SIZE": (len(golden), "bytes of lcr_model_golden"),
        "ARENA": (arena, "bytes that lcr_open_memory needs for one thread, on processors of 32 and of 64 bits"),
        "STATE": (state, "bytes of one state, aligned for float"),
        "SELFTEST": (selftest, "bytes that lcr_selftest needs besides, aligned for float"),
    }
    lines = [
        f"#define LCR_MODEL_{key} {value}{f' /* {text} */' if text else ''}" for key, (value, text) in sizes.items()
    ]
    declared_here = "extern const uint64_t lcr_model_weights[], lcr_model_golden[];"
    header = (
        f"/* {name}: its arrays, and the memory that it takes. Written by lcr-edge export --firmware. */\n\n{_GUARD}"
    )
    header += "\n" + "\n".join(lines) + f"\n\n{declared_here}\n\n#endif\n"
    return {
        "model.h": header,
        "model_weights.c": _array("lcr_model_weights", weights, f"{name}: model.bin"),
        "model_golden.c": _array("lcr_model_golden", golden, f"{name}: golden.bin, for lcr_selftest only"),
    }


def _array(name: str, content: bytes, text: str) -> str:
    words = struct.unpack(f"<{-(-len(content) // 8)}Q", content + bytes(-len(content) % 8))
    head = f'/* {text}. Written by lcr-edge export --firmware. */\n\n#include "model.h"\n\n'
    return f"{head}const uint64_t {name}[] LCR_ALIGNED = {{\n" + "\n".join(_lines(words)) + "\n};\n"


def _lines(words: tuple[int, ...]) -> Iterator[str]:
    for first in range(0, len(words), _WORDS_A_LINE):
        yield "".join(f"{word:#x}," if word else "0," for word in words[first : first + _WORDS_A_LINE])


def _memory(weights: bytes) -> tuple[int, int, int]:
    """Bytes of arena, state and selftest memory of these weights on this processor, which has 64 bits.

    Pointers of 32 bits are smaller, so the arena is large enough there too.
    """
    step = declared(library())
    for function in (step.lcr_arena_size, step.lcr_state_size, step.lcr_selftest_size):
        function.restype = ctypes.c_size_t
    flash = _aligned(len(weights))
    flash[:] = np.frombuffer(weights, np.uint8)
    place, size = ctypes.c_void_p(flash.ctypes.data), ctypes.c_size_t(len(weights))
    needed = int(step.lcr_arena_size(place, size, None))
    arena, model = _aligned(max(needed, 1)), ctypes.c_void_p()
    room = ctypes.c_void_p(arena.ctypes.data), ctypes.c_size_t(needed)
    status = int(step.lcr_open_memory(place, size, None, *room, ctypes.byref(model)))
    if status:
        raise BundleError(
            f"the C step refuses the weights just written (status {status}): this is an error of lcr_edge"
        )
    return needed, int(step.lcr_state_size(model)), int(step.lcr_selftest_size(model))


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]
