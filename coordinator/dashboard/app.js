// Which page is shown, and asking the service again every two seconds while somebody looks.
import { UNREACHED, ask, key, setKey } from "./ask.js";
import { begin as beginChat, showChat } from "./chat.js";
import { begin as beginDevices, showDevices } from "./devices.js";
import { phaseName, showHouse } from "./house.js";
import { showModels } from "./models.js";
import { byId, el, plural, rate, show, toast } from "./page.js";
import { begin as beginPeople, showPeople } from "./people.js";
import { begin as beginPlan, showPlan } from "./plan.js";

const PERIOD_MS = 2000;
/** How often a plan that is only a proposal is asked for. */
const PROPOSAL_MS = 10000;
const PAGES = ["house", "chat", "devices", "models", "people"];
/** Looks that are remembered, for the line of tokens per second and the work of each machine. */
const LOOKS_MAX = 60;

const house = {
  status: null,
  nodes: null,
  pending: null,
  plan: null,
  planText: "",
  planFor: undefined,
  planAt: 0,
  models: null,
  looks: [],
  error: null,
};

function page() {
  const wanted = location.hash.slice(1);
  return PAGES.includes(wanted) ? wanted : document.querySelector("main > section:not([hidden])")?.id.slice(5) || "house";
}

function turn() {
  const shown = page();
  for (const name of PAGES) {
    byId(`page-${name}`).hidden = name !== shown;
    const tab = document.querySelector(`.tabs a[href="#${name}"]`);
    if (name === shown) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.body.dataset.page = shown;
  paint();
  look();
}

/** The facts of a service that does not take us for its owner: how far it is, no more. */
async function fromOutside() {
  const answer = await fetch("/readyz", { cache: "no-store" });
  const facts = await answer.json();
  return { ...facts, ready: answer.ok, outside: true };
}

async function look() {
  clearTimeout(look.timer);
  if (document.hidden) return;
  const turnOf = (look.turn = (look.turn || 0) + 1);
  try {
    const [status, nodes, pending] = await Promise.all([ask("/admin/status"), ask("/admin/nodes"), ask("/admin/pending")]);
    if (turnOf !== look.turn) return;
    greet(pending.pending);
    Object.assign(house, { status, nodes, pending, error: null });
    remember();
    await lookAtPlan();
    if (page() === "models") house.models = await ask("/admin/models").catch(() => house.models);
  } catch (error) {
    house.error = error;
    if (error.status !== 0) house.status = await fromOutside().catch(() => null);
  }
  if (turnOf !== look.turn) return;
  paint();
  look.timer = setTimeout(look, PERIOD_MS);
}

/** Keeps a look, unless the last one was just now. */
function remember() {
  const at = performance.now();
  if (at - (house.looks.at(-1)?.at ?? -PERIOD_MS) < 0.9 * PERIOD_MS) return;
  const work = new Map(house.nodes.nodes.map((node) => [node.node, [node.busy_us, node.rows]]));
  house.looks.push({ at, rate: house.status.tokens_per_s, work });
  house.looks.splice(0, house.looks.length - LOOKS_MAX);
}

/** Says that a device has come, wherever the person looks. */
function greet(pending) {
  const known = house.pending?.pending.map((device) => device.number) || [];
  for (const device of pending) {
    if (!known.includes(device.number) && page() !== "devices") toast(`${device.name} asks to be let in`);
  }
}

async function lookAtPlan() {
  const { epoch } = house.status;
  if (!house.nodes.nodes.length) {
    house.plan = null;
    return;
  }
  const fresh = house.planFor === epoch && (epoch !== null || performance.now() - house.planAt < PROPOSAL_MS);
  if (fresh) return;
  try {
    house.plan = await ask("/admin/plan");
    house.planText = "";
  } catch (error) {
    house.plan = null;
    house.planText = error.message;
  }
  house.planFor = epoch;
  house.planAt = performance.now();
}

function paint() {
  paintTop();
  show(byId("trouble"), house.error && notice(house.error));
  const waiting = house.pending?.pending.length || 0;
  byId("knocks").hidden = waiting === 0;
  byId("knocks").textContent = waiting;
  byId("knocks").setAttribute("aria-label", `${plural(waiting, "device")} waiting`);
  document.title = waiting ? `(${waiting}) Hearth` : "Hearth";
  const paints = { house: paintHouse, chat: showChat, devices: showDevices, models: showModels, people: showPeople };
  paints[page()](house);
}

function paintHouse() {
  showHouse(house);
  showPlan(house);
}

function paintTop() {
  const status = house.status;
  const gone = house.error?.status === 0;
  const phase = gone ? "unreached" : status?.phase || "";
  const live = status && !status.outside && !gone;
  show(
    byId("now"),
    phase && el(`span.pill.${phase}`, phaseName(phase)),
    live && status.ready && el("span.rate", el("b", rate(status.tokens_per_s)), " tokens/s"),
  );
}

function notice(error) {
  if (error.status === 401) {
    return el(
      "form.notice",
      { id: "key-form", key: "key" },
      el("label", "This household asks for a key", el("input", { id: "key-in", type: "password", autocomplete: "off", "data-keep": true })),
      el("button.main", { type: "submit" }, "Use it"),
      el("span.small", key() ? "The last one does not work." : "It is kept until you close this tab.", ` ${error.message}.`),
    );
  }
  if (error.status === 403) return el("p.notice", { key: "403" }, error.message, " — chatting works from here all the same.");
  return el("p.notice.bad", { key: "other" }, error.status === 0 ? UNREACHED : error.message);
}

document.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.target.id !== "key-form") return;
  setKey(byId("key-in").value);
  look();
});
window.addEventListener("hashchange", turn);
document.addEventListener("visibilitychange", () => document.hidden || look());
document.addEventListener("hearth:look", look);
beginChat(house);
beginDevices(house);
beginPlan(house);
beginPeople(house);
turn();
