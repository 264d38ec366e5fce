// The AI SDK with OpenAI's own provider: generateImage, and a change of its picture. Usage: BASE
import { generateImage } from "ai";
import { createOpenAI } from "@ai-sdk/openai";

const [base] = process.argv.slice(2);
const model = createOpenAI({ baseURL: base, apiKey: "none" }).image("gpt-image-1");
const made = await generateImage({ model, prompt: "a fox", n: 2, size: "1024x1024" });
const changed = await generateImage({
  model,
  prompt: { text: "a fox with a hat", images: [made.images[0].uint8Array] },
});
console.log(JSON.stringify([...made.images, ...changed.images].map((image) => image.mediaType)));
