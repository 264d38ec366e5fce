"""openai-agents: an agent with a tool, whole and streamed. Usage: BASE MODEL"""

import asyncio
import json
import sys

from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool

base, name = sys.argv[1:]
question = "What is the weather in Oslo?"
asked = []


@function_tool
def get_weather(city: str) -> str:
    """The weather now."""
    asked.append(city)
    return f"cold in {city}"


async def main() -> None:
    provider = OpenAIProvider(base_url=base, api_key="none")
    config = RunConfig(model_provider=provider, tracing_disabled=True)
    agent = Agent(
        name="Weather",
        instructions="Answer briefly.",
        model=name,
        tools=[get_weather],
    )
    whole = await Runner.run(agent, question, run_config=config)
    stream = Runner.run_streamed(agent, question, run_config=config)
    pieces = [
        event.data.delta
        async for event in stream.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    found = {"asked": asked, "whole": whole.final_output, "streamed": "".join(pieces)}
    print(json.dumps({**found, "final": stream.final_output}))


asyncio.run(main())
