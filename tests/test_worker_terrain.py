"""The terrain model behind a worker: reliefs of height maps, and how it ends. It is scripted."""

from __future__ import annotations

import sys
from threading import Event
from types import ModuleType
from typing import Any

import pytest

from horde_proxy.worker.backends import BackendError
from horde_proxy.worker.backends.images import ImageOptions, PictureJob, open_images
from horde_proxy.worker.backends.images import terrain as terrain_module
from horde_proxy.worker.backends.images.terrain import Terrain, relief

np = pytest.importorskip("numpy")
RISING = np.tile(np.linspace(0.0, 1.0, 128, dtype=np.float32), (128, 1))
"""From the sea on the left to the snow on the right."""


class Generator:
    """The package's generator. `before` is called before each map."""

    def __init__(self, device: str = "cpu") -> None:
        self.calls: list[dict[str, Any]] = []
        self.before: Any = lambda: None

    def generate(self, count: int, **options: Any) -> Any:
        self.calls.append({"count": count, **options})
        self.before()
        return np.stack([RISING] * count)


def job(**fields: Any) -> PictureJob:
    values: dict[str, Any] = {"prompt": "hills", "width": 192, "height": 64, "seed": 7}
    return PictureJob(**{"id": "1", "model": "horde-proxy/terrain", **values, **fields})


def test_a_terrain_is_made_from_the_seed_and_says_that_no_prompt_is_read() -> None:
    generator = Generator()
    made = Terrain(generator).paint(job(), lambda: False)
    assert generator.calls == [{"count": 1, "seed": 7, "shape": (128, 128)}]
    assert (made.raster.size, made.seed) == ((192, 64), 7)
    assert made.notes == (
        "horde-proxy/terrain reads no prompt: it makes a terrain from the seed alone.",
    )


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (64, 1024), (1024, 64)])
def test_a_relief_has_water_below_and_snow_above(size: tuple[int, int]) -> None:
    picture = relief(RISING, *size)
    assert picture.size == size
    row = picture.pixels()[: size[0] * 3]
    if size[0] >= size[1]:
        assert row[2] > row[0], "water is blue"
        assert min(row[-3:]) > 180, "snow is white"


def test_a_flat_terrain_is_a_picture_too() -> None:
    assert relief(np.zeros((128, 128), dtype=np.float32), 64, 64).size == (64, 64)


def test_a_model_that_fails_faults_the_job() -> None:
    generator = Generator()
    generator.before = lambda: 1 / 0
    with pytest.raises(BackendError, match="the terrain model failed: ZeroDivisionError"):
        Terrain(generator).paint(job(), lambda: False)


def test_a_job_that_is_not_needed_ends_while_the_model_goes_on() -> None:
    generator, begun, release = Generator(), Event(), Event()

    def wait() -> None:
        begun.set()
        release.wait(60)

    generator.before = wait
    with pytest.raises(BackendError, match="cancelled"):
        Terrain(generator).paint(job(), begun.is_set)
    release.set()


def test_the_terrain_model_is_opened_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terrain_module, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="pip install --no-deps adaptive-terrain-diffusion"):
        open_images("terrain", ImageOptions())
    package = ModuleType("terrain_diffusion")
    package.__dict__["TerrainGenerator"] = Generator
    monkeypatch.setitem(sys.modules, "terrain_diffusion", package)
    monkeypatch.setattr(terrain_module, "find_spec", lambda name: object())
    assert isinstance(open_images("terrain", ImageOptions()), Terrain)
    with pytest.raises(BackendError, match="leaves no model"):
        open_images("terrain", ImageOptions(denied_models=["*terrain"]))
