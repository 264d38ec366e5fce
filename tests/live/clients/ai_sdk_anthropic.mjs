// The AI SDK's provider for Anthropic: a stream, tools. Usage: node ai_sdk_anthropic.mjs BASE MODEL
import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, name] = process.argv.slice(2);
const model = createAnthropic({ baseURL, apiKey: "none" })(name);

const thinking = { type: "enabled", budgetTokens: 1024 };
const stream = streamText({
  model, prompt: "think and greet", providerOptions: { anthropic: { thinking } },
});
let streamed = "";
for await (const piece of stream.textStream) streamed += piece;

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

console.log(JSON.stringify({
  streamed, thought: await stream.reasoningText, finish: await stream.finishReason,
  asked, called: called.text,
}));
