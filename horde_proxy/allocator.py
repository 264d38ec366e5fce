"""How the C library's allocator treats large blocks, so that a large body does not stay in memory.

glibc gets large blocks from the kernel one by one, and gives them back when they are freed. But
each one that is freed raises the size from which it does so, up to 32 MB: after the first body of
that size, further ones come out of its heaps, which fragments keep large for ever (mallopt(3),
M_MMAP_THRESHOLD). Ten clients that sent 30 MB once left 300 MB behind.

No request is known here. A Python without glibc, as on Alpine or a Mac, does as it always did.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
"""The parameter's number in glibc's malloc.h."""
_LARGE: Final = 1024 * 1024
"""Bytes: smaller blocks are worth keeping, since the kernel clears the pages of every new one."""


def give_back_large_blocks() -> bool:
    """Have the memory of large blocks given back as soon as they are freed; False without glibc.

    Setting the size fixes it. It applies to this process and to those that it forks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE))
