// Reads a streamed answer: events out of bytes, then what they add up to.

/** The payloads of a body of server-sent events, wherever the network cuts it. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    text += done ? "\n\n" : value;
    for (let end; (end = text.search(/\r\n|\n|\r(?!$)/)) >= 0; ) {
      const line = text.slice(0, end);
      text = text.slice(end + (text.startsWith("\r\n", end) ? 2 : 1));
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
    if (done) return;
  }
}

/** An answer that grows. */
export function blank() {
  return { content: "", reasoning: "", calls: [], tokens: 0, finish: null };
}

/** Adds one chunk of a chat; throws if it tells of a failure. */
export function add(answer, chunk) {
  if (chunk.error) throw new Error(chunk.error.message || "the answer broke off");
  if (chunk.usage) answer.tokens = chunk.usage.completion_tokens;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta || {};
  if (delta.content) answer.content += delta.content;
  if (delta.reasoning_content) answer.reasoning += delta.reasoning_content;
  for (const part of delta.tool_calls || []) {
    const call = (answer.calls[part.index ?? 0] ||= { id: "", name: "", arguments: "" });
    if (part.id) call.id = part.id;
    if (part.function?.name) call.name += part.function.name;
    if (part.function?.arguments) call.arguments += part.function.arguments;
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}
