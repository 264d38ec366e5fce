// The AI SDK's default provider for OpenAI: two turns, tools, an object. Usage: node ai_sdk_responses.mjs BASE MODEL
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, name] = process.argv.slice(2);
const model = createOpenAI({ baseURL, apiKey: "none" })(name);

const messages = [{ role: "user", content: "think and greet" }];
const first = streamText({ model, messages });
let streamed = "";
for await (const piece of first.textStream) streamed += piece;
messages.push(...(await first.response).messages, { role: "user", content: "bye" });
const second = await generateText({ model, messages });

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
const { object } = await generateObject({
  model, prompt: "Invent a person.", schema: z.object({ name: z.string(), age: z.number() }),
});

console.log(JSON.stringify({
  streamed, thought: await first.reasoningText, finish: await first.finishReason,
  second: second.text, asked, called: called.text, object,
}));
