// The AI SDK: generateImage, which sends one request for each picture. Usage: BASE MODEL
import * as ai from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const [base, name] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "proxy", baseURL: base, apiKey: "none" });
const generate = ai.generateImage ?? ai.experimental_generateImage;
const { images } = await generate({ model: provider.imageModel(name), prompt: "a fox", n: 2 });
console.log(JSON.stringify(images.map((image) => image.mediaType)));
