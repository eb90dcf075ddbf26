// OpenAI's client for Node, unchanged.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { HEARTH_URL, HEARTH_MODEL: model } = process.env;
const client = new OpenAI({ baseURL: `${HEARTH_URL}/v1`, apiKey: "none", maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "What is the capital of France?" }];

const cases = {
  async "models"() {
    assert.deepEqual((await client.models.list()).data.map((one) => one.id), [model]);
  },
  async "chat"() {
    const answer = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 40 });
    assert.match(answer.choices[0].message.content, /Paris/);
  },
  async "chat stream"() {
    const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 40 });
    let text = "";
    for await (const event of await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 40, stream: true })) {
      text += event.choices[0]?.delta.content ?? "";
    }
    assert.equal(text, whole.choices[0].message.content);
  },
  async "chat with a schema"() {
    const schema = {
      type: "object",
      properties: { legs: { type: "integer", minimum: 0, maximum: 100 } },
      required: ["legs"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "animal", strict: true, schema } };
    const answer = await client.chat.completions.create({ model, messages, response_format, max_tokens: 100 });
    assert.equal(typeof JSON.parse(answer.choices[0].message.content).legs, "number");
  },
  async "an answer that is left"() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const _ of stream) break;
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 4 });
    assert.ok(answer.choices.length);
  },
  async "response"() {
    const answer = await client.responses.create({ model, input: "What is the capital of France?", temperature: 0 });
    assert.match(answer.output_text, /Paris/);
  },
  async "response stream"() {
    const kinds = [];
    const stream = await client.responses.create({ model, input: "Tell me a story.", max_output_tokens: 40, stream: true });
    for await (const event of stream) kinds.push(event.type);
    assert.equal(kinds[0], "response.created");
    assert.match(kinds.at(-1), /^response\.(completed|incomplete)$/);
    assert.ok(kinds.includes("response.output_text.delta"));
  },
  async "embeddings"() {
    const answer = await client.embeddings.create({ model, input: ["a cat", "a dog"], dimensions: 16 });
    assert.deepEqual(answer.data.map((one) => one.embedding.length), [16, 16]);
  },
};

for (const [name, test] of Object.entries(cases)) {
  try {
    await test();
    console.log(`  ok    ${name}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`  FAIL  ${name}\n${error.stack}`);
  }
}
