"""Servers of images after their documented APIs, as Flask apps: A1111 and ComfyUI.

They check what they are sent, and make pictures of one colour in the size that was wanted.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

import requests
import responses
from flask import Flask, Response, jsonify, request

from horde_proxy.pictures import Raster, decoded

COLOUR = (10, 120, 30)


def serve(url: str, app: Flask) -> None:
    """Let calls to a URL reach the app, while `responses` is active."""
    client = app.test_client()

    def answer(call: requests.PreparedRequest) -> tuple[int, Mapping[str, str], bytes]:
        reply = client.open(
            call.path_url, method=call.method, data=call.body, headers=dict(call.headers)
        )
        return reply.status_code, {"Content-Type": reply.content_type}, reply.get_data()

    for method in ("GET", "POST"):
        responses.add_callback(method, re.compile(re.escape(url) + ".*"), callback=answer)


def picture(width: int, height: int) -> str:
    return base64.b64encode(Raster.plain(width, height, COLOUR).encoded("png")).decode()


class FakeWebUI:
    """AUTOMATIC1111's web UI 1.10. `calls` are (route, body); `before` is called at each picture.

    Without schedulers it is a version before 1.9. `lacks` is a route that it does not have.
    """

    def __init__(self, *, has_schedulers: bool = True, has_rembg: bool = False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.before: Callable[[], Any] = lambda: None
        self.options: dict[str, Any] = {"sd_model_checkpoint": "dreamshaper_8.safetensors [879]"}
        self.lacks = ""
        self.progress: dict[str, Any] = {"progress": 0.0, "state": {"job_count": 0}}
        self.has_schedulers, self.has_rembg = has_schedulers, has_rembg
        self.upscalers = ["None", "Lanczos", "R-ESRGAN 4x+", "R-ESRGAN 4x+ Anime6B"]
        self.app = Flask("a1111")
        add = self.app.add_url_rule
        for route in ("sd-models", "options", "samplers", "schedulers", "upscalers", "progress"):
            add(f"/sdapi/v1/{route}", route, self._list, defaults={"route": route})
        for route in ("txt2img", "img2img", "extra-single-image", "interrupt"):
            add(
                f"/sdapi/v1/{route}", route, self._work, defaults={"route": route}, methods=["POST"]
            )
        add("/openapi.json", "openapi", self._openapi)
        add("/rembg", "rembg", self._rembg, methods=["POST"])

    def bodies(self, route: str) -> list[Any]:
        return [body for name, body in self.calls if name == route]

    def _list(self, route: str) -> Any:
        samplers = ["DPM++ 2M", "Euler a", "Euler", "DPM++ SDE", "LCM"]
        if not self.has_schedulers:
            samplers += ["DPM++ 2M Karras", "DPM++ SDE Karras"]
        lists: dict[str, Any] = {
            "sd-models": [
                {"title": f"{name}.safetensors [879]", "model_name": name, "filename": "/x"}
                for name in ("dreamshaper_8", "sd_xl_base_1.0")
            ],
            "options": self.options,
            "samplers": [{"name": name, "aliases": [], "options": {}} for name in samplers],
            "upscalers": [{"name": name, "scale": 4} for name in self.upscalers],
            "progress": self.progress,
        }
        if self.has_schedulers:
            lists["schedulers"] = [{"name": "karras", "label": "Karras"}]
        answer = None if route == self.lacks else lists.get(route)
        return (jsonify(detail="Not Found"), 404) if answer is None else jsonify(answer)

    def _work(self, route: str) -> Any:
        body = request.get_json()
        self.calls.append((route, body))
        if route == "interrupt":
            return jsonify({})
        if route == "extra-single-image":
            factor = body.get("upscaling_resize", 1)
            width, height = Raster.read(decoded(body["image"])).size
            return jsonify(image=picture(width * factor, height * factor), html_info="")
        self.before()
        if self.has_schedulers is False and "scheduler" in body:
            return jsonify(detail="extra field"), 422
        for name in ("init_images", "mask"):
            images = body.get(name) or []
            for image in [images] if isinstance(images, str) else images:
                assert Raster.read(decoded(image)).size == (body["width"], body["height"])
        width, height = body.get("hr_resize_x", body["width"]), body.get("hr_resize_y")
        return jsonify(images=[picture(width, height or body["height"])], info="{}")

    def _openapi(self) -> Any:
        return jsonify(paths={"/rembg": {}} if self.has_rembg else {})

    def _rembg(self) -> Any:
        self.calls.append(("rembg", request.get_json()))
        return jsonify(image=request.get_json()["input_image"])


class FakeComfyUI:
    """ComfyUI. `waits` are the looks at its history until a workflow has ended."""

    def __init__(self, *, is_new: bool = True) -> None:
        self.workflows: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.deleted: list[Any] = []
        self.interrupted: list[Any] = []
        self.running: list[Any] = []
        self.waits, self.fails, self.is_new = 1, False, is_new
        self.app = Flask("comfyui")
        for rule, view, method in (
            ("/object_info/<node>", self._info, "GET"),
            ("/prompt", self._prompt, "POST"),
            ("/history/<key>", self._history, "GET"),
            ("/view", self._view, "GET"),
            ("/upload/image", self._upload, "POST"),
            ("/queue", self._queue, "GET"),
            ("/queue", self._delete, "POST"),
            ("/interrupt", self._interrupt, "POST"),
        ):
            self.app.add_url_rule(rule, f"{method} {rule}", view, methods=[method])

    def _info(self, node: str) -> Any:
        inputs = {
            "CheckpointLoaderSimple": {"ckpt_name": ["dreamshaper_8.safetensors", "xl/sdxl.ckpt"]},
            "KSampler": {
                "sampler_name": ["euler", "euler_ancestral", "dpmpp_2m"],
                "scheduler": ["normal", "karras"],
            },
        }[node]
        kinds = {
            name: ["COMBO", {"options": options}] if self.is_new else [options]
            for name, options in inputs.items()
        }
        return jsonify({node: {"input": {"required": kinds}}})

    def _prompt(self) -> Any:
        workflow = request.get_json()["prompt"]
        for node in workflow.values():
            assert isinstance(node["class_type"], str)
            assert "%" not in str(node["inputs"].get("seed"))
        self.workflows.append(workflow)
        return jsonify(prompt_id="id-1", number=1, node_errors={})

    def _history(self, key: str) -> Any:
        self.waits -= 1
        if self.waits >= 0:
            return jsonify({})
        if self.fails:
            return jsonify({key: {"outputs": {}, "status": {"status_str": "error"}}})
        image = {"filename": "ComfyUI_temp_1.png", "subfolder": "", "type": "temp"}
        return jsonify(
            {key: {"outputs": {"preview": {"images": [image]}}, "status": {"completed": True}}}
        )

    def _view(self) -> Any:
        assert dict(request.args) == {
            "filename": "ComfyUI_temp_1.png",
            "subfolder": "",
            "type": "temp",
        }
        return Response(Raster.plain(64, 128, COLOUR).encoded("png"), content_type="image/png")

    def _upload(self) -> Any:
        file = request.files["image"]
        kind = request.form.get("type", "input")
        self.uploads[f"{file.filename} [{kind}]"] = file.read()
        return jsonify(name=file.filename, subfolder="", type=kind)

    def _queue(self) -> Any:
        return jsonify(queue_running=self.running, queue_pending=[])

    def _delete(self) -> Any:
        self.deleted += request.get_json()["delete"]
        return "", 200

    def _interrupt(self) -> Any:
        self.interrupted.append(request.get_json())
        return "", 200


class FakeOpenAIImages:
    """A server with OpenAI's images and chat APIs. `fields` are all that it knows of a body.

    `answers` are what its model says in chats, one after another.
    """

    def __init__(self, *models: str, fields: frozenset[str] | None = None) -> None:
        self.models, self.fields = models or ("dreamshaper_8",), fields
        self.bodies: list[dict[str, Any]] = []
        self.files: list[dict[str, Raster]] = []
        self.chats: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self.size = (64, 128)
        self.app = Flask("openai")
        for rule, view, method in (
            ("/v1/models", self._models, "GET"),
            ("/v1/images/generations", self._generate, "POST"),
            ("/v1/images/edits", self._edit, "POST"),
            ("/v1/chat/completions", self._chat, "POST"),
        ):
            self.app.add_url_rule(rule, f"{method} {rule}", view, methods=[method])

    def _models(self) -> Any:
        return jsonify(data=[{"id": model, "object": "model"} for model in self.models])

    def _generate(self) -> Any:
        return self._made(request.get_json())

    def _edit(self) -> Any:
        files = {name: Raster.read(file.read()) for name, file in request.files.items()}
        self.files.append(files)
        return self._made(dict(request.form))

    def _made(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        if self.fields is not None and set(body) - self.fields:
            return jsonify(error={"message": "Unknown parameter"}), 400
        return jsonify(created=1, data=[{"b64_json": picture(*self.size)}])

    def _chat(self) -> Any:
        self.chats.append(request.get_json())
        message = {"role": "assistant", "content": self.answers.pop(0)}
        return jsonify(choices=[{"index": 0, "message": message, "finish_reason": "stop"}])
