"""anthropic: the stream helper, thinking, tools with results, tokens, models. Usage: BASE MODEL"""

import json
import sys

import anthropic
from anthropic import beta_tool

base, name = sys.argv[1:]
client = anthropic.Anthropic(base_url=base, api_key="none")
say = [{"role": "user", "content": "think and greet"}]

thinking = {"type": "enabled", "budget_tokens": 1024}
with client.messages.stream(model=name, max_tokens=2000, messages=say, thinking=thinking) as stream:
    streamed = "".join(stream.text_stream)
    thoughts = [
        block.thinking for block in stream.get_final_message().content if block.type == "thinking"
    ]

asked = []


@beta_tool
def get_weather(city: str) -> str:
    """The weather now."""
    asked.append(city)
    return f"cold in {city}"


question = [{"role": "user", "content": "What is the weather in Oslo?"}]
runner = client.beta.messages.tool_runner(
    model=name, max_tokens=1000, tools=[get_weather], messages=question
)
final = runner.until_done()
counted = client.messages.count_tokens(model=name, messages=say)
listed = [model.id for model in client.models.list()]
try:
    client.messages.create(model="no-such-model", max_tokens=9, messages=say)
    missing = ""
except anthropic.NotFoundError as exc:
    missing = exc.body["error"]["type"]
print(
    json.dumps(
        {
            "streamed": streamed,
            "thoughts": thoughts,
            "asked": asked,
            "text": final.content[0].text,
            "stop": final.stop_reason,
            "counted": counted.input_tokens > 0,
            "listed": name in listed,
            "missing": missing,
        }
    )
)
