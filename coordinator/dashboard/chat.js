// A conversation with the model that is served. It lives in this tab alone and is gone when it is closed.
import { Refusal, UNREACHED, headers, refusal } from "./ask.js";
import { byId, el, rate, seconds, whole } from "./page.js";
import { prose } from "./prose.js";
import { add, blank, events } from "./stream.js";

/** An answer is laid out anew at most this often while it grows. */
const PAINT_MS = 90;
const talk = [];
let house = null;
let running = null;

export function begin(facts) {
  house = facts;
  byId("write").addEventListener("submit", (event) => {
    event.preventDefault();
    say(byId("say").value);
  });
  byId("say").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    say(byId("say").value);
  });
  byId("say").addEventListener("input", grow);
  byId("stop").addEventListener("click", () => running?.abort());
  byId("fresh").addEventListener("click", fresh);
  byId("heat").addEventListener("input", dials);
  byId("heat-own").addEventListener("change", dials);
  dials();
  empty();
}

function dials() {
  byId("heat").disabled = byId("heat-own").checked;
  byId("heat-shown").textContent = byId("heat-own").checked ? "" : Number(byId("heat").value).toFixed(1);
}

function grow() {
  const box = byId("say");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 220)}px`;
}

function fresh() {
  running?.abort();
  talk.length = 0;
  empty();
  byId("say").focus();
}

function empty() {
  byId("talk").replaceChildren(el("p.empty.start", "Ask something. The answer comes from the machines in your house, and what you write stays in them."));
}

export function showChat({ status, error }) {
  const ready = status?.ready && error?.status !== 0;
  byId("send").disabled = !ready || running !== null;
  byId("chat-note").textContent = ready ? "" : error?.status === 0 ? UNREACHED : status ? `The model is not ready: ${status.detail || status.phase}` : "";
}

function say(text) {
  if (running || byId("send").disabled || !text.trim()) return;
  byId("say").value = "";
  grow();
  put({ role: "user", content: text });
  answer();
}

/** Adds a message to the conversation and the page. */
function put(message) {
  if (!talk.length) byId("talk").replaceChildren();
  talk.push(message);
  const [kind, label] = { user: ["user", "You"], tool: ["given", "A tool's result"], assistant: ["assistant", "The model"] }[message.role];
  message.node = el(`article.${kind}`, { "aria-label": label });
  if (message.role === "user") message.node.append(el("div.bubble", message.content));
  if (message.role === "tool") message.node.append(el("div.bubble.mono", message.content));
  byId("talk").append(message.node);
  byId("talk").scrollTop = byId("talk").scrollHeight;
  return message;
}

/** What is sent: without reasoning, and without answers that broke off empty. */
function request() {
  const system = byId("system").value.trim();
  const said = talk.filter((one) => one.role !== "assistant" || one.content || one.calls?.length);
  const messages = said.map((one) => {
    if (one.role === "tool") return { role: "tool", tool_call_id: one.call, content: one.content };
    const message = { role: one.role, content: one.content };
    if (one.calls?.length) message.tool_calls = one.calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
    return message;
  });
  if (system) messages.unshift({ role: "system", content: system });
  const body = { model: house.model || house.status?.model, messages, stream: true, stream_options: { include_usage: true }, enable_thinking: byId("think").checked };
  if (!byId("heat-own").checked) body.temperature = Number(byId("heat").value);
  const longest = Number(byId("longest").value);
  if (longest > 0) body.max_tokens = longest;
  const tools = byId("tools").value.trim();
  if (tools) {
    try {
      body.tools = JSON.parse(tools);
    } catch (error) {
      throw new Refusal(400, `The tools in the settings are not JSON: ${error.message}`, "tools");
    }
  }
  return body;
}

async function model() {
  if (house.status?.model) return house.status.model;
  const answer = await fetch("/v1/models", { headers: headers() });
  if (!answer.ok) throw await refusal(answer);
  return (await answer.json()).data[0].id;
}

async function answer() {
  const message = put({ role: "assistant", ...blank() });
  running = new AbortController();
  byId("stop").hidden = false;
  byId("send").disabled = true;
  byId("talk").setAttribute("aria-busy", "true");
  Object.assign(message, { began: performance.now(), first: 0, thought: 0, state: "waiting" });
  try {
    house.model = await model();
    await read(message, await post());
    message.state = "done";
  } catch (error) {
    message.state = running.signal.aborted ? "stopped" : "failed";
    message.error = error instanceof TypeError ? UNREACHED : error.message;
    message.code = error.code;
    message.retryAfterS = error.retryAfterS;
  }
  message.ended = performance.now();
  running = null;
  byId("stop").hidden = true;
  byId("talk").removeAttribute("aria-busy");
  layOut(message);
  showChat(house);
}

async function post() {
  const answer = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body: JSON.stringify(request()),
    signal: running.signal,
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.body;
}

async function read(message, body) {
  let painted = 0;
  let count = 0;
  for await (const data of events(body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    add(message, chunk);
    const now = performance.now();
    if (chunk.choices?.length) {
      count += 1;
      message.first ||= now;
      message.state = "writing";
      if (!message.content && !message.calls.length) message.thought = now;
      if (!chunk.usage) message.tokens = Math.max(message.tokens, count);
    }
    if (now - painted > PAINT_MS) {
      painted = now;
      layOut(message);
    }
  }
  throw new Error("The answer broke off: the connection to the coordinator ended.");
}

function layOut(message) {
  const box = byId("talk");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  const open = message.node.querySelector("details.thought")?.open;
  message.node.replaceChildren(
    ...[
      message.reasoning.trim() && thought(message, open),
      message.content && el("div.prose", prose(message.content)),
      ...message.calls.map((call) => toolCard(message, call)),
      message.state === "waiting" && el("p.small.pulse", "Waiting for the first token …"),
      message.error && failure(message),
      stats(message),
    ].filter(Boolean),
  );
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function thought(message, open) {
  const thinking = message.state === "writing" && !message.content;
  const time = message.thought > message.first ? ` for ${seconds((message.thought - message.first) / 1000)}` : "";
  return el("details.thought", { open }, el("summary", thinking ? el("span.pulse", `Thinking${time} …`) : `Thought${time}`), el("div.prose", prose(message.reasoning)));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function toolCard(message, call) {
  const given = talk.some((one) => one.role === "tool" && one.call === call.id);
  const asks = message.state === "done" && message.finish === "tool_calls" && !given;
  const result = el("textarea.mono", { rows: 2, "aria-label": `Result of ${call.name}` });
  const send = () => {
    put({ role: "tool", call: call.id, content: result.value });
    layOut(message);
    const open = message.calls.some((one) => !talk.some((other) => other.role === "tool" && other.call === one.id));
    if (!open && !running) answer();
  };
  return el(
    "div.card.tool",
    el("h3", el("span.small", "wants to call"), el("code", call.name || "…")),
    el("pre", { tabindex: "0" }, el("code", pretty(call.arguments))),
    asks && el("div.line", result, el("button.quiet", { type: "button", onclick: send }, "Give result")),
  );
}

function failure(message) {
  if (message.state === "stopped") return el("p.small", "Stopped.");
  const wait = message.retryAfterS ? ` Try again in ${whole(message.retryAfterS)} s.` : "";
  const hint = message.code === "context_length_exceeded" ? " Start a new chat, or ask for a shorter answer." : "";
  const again = () => {
    talk.splice(talk.indexOf(message), 1);
    message.node.remove();
    answer();
  };
  const last = talk.at(-1) === message;
  return el("div.notice.bad", { role: "alert" }, el("p", message.error, hint || wait), last && el("button.quiet.small", { type: "button", onclick: again }, "Try again"));
}

function stats(message) {
  if (!message.first || !message.tokens) return null;
  const until = message.ended || performance.now();
  const took = (until - message.first) / 1000;
  const parts = [`${whole(message.tokens)} tokens`];
  if (took > 0.05 && message.tokens > 1) parts.push(`${rate((message.tokens - 1) / took)} tokens/s`);
  parts.push(`first after ${seconds((message.first - message.began) / 1000)}`);
  if (message.finish === "length") parts.push("cut off: the longest answer was reached");
  return el("p.small.stats", parts.join(" · "));
}
