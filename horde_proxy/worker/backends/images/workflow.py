"""Workflows for ComfyUI: the default one, and one's own with placeholders. No calls.

A workflow is ComfyUI's API format: {"3": {"class_type": "KSampler", "inputs": {...}}}. Placeholders
are SillyTavern's, so that its workflows work here: "%prompt%" within any text, and alone as the
value itself, as in "seed": "%seed%".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from horde_proxy.json_reading import parse_json
from horde_proxy.worker.backends.base import BackendError
from horde_proxy.worker.backends.images.base import PictureJob

Workflow = Mapping[str, Any]

NAMES = (
    "prompt",
    "negative_prompt",
    "model",
    "seed",
    "steps",
    "scale",
    "width",
    "height",
    "sampler",
    "scheduler",
    "denoise",
    "clip_skip",
    "image",
    "mask",
)
# "%negative_prompt%" in a file of the user.
_PLACEHOLDER = re.compile(rf"%({'|'.join(NAMES)})%")


def read_workflow(path: Path) -> Workflow:
    """The workflow of a file. Raises BackendError."""
    try:
        workflow = parse_json(path.read_bytes())
    except OSError as exc:
        raise BackendError(f"the workflow {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise BackendError(f"the workflow {path} is no JSON") from exc
    nodes = workflow.values() if isinstance(workflow, dict) else ()
    if not nodes or not all(isinstance(node, dict) and "class_type" in node for node in nodes):
        raise BackendError(
            f"the workflow {path} is not in the API format: export it with Workflow > Export (API)"
        )
    if "prompt" not in placeholders_in(workflow):
        raise BackendError(f'the workflow {path} has no "%prompt%": write it where the prompt goes')
    return dict(workflow)


def placeholders_in(workflow: Workflow) -> frozenset[str]:
    """The names of the placeholders that a workflow has."""
    return frozenset(_PLACEHOLDER.findall(json.dumps(workflow, ensure_ascii=False)))


def filled(value: Any, values: Mapping[str, Any]) -> Any:
    """A workflow, or a part of it, with values in the place of placeholders."""
    if isinstance(value, Mapping):
        return {name: filled(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    if alone := _PLACEHOLDER.fullmatch(value):
        return values[alone[1]]
    # One pass: a prompt that holds "%seed%" itself keeps it.
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), value)


def default_workflow(job: PictureJob) -> Workflow:
    """The workflow for a checkpoint, with a source and a mask where the job has them."""
    workflow: dict[str, Any] = {
        "model": _node("CheckpointLoaderSimple", ckpt_name="%model%"),
        "clip": _node("CLIPSetLastLayer", clip=["model", 1], stop_at_clip_layer="%clip_skip%"),
        "positive": _node("CLIPTextEncode", text="%prompt%", clip=["clip", 0]),
        "negative": _node("CLIPTextEncode", text="%negative_prompt%", clip=["clip", 0]),
        "latent": _node("EmptyLatentImage", width="%width%", height="%height%", batch_size=1),
        "sampled": _node(
            "KSampler",
            model=["model", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed="%seed%",
            steps="%steps%",
            cfg="%scale%",
            sampler_name="%sampler%",
            scheduler="%scheduler%",
            denoise="%denoise%",
        ),
        "decoded": _node("VAEDecode", samples=["sampled", 0], vae=["model", 2]),
        "preview": _node("PreviewImage", images=["decoded", 0]),
    }
    if job.source is None:
        return workflow
    workflow["source"] = _node("LoadImage", image="%image%")
    workflow["latent"] = _node("VAEEncode", pixels=["source", 0], vae=["model", 2])
    if job.mask is not None:
        # White in the red channel is 1, which this node paints anew.
        workflow["mask"] = _node("LoadImageMask", image="%mask%", channel="red")
        workflow["masked"] = _node("SetLatentNoiseMask", samples=["latent", 0], mask=["mask", 0])
        workflow["sampled"]["inputs"]["latent_image"] = ["masked", 0]
    return workflow


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
