// openai (JavaScript), unchanged: chat and Responses.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
const require = createRequire(process.argv[3] + "/");
const OpenAI = require("openai").OpenAI;
const KEY = process.env.TRIREME_CONFORMANCE_KEY ?? "x";
// Of a tenant that may have one request at a time, where the server knows tenants.
const BUSY_KEY = process.env.TRIREME_CONFORMANCE_BUSY_KEY ?? KEY;
const connect = (apiKey) =>
  new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey, timeout: 60000, maxRetries: 5 });
// Two messages to be sent at once with BUSY_KEY: one of them or both are refused first.
const busy = (name) => [1, 2].map((n) => `BUSY ${name}-${n} 1`);
const client = connect(KEY);
const model = "tiny";
const say = (content) => [{ role: "user", content }];
const CALL = 'CALL get_weather {"city": "Oslo"}';
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const cases = {
  chat: async () => {
    const answer = await client.chat.completions.create({ model, messages: say("SAY fjord") });
    assert.equal(answer.choices[0].message.content, "fjord");
    assert.equal((await client.responses.create({ model, input: "SAY fjord" })).output_text, "fjord");
  },
  stream: async () => {
    const stream = client.chat.completions.stream({ model, messages: say("SAY a b c") });
    assert.equal(await stream.finalContent(), "a b c");
    const events = client.responses.stream({ model, input: "SAY a b c" });
    assert.equal((await events.finalResponse()).output_text, "a b c");
  },
  tools: async () => {
    const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
    const answer = await client.chat.completions.create({ model, messages: say(CALL), tools });
    const call = answer.choices[0].message.tool_calls[0];
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });
    const result = { role: "tool", tool_call_id: call.id, content: "rain" };
    const messages = [...say(CALL), answer.choices[0].message, result];
    const second = await client.chat.completions.create({ model, messages, tools });
    assert.match(second.choices[0].message.content, /rain/);
    const flat = [{ type: "function", name: "get_weather", parameters, strict: false }];
    const response = await client.responses.create({ model, input: CALL, tools: flat });
    const asked = response.output.find((item) => item.type === "function_call");
    assert.deepEqual(JSON.parse(asked.arguments), { city: "Oslo" });
    const output = { type: "function_call_output", call_id: asked.call_id, output: "rain" };
    const input = [{ role: "user", content: CALL }, ...response.output, output];
    const told = client.responses.stream({ model, input, tools: flat });
    assert.match((await told.finalResponse()).output_text, /rain/);
  },
  "structured output": async () => {
    const json_schema = { name: "person", schema: { type: "object" } };
    const answer = await client.chat.completions.create({
      model, messages: say('SAY {"name": "Ada"}'), response_format: { type: "json_schema", json_schema },
    });
    assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "Ada" });
    const response = await client.responses.create({
      model, input: 'SAY {"name": "Ada"}', text: { format: { type: "json_schema", ...json_schema } },
    });
    assert.deepEqual(JSON.parse(response.output_text), { name: "Ada" });
  },
  errors: async () => {
    const unknown = client.chat.completions.create({ model: "no", messages: say("x") });
    await assert.rejects(unknown, (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
    const long = client.chat.completions.create({ model, messages: say("word ".repeat(140000)) });
    await assert.rejects(long, (e) => e.code === "context_length_exceeded" && e.param === "messages");
    const response = client.responses.create({ model, input: "word ".repeat(140000) });
    await assert.rejects(response, (e) => e.code === "context_length_exceeded" && e.param === "input");
  },
  retries: async () => {
    const patient = connect(BUSY_KEY);
    const ask = async (text) =>
      (await patient.chat.completions.create({ model, messages: say(text) })).choices[0].message.content;
    for (const text of await Promise.all(busy("openai-js").map(ask))) assert.ok(text);
    const respond = async (input) =>
      (await patient.responses.stream({ model, input }).finalResponse()).output_text;
    for (const text of await Promise.all(busy("openai-js-responses").map(respond))) assert.ok(text);
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(`ok openai-js: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED openai-js: ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
