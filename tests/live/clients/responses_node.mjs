// The openai package for Node with Responses: tools, stream, parse. Usage: node responses_node.mjs BASE MODEL
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none" });

const Person = z.object({ name: z.string(), age: z.number() });
const parsed = await client.responses.parse({
  model, input: "Invent a person.", text: { format: zodTextFormat(Person, "person") },
});

const tools = [{
  type: "function", name: "get_weather", strict: true,
  parameters: {
    type: "object", properties: { city: { type: "string" } }, required: ["city"],
    additionalProperties: false,
  },
}];
const names = new Set();
const stream = client.responses.stream({ model, input: "What is the weather in Oslo?", tools });
for await (const event of stream) names.add(event.type);
const first = await stream.finalResponse();
const [call] = first.output.filter((item) => item.type === "function_call");
const last = await client.responses.create({
  model, tools, previous_response_id: first.id,
  input: [{ type: "function_call_output", call_id: call.call_id, output: "cold in Oslo" }],
});

console.log(JSON.stringify({
  person: parsed.output_parsed,
  call: JSON.parse(call.arguments),
  whole: names.has("response.function_call_arguments.done"),
  text: last.output_text,
  status: last.status,
}));
