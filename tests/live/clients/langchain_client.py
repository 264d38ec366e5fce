"""langchain-openai: tools, structured output, an async stream. Usage: BASE MODEL"""

import asyncio
import json
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

base, name = sys.argv[1:]
model = ChatOpenAI(model=name, base_url=base, api_key="none")


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather now."""
    return f"cold in {city}"


async def streamed() -> str:
    return "".join([str(piece.content) async for piece in model.astream("hello")])


calls = model.bind_tools([get_weather]).invoke("What is the weather in Oslo?").tool_calls
by_schema = model.with_structured_output(Person).invoke("Invent a person.")
by_call = model.with_structured_output(Person, method="function_calling").invoke("Invent a person.")
print(
    json.dumps(
        {
            "calls": [[call["name"], call["args"]] for call in calls],
            "by_schema": by_schema.model_dump(),
            "by_call": by_call.model_dump(),
            "streamed": asyncio.run(streamed()),
        }
    )
)
