"""Servers of images over real connections: files are sent whole, and a cancel reaches them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest
from werkzeug.serving import make_server

from horde_proxy.pictures import Raster
from horde_proxy.worker.backends import BackendError
from horde_proxy.worker.backends.images import ImageOptions, PictureJob, open_images
from tests.image_servers import FakeComfyUI, FakeOpenAIImages, FakeWebUI

SOURCE, MASK = Raster.plain(64, 128, (1, 2, 3)), Raster.plain(64, 128, (255, 255, 255))


@contextmanager
def backend_of(fake: Any, **options: Any) -> Iterator[Any]:
    """The backend of a fake that listens."""
    server = make_server("127.0.0.1", 0, fake.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield open_images(f"http://127.0.0.1:{server.server_port}", ImageOptions(**options))
    finally:
        server.shutdown()
        server.server_close()


def job(**fields: Any) -> PictureJob:
    return PictureJob("job-1", "dreamshaper_8", "a fox", 64, 128, 7, **fields)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (FakeWebUI, {}),
        (FakeComfyUI, {"models": ["dream*"]}),
        (FakeOpenAIImages, {"kind": "openai-images"}),
    ],
)
def test_a_source_and_a_mask_reach_a_server(
    make: Callable[[], Any], options: dict[str, Any]
) -> None:
    with backend_of(make(), **options) as backend:
        made = backend.paint(job(source=SOURCE, mask=MASK), lambda: False)
        assert made.raster.size == (64, 128)


def test_a_cancel_ends_a_picture_of_the_web_ui() -> None:
    fake, begun, release = FakeWebUI(), Event(), Event()

    def wait() -> None:
        begun.set()
        release.wait(60)

    fake.before = wait
    with backend_of(fake) as backend:
        with pytest.raises(BackendError, match="cancelled"):
            backend.paint(job(), begun.is_set)
        # The server is still at it, so that the call did not end by itself.
        assert fake.bodies("interrupt") == [{}]
        release.set()
