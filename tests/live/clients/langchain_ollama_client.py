"""langchain-ollama: tools, structured output, a stream. Usage: BASE MODEL"""

import json
import sys

from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from pydantic import BaseModel

base, name = sys.argv[1:]
model = ChatOllama(model=name, base_url=base)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather now."""
    return f"cold in {city}"


calls = model.bind_tools([get_weather]).invoke("What is the weather in Oslo?").tool_calls
print(
    json.dumps(
        {
            "calls": [[call["name"], call["args"]] for call in calls],
            "structure": model.with_structured_output(Person)
            .invoke("Invent a person.")
            .model_dump(),
            "streamed": "".join(piece.text for piece in model.stream("hello")),
        }
    )
)
