// ollama for JavaScript, and the AI SDK's provider for it. Usage: node ollama_node.mjs BASE MODEL
import { generateText, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";

const [host, name] = process.argv.slice(2);
const client = new Ollama({ host });
let streamed = "";
const messages = [{ role: "user", content: "hello" }];
for await (const piece of await client.chat({ model: name, messages, stream: true })) {
  streamed += piece.message.content;
}

const model = createOllama({ baseURL: `${host}/api` })(name);
const asked = [];
const called = await generateText({
  model,
  prompt: "What is the weather in Oslo?",
  stopWhen: stepCountIs(4),
  tools: {
    get_weather: tool({
      description: "The weather now.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => { asked.push(city); return `cold in ${city}`; },
    }),
  },
});
const stream = streamText({ model, prompt: "hello" });
let provided = "";
for await (const piece of stream.textStream) provided += piece;

console.log(JSON.stringify({
  streamed, asked, called: called.text, provided, finish: await stream.finishReason,
}));
