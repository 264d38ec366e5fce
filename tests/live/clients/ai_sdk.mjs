// The AI SDK with openai-compatible: tools, streams, objects. Usage: node ai_sdk.mjs BASE MODEL
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, name] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "horde", baseURL, apiKey: "none" })(name);

const asked = [];
const { text, steps } = await generateText({
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

let streamed = "";
const result = streamText({ model, prompt: "hello" });
for await (const piece of result.textStream) streamed += piece;

const { object } = await generateObject({
  model, prompt: "Invent a person.", schema: z.object({ name: z.string(), age: z.number() }),
});

console.log(JSON.stringify({
  asked, text, steps: steps.length, streamed, finish: await result.finishReason, object,
}));
