// openai-agents for JavaScript: an agent with a tool, whole and streamed. Usage: node agents_node.mjs BASE MODEL
import { Agent, OpenAIProvider, Runner, tool } from "@openai/agents";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const modelProvider = new OpenAIProvider({ baseURL, apiKey: "none" });
const runner = new Runner({ modelProvider, tracingDisabled: true });

const asked = [];
const agent = new Agent({
  name: "Weather",
  instructions: "Answer briefly.",
  model,
  tools: [tool({
    name: "get_weather",
    description: "The weather now.",
    parameters: z.object({ city: z.string() }),
    execute: async ({ city }) => { asked.push(city); return `cold in ${city}`; },
  })],
});

const whole = await runner.run(agent, "What is the weather in Oslo?");
const stream = await runner.run(agent, "What is the weather in Oslo?", { stream: true });
let streamed = "";
for await (const piece of stream.toTextStream()) streamed += piece;
await stream.completed;

console.log(JSON.stringify({ asked, whole: whole.finalOutput, streamed, final: stream.finalOutput }));
