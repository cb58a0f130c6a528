// OpenAI Agents SDK (JavaScript), unchanged, over chat completions and over Responses.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
const require = createRequire(process.argv[3] + "/");
const { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, run, setTracingDisabled, tool } =
  require("@openai/agents");
const OpenAI = require("openai").OpenAI;
const { z } = require("zod");
setTracingDisabled(true);

const KEY = process.env.TRIREME_CONFORMANCE_KEY ?? "x";
// Of a tenant that may have one request at a time, where the server knows tenants.
const BUSY_KEY = process.env.TRIREME_CONFORMANCE_BUSY_KEY ?? KEY;
const connect = (apiKey) =>
  new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey, timeout: 60000, maxRetries: 5 });
// Two messages to be sent at once with BUSY_KEY: one of them or both are refused first.
const busy = (name) => [1, 2].map((n) => `BUSY ${name}-${n} 1`);
const modelsOf = (client) =>
  [new OpenAIChatCompletionsModel(client, "tiny"), new OpenAIResponsesModel(client, "tiny")];
const models = modelsOf(connect(KEY));
const patient = modelsOf(connect(BUSY_KEY));
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
  retries: async (_, index) => {
    const one = agent(patient[index]);
    const told = await Promise.all(busy(`agents-js-${index}`).map((text) => run(one, text)));
    for (const each of told) assert.ok(each.finalOutput);
    const came = await Promise.all(
      busy(`agents-js-streamed-${index}`).map((text) => streamed(one, text)),
    );
    for (const each of came) assert.ok(each.text);
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
