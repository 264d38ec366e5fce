"""langchain-openai with Responses: tools, structured output, an async stream. Usage: BASE MODEL"""

import asyncio
import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

base, name = sys.argv[1:]
model = ChatOpenAI(model=name, base_url=base, api_key="none", use_responses_api=True)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather now."""
    return f"cold in {city}"


async def streamed() -> tuple[str, list]:
    """A text and calls, in one event loop: the model's connections belong to it."""
    text = "".join([piece.text async for piece in model.astream("think and greet")])
    whole = None
    async for piece in model.bind_tools([get_weather]).astream("What is the weather in Oslo?"):
        whole = piece if whole is None else whole + piece
    return text, [[call["name"], call["args"]] for call in whole.tool_calls]


question = HumanMessage("What is the weather in Oslo?")
asked = model.bind_tools([get_weather]).invoke([question])
[call] = asked.tool_calls
result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
print(
    json.dumps(
        {
            "calls": [[call["name"], call["args"]]],
            "text": model.bind_tools([get_weather]).invoke([question, asked, result]).text,
            "structure": model.with_structured_output(Person)
            .invoke("Invent a person.")
            .model_dump(),
            "streamed": asyncio.run(streamed()),
        }
    )
)
