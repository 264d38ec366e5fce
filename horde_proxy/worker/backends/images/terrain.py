"""A real diffusion model that runs anywhere: it makes height maps of terrains, drawn as reliefs.

The model is the package adaptive-terrain-diffusion's (MIT): one step, 128x128 heights from a seed.
It reads no prompt, and says so. numpy and the package are imported only when it is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any

from horde_proxy.aihorde.image_limits import MOST_SIDE
from horde_proxy.extras import command_for
from horde_proxy.pictures import Raster
from horde_proxy.worker.backends.base import BackendError
from horde_proxy.worker.backends.images.base import ImageOptions, MadePicture, PictureJob
from horde_proxy.worker.backends.offered_model import matches

_NAME = "terrain"
_MODEL = "horde-proxy/terrain"
_NOTE = f"{_MODEL} reads no prompt: it makes a terrain from the seed alone."
_PACKAGE = "adaptive-terrain-diffusion==0.4.2"
_POLL_SECONDS = 0.1
_SIDE = 128
"""Heights along each side of the model's map."""
_EDGE = 4
"""Heights along the map's edges that the model makes badly: they are cut off."""
_STEEPNESS = 20.0
"""How much a slope darkens or lights the ground: such that 0.05 of the heights between two of the
model's points gives a slope of 45 degrees."""
_GROUND = (
    (0.00, (24, 62, 110)),
    (0.12, (52, 110, 160)),
    (0.16, (214, 200, 150)),
    (0.30, (96, 146, 72)),
    (0.55, (58, 100, 52)),
    (0.75, (128, 110, 88)),
    (0.90, (170, 164, 158)),
    (1.00, (250, 250, 252)),
)
"""Colours by height: water, beach, meadow, wood, rock, snow."""


def open_terrain(name: str, options: ImageOptions) -> Terrain | None:
    """The model for "terrain", else None. Raises BackendError where it is not installed."""
    if name != _NAME:
        return None
    if any(matches(_MODEL, glob) for glob in options.denied_models):
        raise BackendError(f"filters.denied_models leaves no model of {name}: {_MODEL}")
    if not all(map(find_spec, ("numpy", "onnxruntime", "terrain_diffusion"))):
        raise BackendError(
            f"the terrain model is missing; {command_for('terrain')}, then "
            f"pip install --no-deps {_PACKAGE}"
        )
    from terrain_diffusion import TerrainGenerator

    return Terrain(TerrainGenerator(device="cpu"))


class Terrain:
    """Makes one relief at a time. `generator` is the package's TerrainGenerator."""

    models = (_MODEL,)
    features: frozenset[str] = frozenset()
    post_processors: frozenset[str] = frozenset()
    max_pixels = MOST_SIDE * MOST_SIDE

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        # Held by the thread that computes: two would only slow each other down.
        self._computing = threading.Lock()

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        """The relief of the seed. Raises BackendError."""
        results: SimpleQueue[Raster | Exception] = SimpleQueue()

        def compute() -> None:
            # A thread of its own, for the model cannot be stopped: the job must end all the same.
            try:
                with self._computing:
                    if not cancelled():
                        results.put(self._relief(job))
            # The job's thread raises it.
            except Exception as exc:  # noqa: BLE001
                results.put(exc)

        threading.Thread(target=compute, name="terrain", daemon=True).start()
        while not cancelled():
            try:
                result = results.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            if isinstance(result, Exception):
                raise BackendError(f"the terrain model failed: {result!r}") from result
            return MadePicture(result, job.seed, (_NOTE,))
        raise BackendError("the call was cancelled", "cancelled by the worker")

    def _relief(self, job: PictureJob) -> Raster:
        heights = self._generator.generate(1, seed=job.seed, shape=(_SIDE, _SIDE))[0]
        return relief(heights[_EDGE:-_EDGE, _EDGE:-_EDGE], job.width, job.height)


def relief(heights: Any, width: int, height: int) -> Raster:
    """A height map as a picture: coloured by height, with the light from the upper left.

    The map keeps its ratio: in a picture that is not square its edges are cut off.
    """
    import numpy as np

    rows, columns = heights.shape
    longer = max(width, height)
    across = (np.arange(width) + (longer - width) / 2) / longer * (columns - 1)
    down = (np.arange(height) + (longer - height) / 2) / longer * (rows - 1)
    ground = _smooth(_smooth(heights, across, axis=1), down, axis=0)
    span = float(ground.max() - ground.min()) or 1.0
    ground = (ground - ground.min()) / span
    levels = [level for level, _ in _GROUND]
    colours = np.stack(
        [np.interp(ground, levels, [colour[part] for _, colour in _GROUND]) for part in range(3)],
        axis=-1,
    )
    # Slopes between two of the model's points, whatever the size of the picture.
    slope_down, slope_across = np.gradient(ground)
    points = longer / columns
    light = 1.0 - (slope_down + slope_across) * points * _STEEPNESS / 2
    shaded = colours * np.clip(light, 0.45, 1.35)[..., None]
    pixels = np.clip(shaded, 0, 255).astype(np.uint8).tobytes()
    return Raster.of_pixels(width, height, pixels)


def _smooth(heights: Any, places: Any, *, axis: int) -> Any:
    """Heights at places between those of an axis, without edges (cubic, after Catmull and Rom)."""
    import numpy as np

    last = heights.shape[axis] - 1
    left = np.clip(places.astype(int), 0, last)
    part = (places - left).astype(np.float32)
    part = part.reshape(-1, 1) if axis == 0 else part.reshape(1, -1)
    before, here, after, beyond = (
        np.take(heights, np.clip(left + step, 0, last), axis=axis) for step in (-1, 0, 1, 2)
    )
    linear = after - before
    square = 2 * before - 5 * here + 4 * after - beyond
    cube = 3 * (here - after) + beyond - before
    return here + 0.5 * part * (linear + part * (square + part * cube))
