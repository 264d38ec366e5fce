"""ComfyUI: workflows of nodes, queued with POST /prompt and read from GET /history.

The default workflow is for checkpoints. One's own is a file in ComfyUI's API format, with
placeholders such as "%prompt%" (`workflow`). Pictures are previews, so that none stays in the
server's output folder.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import requests

from horde_proxy.pictures import Raster
from horde_proxy.printable import without_login
from horde_proxy.protocol.models import as_mapping
from horde_proxy.worker.backends.base import BackendDown, BackendError, JobRefused, ServerState
from horde_proxy.worker.backends.http_server import HttpServer, get, is_url, new_server_session
from horde_proxy.worker.backends.images.answers import MOST_BYTES, picture_in
from horde_proxy.worker.backends.images.base import (
    IMG2IMG,
    PAINTING,
    ImageOptions,
    MadePicture,
    PictureJob,
)
from horde_proxy.worker.backends.images.checkpoints import Checkpoint, chosen, plain_name
from horde_proxy.worker.backends.images.workflow import (
    Workflow,
    default_workflow,
    filled,
    placeholders_in,
    read_workflow,
)

_POLL_SECONDS = 0.3
_MOST_SECONDS = 1800.0
"""After which a picture is given up: a horde gives a job some minutes."""
_OWN_WORKFLOW = "comfyui"
"""The model's name where one's own workflow names the model itself."""


class ComfyServer(HttpServer):
    """A server that runs workflows, one after another."""

    post_processors: frozenset[str] = frozenset()

    def __init__(
        self,
        url: str,
        session: requests.Session,
        checkpoints: Sequence[Checkpoint],
        workflow: Workflow | None,
        options: ImageOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(url, session)
        self._checkpoints = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        self.models = tuple(self._checkpoints)
        self.max_pixels = options.max_pixels
        self._workflow, self._clock, self._pause = workflow, clock, pause
        self._samplers = self._inputs("sampler_name")

    @classmethod
    def open(cls, name: str, options: ImageOptions) -> ComfyServer | None:
        """The server at a URL; None where there is no such server. Raises BackendError."""
        if not is_url(name):
            return None
        url, session = name.rstrip("/"), new_server_session(options.api_key)
        files = _choices(session, url, "CheckpointLoaderSimple", "ckpt_name")
        if files is None:
            return None
        workflow = read_workflow(options.workflow) if options.workflow else None
        checkpoints = [Checkpoint(plain_name(file), file) for file in files]
        if workflow is not None and "model" not in placeholders_in(workflow):
            # The workflow loads its model itself, which has the name that the user gives it.
            offered = [Checkpoint(next(iter(options.models), _OWN_WORKFLOW), "")]
        else:
            offered = chosen(checkpoints, None, options, without_login(url))
        server = cls(url, session, offered, workflow, options)
        options.report(f"ComfyUI at {server.shown_url}")
        return server

    @property
    def features(self) -> frozenset[str]:
        """What the workflow has placeholders for; the default one can do all."""
        if self._workflow is None:
            return frozenset({IMG2IMG, PAINTING})
        known = placeholders_in(self._workflow)
        return frozenset(
            word for word, name in ((IMG2IMG, "image"), (PAINTING, "mask")) if name in known
        )

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        """The picture. Raises BackendError."""
        values = self._values(job, cancelled)
        workflow = self._workflow or default_workflow(job)
        answer = self.post("/prompt", {"prompt": filled(workflow, values)}, cancelled)
        key = as_mapping(answer).get("prompt_id")
        if not isinstance(key, str):
            raise BackendError(f"ComfyUI at {self.shown_url} takes no workflow")
        try:
            output = self._output(key, cancelled)
        except BackendError:
            self._cancel(key)
            raise
        return MadePicture(self._viewed(output, cancelled), job.seed)

    def state(self) -> ServerState:
        """How many workflows run or wait. Raises BackendDown."""
        queue = get(self._session, f"{self.url}/queue")
        if not isinstance(queue, dict):
            raise BackendDown(f"the backend at {self.shown_url} does not answer")
        lists = [queue.get(name) for name in ("queue_running", "queue_pending")]
        return ServerState(sum(len(entries) for entries in lists if isinstance(entries, list)))

    def slots(self) -> int:
        """One: workflows run one after another."""
        return 1

    def _values(self, job: PictureJob, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """What placeholders stand for."""
        return {
            "prompt": job.prompt,
            "negative_prompt": job.negative,
            "model": self._checkpoints[job.model].title,
            "seed": job.seed,
            "steps": job.steps,
            "scale": job.cfg_scale,
            "width": job.width,
            "height": job.height,
            "sampler": self._sampler(job.sampler),
            "scheduler": "karras" if job.karras else "normal",
            "denoise": job.strength if job.source else 1.0,
            # ComfyUI counts the layers from the end: -1 is the last.
            "clip_skip": -job.clip_skip,
            "image": self._uploaded(job.source, cancelled) if job.source else "",
            "mask": self._uploaded(job.mask, cancelled) if job.mask else "",
        }

    def _sampler(self, name: str) -> str:
        sampler = _SAMPLERS[name]
        if self._samplers and sampler not in self._samplers:
            self.note_left_out([name])
            return "euler_ancestral"
        return sampler

    def _uploaded(self, raster: Raster, cancelled: Callable[[], bool]) -> str:
        """The name under which the server has a picture. Raises BackendError."""
        # A name of its own: two jobs must not overwrite each other's sources.
        file = (f"horde-{random.getrandbits(64):016x}.png", raster.encoded("png"), "image/png")
        # Temporary files end with the server's next start: others' pictures must not stay.
        response = self.send(
            "/upload/image", cancelled, data={"type": "temp"}, files={"image": file}
        )
        answer = as_mapping(self.json_of(response))
        folder, name, kind = (answer.get(word) for word in ("subfolder", "name", "type"))
        if not isinstance(name, str):
            raise BackendError(f"ComfyUI at {self.shown_url} takes no pictures")
        path = f"{folder}/{name}" if folder else name
        # LoadImage reads "a.png [temp]" from that folder.
        return f"{path} [temp]" if kind == "temp" else path

    def _output(self, key: str, cancelled: Callable[[], bool]) -> Mapping[str, Any]:
        """The first picture of a workflow that has ended. Raises BackendError."""
        deadline = self._clock() + _MOST_SECONDS
        while self._clock() < deadline:
            if cancelled():
                raise BackendError("the call was cancelled", "cancelled by the worker")
            response = self.send(f"/history/{key}", cancelled, method="GET")
            entry = as_mapping(as_mapping(self.json_of(response)).get(key))
            if as_mapping(entry.get("status")).get("status_str") == "error":
                raise JobRefused(f"a workflow failed on ComfyUI at {self.shown_url}")
            if entry:
                return _first_image(entry)
            self._pause(_POLL_SECONDS)
        raise BackendError(f"ComfyUI at {self.shown_url} took too long")

    def _viewed(self, output: Mapping[str, Any], cancelled: Callable[[], bool]) -> Raster:
        names = ("filename", "subfolder", "type")
        query = urlencode({name: str(output.get(name) or "") for name in names})
        response = self.send(f"/view?{query}", cancelled, method="GET", most=MOST_BYTES)
        return picture_in(response.content)

    def _cancel(self, key: str) -> None:
        """Take a workflow out of the queue, or end it while it runs, and never another one."""
        get(self._session, f"{self.url}/queue", body={"delete": [key]})
        running = get(self._session, f"{self.url}/queue", "queue_running")
        # An entry is [number, key, workflow, ...]; older servers end whatever runs.
        if isinstance(running, list) and any(
            isinstance(entry, list) and key in entry[1:2] for entry in running
        ):
            get(self._session, f"{self.url}/interrupt", body={"prompt_id": key})

    def _inputs(self, name: str) -> Sequence[str]:
        return _choices(self._session, self.url, "KSampler", name) or ()


_SAMPLERS: Mapping[str, str] = {
    "k_lms": "lms",
    "k_heun": "heun",
    "k_euler": "euler",
    "k_euler_a": "euler_ancestral",
    "k_dpm_2": "dpm_2",
    "k_dpm_2_a": "dpm_2_ancestral",
    "k_dpm_fast": "dpm_fast",
    "k_dpm_adaptive": "dpm_adaptive",
    "k_dpmpp_2s_a": "dpmpp_2s_ancestral",
    "k_dpmpp_2m": "dpmpp_2m",
    "dpmsolver": "dpmpp_2m",
    "k_dpmpp_sde": "dpmpp_sde",
    "DDIM": "ddim",
    "lcm": "lcm",
}
"""The horde's samplers in ComfyUI's words."""


def _choices(session: requests.Session, url: str, node: str, name: str) -> Sequence[str] | None:
    """What an input of a node may be; None where there is no such node.

    GET /object_info has {"input": {"required": {name: [["a", "b"]]}}}, newer versions
    [["COMBO", {"options": ["a", "b"]}]].
    """
    kind = get(session, f"{url}/object_info/{node}", node, "input", "required", name)
    if not isinstance(kind, list) or not kind:
        return None
    options = kind[0]
    if isinstance(options, str) and len(kind) > 1:
        options = as_mapping(kind[1]).get("options")
    return [str(option) for option in options] if isinstance(options, list) else None


def _first_image(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first picture among a workflow's outputs. Raises BackendError."""
    for output in as_mapping(entry.get("outputs")).values():
        images = as_mapping(output).get("images")
        if isinstance(images, list) and images:
            return as_mapping(images[0])
    raise BackendError("the workflow gave no picture")
