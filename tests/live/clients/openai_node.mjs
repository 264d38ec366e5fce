// The openai package for Node: runTools, parse, a stream helper. Usage: node openai_node.mjs BASE MODEL
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none" });
const say = (content) => [{ role: "user", content }];

const asked = [];
const runner = client.chat.completions.runTools({
  model,
  messages: say("What is the weather in Oslo?"),
  tools: [{
    type: "function",
    function: {
      name: "get_weather",
      parse: JSON.parse,
      function: ({ city }) => { asked.push(city); return `cold in ${city}`; },
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  }],
});
const final = await runner.finalContent();

const Person = z.object({ name: z.string(), age: z.number() });
const parsed = await client.chat.completions.parse({
  model, messages: say("Invent a person."), response_format: zodResponseFormat(Person, "person"),
});

let streamed = "";
const stream = client.chat.completions.stream({ model, messages: say("hello"), stream: true });
for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
const whole = await stream.finalChatCompletion();

console.log(JSON.stringify({
  asked, final, person: parsed.choices[0].message.parsed, streamed,
  finish: whole.choices[0].finish_reason,
}));
