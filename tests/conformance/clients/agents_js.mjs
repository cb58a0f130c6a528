// OpenAI Agents SDK (JavaScript), unchanged, over chat completions and over Responses.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
const require = createRequire(process.argv[3] + "/");
const { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, run, setTracingDisabled, tool } =
  require("@openai/agents");
const OpenAI = require("openai").OpenAI;
const { z } = require("zod");
setTracingDisabled(true);

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "x", timeout: 60000 });
const models = [new OpenAIChatCompletionsModel(client, "tiny"), new OpenAIResponsesModel(client, "tiny")];
const agent = (model, more = {}) => new Agent({ name: "a", model, ...more });
const CALL = 'CALL get_weather {"city": "Oslo"}';
const weather = tool({
  name: "get_weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `rain in ${city}`,
});

async function streamed(one, input) {
  const result = await run(one, input, { stream: true });
  let text = "";
  for await (const event of result) {
    if (event.type === "raw_model_stream_event" && event.data.type === "output_text_delta") {
      text += event.data.delta;
    }
  }
  await result.completed;
  return { text, result };
}

const cases = {
  chat: async (model) => {
    assert.equal((await run(agent(model), "SAY fjord")).finalOutput, "fjord");
  },
  stream: async (model) => {
    const { text, result } = await streamed(agent(model), "SAY a b c");
    assert.equal(text, "a b c");
    assert.equal(result.finalOutput, "a b c");
    assert.ok(result.rawResponses[0].usage.outputTokens > 0);
  },
  tools: async (model) => {
    const one = agent(model, { tools: [weather] });
    assert.match((await run(one, CALL)).finalOutput, /rain in Oslo/);
    const { result } = await streamed(one, CALL);
    assert.match(result.finalOutput, /rain in Oslo/);
  },
  "structured output": async (model) => {
    const outputType = z.object({ name: z.string(), age: z.number() });
    const person = { name: "Ada", age: 36 };
    const input = `SAY ${JSON.stringify(person)}`;
    assert.deepEqual((await run(agent(model, { outputType }), input)).finalOutput, person);
    const { result } = await streamed(agent(model, { outputType }), input);
    assert.deepEqual(result.finalOutput, person);
  },
  errors: async (model) => {
    const long = "word ".repeat(140000);
    const tooLong = (e) => e instanceof OpenAI.BadRequestError && e.code === "context_length_exceeded";
    await assert.rejects(run(agent(model), long), tooLong);
    await assert.rejects(streamed(agent(model), long), tooLong);
  },
  retries: async (model, index) => {
    assert.ok((await run(agent(model), `BUSY agents-js-${index} 1`)).finalOutput);
    assert.ok((await streamed(agent(model), `BUSY agents-js-streamed-${index} 1`)).text);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(cases)) {
  try {
    for (const [index, model] of models.entries()) await check(model, index);
    console.log(`ok agents-js: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED agents-js: ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
