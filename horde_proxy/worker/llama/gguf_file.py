"""A GGUF file: its metadata as Python values, its tensors as float32 arrays.

It knows only the file format (github.com/ggml-org/ggml, docs/gguf.md), not what a model does with
the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

# Dequantising copies rows: at 4096, a copy takes some MB instead of a whole embedding matrix.
_ROWS_AT_ONCE = 4096


class UnusableModel(Exception):
    """The model file cannot be run. The message says why and what to do."""


class GGUFFile:
    """One file, mapped into memory until the object is dropped. Raises UnusableModel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        except OSError as exc:
            raise UnusableModel(f"{path}: cannot be read ({exc.strerror or exc})") from exc
        except (ValueError, IndexError, KeyError, TypeError) as exc:
            raise UnusableModel(
                f"{path}: not a complete GGUF file ({exc}); download it again"
            ) from exc
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.tensor_names = frozenset(self._tensors)

    def value(self, key: str, default: Any = None) -> Any:
        """One metadata value, or the default if it is missing."""
        field = self._reader.fields.get(key)
        try:
            return default if field is None else field.contents()
        except (ValueError, IndexError) as exc:
            raise UnusableModel(f"{self.path}: {key} is damaged; download it again") from exc

    def required(self, key: str) -> Any:
        """One metadata value. Raises UnusableModel if it is missing."""
        value = self.value(key)
        if value is None:
            raise UnusableModel(f"{self.path}: its metadata has no {key}; try another conversion")
        return value

    def tensor(self, name: str, *shape: int) -> Array:
        """One tensor, dequantised. Raises UnusableModel if it is missing or has another shape."""
        return self.stacked({name: shape})

    def stacked(self, shapes: Mapping[str, tuple[int, ...]]) -> Array:
        """Several tensors of the same width, dequantised and stacked into one array."""
        for name, shape in shapes.items():
            self._check(name, shape)
        rows = sum(shape[0] for shape in shapes.values())
        target = np.empty((rows, *shape[1:]), np.float32)
        start = 0
        for name, shape in shapes.items():
            self._read(target[start : start + shape[0]], name)
            start += shape[0]
        return target

    def _check(self, name: str, expected: tuple[int, ...]) -> None:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise UnusableModel(f"{self.path}: has no tensor {name}; try another conversion")
        # The innermost dimension comes first in GGUF, and last in numpy.
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if shape != expected:
            raise UnusableModel(f"{self.path}: {name} is {shape}, expected {expected}")

    def _read(self, target: Array, name: str) -> None:
        """Fill the target with one tensor, a part of its rows at a time to save memory."""
        tensor = self._tensors[name]
        try:
            for start in range(0, len(target), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                target[rows] = gguf.dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError as exc:
            raise UnusableModel(
                f"{self.path}: cannot read the quantisation {tensor.tensor_type.name} of {name}; "
                "use a file in Q4_1, Q8_0 or F16"
            ) from exc
