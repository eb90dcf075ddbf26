// Keys of the people in the house, and what they used.
import { ask, key, setKey } from "./ask.js";
import { byId, copier, el, show, sure, toast, whole } from "./page.js";

const EVERY_MS = 10000;
let facts = null;
let made = null;
let at = 0;
let house = null;

export function begin(shared) {
  house = shared;
  const box = byId("people");
  box.addEventListener("submit", (event) => {
    event.preventDefault();
    create(event.target);
  });
  box.addEventListener("click", (event) => {
    const button = event.target.closest("[data-revoke], [data-seen]");
    if (button?.dataset.revoke) revoke(button.dataset);
    else if (button) {
      made = null;
      showPeople(house);
    }
  });
}

async function look() {
  at = performance.now();
  try {
    const [keys, usage] = await Promise.all([ask("/admin/keys"), ask("/admin/usage?days=30")]);
    facts = { keys: keys.keys || [], usage: usage.usage || [] };
  } catch (error) {
    facts = { none: error.status === 404, text: error.message, status: error.status };
  }
  showPeople(house);
}

async function create(form) {
  const name = form.elements.name.value.trim();
  const limit = Number(form.elements.limit.value);
  try {
    const { priority } = form.elements;
    made = await ask("/admin/keys", { name, priority: priority.value, ...(limit > 0 ? { tokens_per_day: limit } : {}) });
    // From the first key on every request needs one, this page's too.
    if (made.first && !key()) setKey(made.key);
    form.reset();
  } catch (error) {
    toast(error.message, "bad");
  }
  look();
}

async function revoke({ revoke: id, name }) {
  if (!(await sure(`Revoke the key of ${name}?`, "Whoever uses it is refused from now on.", "Revoke"))) return;
  try {
    await ask("/admin/keys/revoke", { key: id });
    toast("Revoked");
  } catch (error) {
    toast(error.message, "bad");
  }
  look();
}

export function showPeople(shared) {
  if (shared.status?.outside || (facts?.status === 403)) {
    show(byId("people"));
    return;
  }
  const age = performance.now() - at;
  if (at === 0 || (age > EVERY_MS && !facts?.none)) look();
  if (!facts) {
    show(byId("people"), el("p.empty", "Looking …"));
  } else if (facts.none) {
    show(byId("people"), el("p.empty", { key: "none" }, "This service has no keys of its own for people yet. Whoever reaches the endpoint on this machine may use it; an endpoint that is open to the network asks for the key of ", el("code", "--api-key-file"), "."));
  } else if (facts.text) {
    show(byId("people"), el("p.notice.bad", facts.text));
  } else {
    show(byId("people"), made && shown(), keys(), usage());
  }
}

function shown() {
  return el("div.card.invite", { key: "made" }, el("h3", `The key of ${made.name || "this person"}`), el("p", "It is shown this once; only its hash is kept."), made.first && el("p.said", "It is the first: from now on every request needs a key. This page uses it until the tab is closed."), el("div.command", el("code.wrap", made.key), copier(made.key)), el("button.quiet", { type: "button", "data-seen": true }, "I have it"));
}

function keys() {
  const row = (one) => {
    const limit = one.tokens_per_day ? `${whole(one.tokens_today)} of ${whole(one.tokens_per_day)} tokens today` : `${whole(one.tokens_today)} tokens today, no limit`;
    const id = String(one.id);
    const facts = [limit, `priority ${one.priority}`, one.revoked_unix_s && `revoked ${new Date(one.revoked_unix_s * 1000).toLocaleDateString()}`];
    return el("li", { key: `key-${id}` }, el("div", el("b", one.name), el("span.small", facts.filter(Boolean).join(" · "))), !one.revoked_unix_s && el("button.quiet.small", { type: "button", "data-revoke": id, "data-name": one.name, "aria-label": `Revoke the key of ${one.name}` }, "Revoke"));
  };
  return el(
    "div",
    { key: "keys" },
    el("h2", "Keys"),
    facts.keys.length ? el("ul.rows", facts.keys.map(row)) : el("p.empty", "None yet."),
    el(
      "form.card.fields",
      { key: "form" },
      el("label", "Name", el("input", { name: "name", required: true, maxlength: 64, autocomplete: "off" })),
      el("label", "Tokens a day", el("input", { name: "limit", type: "number", min: 1, placeholder: "no limit" })),
      el("label", "Priority", el("select", { name: "priority" }, ["normal", "high", "low"].map((one) => el("option", { value: one }, one)))),
      el("button.main", { type: "submit" }, "Create a key"),
    ),
  );
}

function usage() {
  const sum = (one) => (one.prompt_tokens || 0) + (one.completion_tokens || 0);
  const most = Math.max(1, ...facts.usage.map(sum));
  return el(
    "div",
    { key: "usage" },
    el("h2", "Use of the last 30 days"),
    facts.usage.length
      ? el("div.scroll", { tabindex: "0", role: "region", "aria-label": "Use by person and day" }, el("table", el("thead", el("tr", ["Day", "Person", "Prompt", "Answers", ""].map((one) => el("th", { scope: "col" }, one)))), el("tbody", facts.usage.map((one) => el("tr", { key: `${one.day}-${one.person}-${one.model}` }, el("td", one.day), el("td", one.person), el("td.number", whole(one.prompt_tokens || 0)), el("td.number", whole(one.completion_tokens || 0)), el("td", el("meter", { min: 0, max: most, value: sum(one), "aria-label": "share of the largest" })))))))
      : el("p.empty", "Nothing yet."),
  );
}
