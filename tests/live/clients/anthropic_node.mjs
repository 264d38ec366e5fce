// @anthropic-ai/sdk: the stream helper, thinking, tools with results. Usage: node anthropic_node.mjs BASE MODEL
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: "none" });

const stream = client.messages.stream({
  model, max_tokens: 2000, messages: [{ role: "user", content: "think and greet" }],
  thinking: { type: "enabled", budget_tokens: 1024 },
});
let streamed = "";
stream.on("text", (piece) => { streamed += piece; });
const greeting = await stream.finalMessage();

const tools = [{
  name: "get_weather",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
}];
const messages = [{ role: "user", content: "What is the weather in Oslo?" }];
const called = await client.messages.stream({ model, max_tokens: 1000, tools, messages }).finalMessage();
const [call] = called.content.filter((block) => block.type === "tool_use");
messages.push(
  { role: "assistant", content: called.content },
  { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "cold in Oslo" }] },
);
const final = await client.messages.create({ model, max_tokens: 1000, tools, messages });

console.log(JSON.stringify({
  streamed,
  thoughts: greeting.content.filter((block) => block.type === "thinking").map((block) => block.thinking),
  call: call.input, reason: called.stop_reason,
  text: final.content[0].text, stop: final.stop_reason,
}));
