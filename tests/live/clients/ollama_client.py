"""ollama: list, show, chat with tools, thoughts and a schema, generate. Usage: BASE MODEL"""

import json
import sys

import ollama

base, name = sys.argv[1:]
client = ollama.Client(base)


def get_weather(city: str) -> str:
    """The weather now.

    Args:
        city: where
    """
    return f"cold in {city}"


def chat(text: str, **options):
    return client.chat(name, [{"role": "user", "content": text}], **options)


messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
asked = client.chat(name, messages, tools=[get_weather]).message
[call] = asked.tool_calls
result = get_weather(**call.function.arguments)
messages += [asked, {"role": "tool", "content": result, "tool_name": call.function.name}]

thinking = list(chat("think and greet", stream=True, think=True))
schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
try:
    client.chat("no-such-model", messages)
    missing = 0
except ollama.ResponseError as exc:
    missing = exc.status_code
print(
    json.dumps(
        {
            "listed": name
            in [model.model.removesuffix(":latest") for model in client.list().models],
            "capable": "tools" in client.show(name).capabilities,
            "call": dict(call.function.arguments),
            "text": client.chat(name, messages, tools=[get_weather]).message.content,
            "thought": "".join(piece.message.thinking or "" for piece in thinking),
            "streamed": "".join(piece.message.content or "" for piece in thinking),
            "counted": thinking[-1].eval_count > 0,
            "object": json.loads(chat("Invent a person.", format=schema).message.content),
            "generated": client.generate(name, "hello").response,
            "missing": missing,
        }
    )
)
