"""The cases of OpenResponses' compliance tests, read by the types of its specification.

The tests themselves are in no registry; openresponses-types are generated from the same document.
Usage: BASE MODEL
"""

import base64
import json
import sys

import requests
from openresponses_types import types

base, name = sys.argv[1:]
# A picture of one pixel.
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
).decode()


def kind(event):
    """The type of a class of events: the one value of an enumeration."""
    [value] = event.model_fields["type"].annotation
    return value


EVENTS = {
    kind(event): event for label, event in vars(types).items() if label.endswith("StreamingEvent")
}


def post(body):
    answer = requests.post(f"{base}/responses", json={"model": name, **body}, timeout=60)
    answer.raise_for_status()
    return answer.text


def whole(**body):
    """The texts or called functions of an answer that fits the specification."""
    response = types.ResponseResource.model_validate_json(post(body))
    return said(response.model_dump(mode="json"))


def said(response):
    return [
        item["name"] if item["type"] == "function_call" else item["content"][0]["text"]
        for item in response["output"]
        if item["type"] in ("function_call", "message")
    ]


def streamed(**body):
    """The same of a stream whose events fit the specification."""
    events = [
        json.loads(line.removeprefix("data: "))
        for line in post({**body, "stream": True}).splitlines()
        if line.startswith("data: {")
    ]
    for event in events:
        EVENTS[event["type"]].model_validate(event)
    return said(events[-1]["response"])


def message(role, content):
    return {"type": "message", "role": role, "content": content}


TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather now.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
image = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
oslo = [message("user", "What is the weather in Oslo?")]
turns = [message("user", "hello"), message("assistant", "Hello!"), message("user", "bye")]
print(
    json.dumps(
        {
            "basic": whole(input=[message("user", "hello")]),
            "streaming": streamed(input=[message("user", "hello")]),
            "system": whole(input=[message("system", "Be kind."), message("user", "hello")]),
            "tools": whole(input=oslo, tools=[TOOL]),
            "streamed tools": streamed(input=oslo, tools=[TOOL]),
            "thoughts": streamed(input=[message("user", "think and greet")]),
            "image": whole(
                input=[message("user", [{"type": "input_text", "text": "hello"}, image])]
            ),
            "turns": whole(input=turns),
        }
    )
)
