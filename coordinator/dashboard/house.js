// The map: which machine holds what, how full it is, what it does, and over which links a token goes.
import { bar, byId, bytes, el, percent, plural, rate, seconds, show, speed, svg, whole } from "./page.js";

const COLOURS = 8;
/** Bytes that a token brings over a link: one row of a typical model. */
const ROW_BYTES = 8192;
/** Looks over which a machine's work is told. */
const WORK_LOOKS = 4;
const PHASES = {
  waiting_for_nodes: "Waiting for machines",
  planning: "Planning",
  loading: "Loading",
  ready: "Ready",
  draining: "Ending",
  unreached: "Not reached",
};
export const STATES = { serving: "at work", loading: "loading", spare: "spare", paused: "paused", leaving: "leaving", troubled: "left out" };

export const phaseName = (phase) => PHASES[phase] || phase;

/** The colour of each machine, in the order of the plan. */
export function colours(plan) {
  const order = new Map();
  for (const part of [...(plan?.stages || []), ...(plan?.experts || []), ...(plan?.head_blocks || [])]) {
    if (!order.has(part.node)) order.set(part.node, `c${order.size % COLOURS}`);
  }
  return order;
}

export function showHouse(house) {
  const { status, nodes } = house;
  if (!status || status.outside || !nodes) {
    show(byId("map"), status && el("p.lead", `${phaseName(status.phase)}: ${status.detail || ""}`));
    return;
  }
  const plan = status.epoch === null ? null : house.plan;
  const colour = colours(plan);
  const wires = wiring(plan, nodes.links, status.coordinator);
  const stages = plan?.stages || [];
  const staged = new Set(stages.map((stage) => stage.node));
  const others = nodes.nodes.filter((node) => !staged.has(node.node));
  show(
    byId("map"),
    el("p.lead", { key: "lead" }, el("b", status.model), ` · ${bytes(status.model_bytes)}`, status.ready && ` · ${status.detail}`),
    !status.ready && progress(status),
    nodes.nodes.length > 0 && el("div.figures", { key: "figures" }, figures(house)),
    plan && layers(plan, colour),
    stages.length > 0 && el(
      "ol.flow",
      { key: "flow", "aria-label": "The way of a token" },
      el("li.leg", { key: "home" }, el("div.card.home", el("h3", "Coordinator"), el("p.small", "text, schedule, endpoint"), el("p.small.mono.wrap", status.mesh))),
      stages.map((stage, at) => {
        const node = nodes.nodes.find((one) => one.node === stage.node);
        const wire = wires[at];
        return el("li.leg", { key: stage.node }, wireOf(wire, status), card(house, node, { stage, colour: colour.get(stage.node), name: stage.name, plan, wires }));
      }),
      el("li.leg.last", { key: "back" }, wireOf(wires[stages.length], status, "back")),
    ),
    stages.length > 0 && el("ul.legend", { key: "legend" }, el("li", "Memory:"), [["c0", "weights, in the machine's colour"], ["mid", "caches"], ["low", "scratch"]].map(([kind, what]) => el("li", el(`i.${kind}`, { "aria-hidden": "true" }), what))),
    others.length > 0 && [
      el("h2", { key: "others-title" }, stages.length ? "Beside the pipeline" : "Machines that are in"),
      el("ul.grid", { key: "others" }, others.map((node) => el("li", { key: node.node }, card(house, node, { colour: colour.get(node.node), plan, wires })))),
    ],
    nodes.absent.length > 0 && [
      el("h2", { key: "absent-title" }, "Not here now"),
      el("ul.grid", { key: "absent" }, nodes.absent.map((node) => el("li", { key: node.node }, absent(node)))),
    ],
  );
}

function progress(status) {
  const part = status.total_bytes ? status.done_bytes / status.total_bytes : 0;
  return el(
    "div.card.wait",
    { key: "wait" },
    el("h2", phaseName(status.phase)),
    el("p", status.detail),
    status.total_bytes > 0 && el("progress", { max: 1, value: part, "aria-label": "Loaded" }, percent(part)),
    status.total_bytes > 0 && el("p.small", `${bytes(status.done_bytes)} of ${bytes(status.total_bytes)}`, status.eta_s !== null && ` · about ${seconds(status.eta_s)} to go`),
    status.missing_bytes > 0 && el("p", el("b", bytes(status.missing_bytes)), " of memory are missing. Add a machine, or let one give more: ", el("code", "node set --memory")),
    status.phase === "waiting_for_nodes" && el("a.button", { href: "#devices" }, "Add a machine"),
  );
}

function figures(house) {
  const { status, looks } = house;
  const figure = (value, label, more) => el("div.figure", { key: label }, el("b", value), more, el("span", label));
  return [
    figure(rate(status.tokens_per_s), "tokens/s now", spark(looks.map((look) => look.rate))),
    figure(whole(status.requests_running), "running", status.requests_waiting > 0 && el("em", `${whole(status.requests_waiting)} waiting`)),
    figure(whole(status.generated_tokens), "tokens written"),
    figure(status.pages ? percent(1 - status.pages_free / status.pages) : "–", "cache in use"),
    figure(whole(status.context), "tokens of context"),
    figure(seconds(status.uptime_s), "since the start"),
  ];
}

function spark(rates) {
  if (rates.length < 3) return null;
  const most = Math.max(1, ...rates);
  const points = rates.map((one, at) => `${(120 * at) / (rates.length - 1)},${23 - (20 * one) / most}`);
  const line = svg("polyline", { points: points.join(" ") });
  return svg("svg", { class: "spark", viewBox: "0 0 120 24", preserveAspectRatio: "none", "aria-hidden": "true" }, line);
}

/** All layers as one strip, and below it what lies on other machines than its layer. */
function layers(plan, colour) {
  const end = plan.stages.at(-1).end_layer;
  const span = (from, to) => ({ "grid-column": `${from + 1} / ${to + 1}` });
  const rows = [...new Set(plan.experts?.map((part) => part.node))];
  const said = plan.stages.map((stage) => `${stage.name} ${range(stage)}`).join(", ");
  return el(
    "figure.strip",
    { key: "strip" },
    el("figcaption", `${plural(end, "layer")} and the head`),
    el(
      "div.layers",
      { role: "img", "aria-label": said, style: { "grid-template-columns": `repeat(${end}, minmax(0, 1fr)) minmax(2.6rem, auto)` } },
      plan.stages.map((stage) => el(`span.${colour.get(stage.node)}`, { title: `${stage.name}: ${range(stage)}`, style: span(stage.first_layer, stage.end_layer) }, el("b", stage.name))),
      el(`span.${colour.get(plan.stages.at(-1).node)}`, { title: "head", style: span(end, end + 1) }, "head"),
      plan.experts?.map((part) => el(`span.thin.${colour.get(part.node)}`, {
        title: `${part.name}: expert groups ${part.groups.join(", ")} of ${range(part)}`,
        style: { ...span(part.first_layer, part.end_layer), "grid-row": `${rows.indexOf(part.node) + 2}` },
      }, el("b", `${part.name}: ${plural(part.groups.length, "expert group")}`))),
    ),
  );
}

const range = ({ first_layer: first, end_layer: end }) => (end - first === 1 ? `layer ${first}` : `layers ${first}–${end - 1}`);

/** The links of a token's way, with what each costs; the costliest is marked. */
function wiring(plan, links, coordinator) {
  if (!plan) return [];
  const way = [coordinator, ...plan.stages.map((stage) => stage.node), coordinator];
  const find = (from, to) => links.find((link) => link.from === from && link.to === to) || links.find((link) => link.from === to && link.to === from);
  const wires = way.slice(1).map((to, at) => {
    const link = way[at] === to ? null : find(way[at], to);
    return { link, cost: link ? link.rtt_s / 2 + ROW_BYTES / link.bytes_per_s : 0 };
  });
  const costs = wires.map((wire) => wire.cost);
  const worst = Math.max(...costs) > 0 ? costs.indexOf(Math.max(...costs)) : -1;
  const rules = plan.prediction.hops_s_per_token > Math.max(...plan.prediction.stage_s_per_token);
  wires.forEach((wire, at) => {
    wire.worst = at === worst;
    wire.rules = wire.worst && rules;
  });
  return wires;
}

function wireOf(wire, status, back) {
  const moves = status.steps_in_flight > 0 || status.requests_running > 0;
  const link = wire?.link;
  const title = wire?.rules ? "the links take more of a token's time than any machine, and this one most" : wire?.worst ? "the slowest link of a token's way" : undefined;
  return el(
    `div.wire${wire?.worst ? ".worst" : ""}${moves ? ".moves" : ""}`,
    { title },
    el("i", { "aria-hidden": "true" }),
    el("span.label", link ? [el("b", seconds(link.rtt_s)), el("span", speed(link.bytes_per_s))] : el("span", "not measured")),
    wire?.worst && el(`span.tag${wire.rules ? "" : ".mild"}`, wire.rules ? "bottleneck" : "slowest link"),
    back && el("span.goes", "tokens go back to the coordinator"),
  );
}

/** What a machine did over the last looks. */
function work(house, node) {
  const now = house.looks.at(-1);
  const was = house.looks.slice(-1 - WORK_LOOKS, -1).find((look) => look.work.has(node.node));
  if (!was || !now.work.has(node.node)) return null;
  const passed = (now.at - was.at) / 1000;
  const [busy, rows] = now.work.get(node.node).map((count, at) => (count - was.work.get(node.node)[at]) / passed);
  return busy >= 0 && rows >= 0 ? { busy: busy / 1e6, rows } : null;
}

function card(house, node, { stage, colour, name, plan, wires }) {
  if (!node) return el("div.card.node.lost", el("h3", name), el("p.small", "was lost"));
  const used = stage ? stage.weight_bytes + stage.cache_bytes + stage.scratch_bytes : node.total_bytes;
  const offered = node.memory_bytes || 1;
  const parts = stage
    ? [["weights", stage.weight_bytes, colour], ["caches", stage.cache_bytes, "mid"], ["scratch", stage.scratch_bytes, "low"]]
    : [["weights", node.total_bytes, colour || "mid"]];
  const times = plan?.prediction.stage_s_per_token || [];
  const own = stage ? times[plan.stages.indexOf(stage)] : 0;
  const slowest = times.length > 1 && own > 0 && times.indexOf(Math.max(...times)) === plan.stages.indexOf(stage);
  const rules = slowest && !wires.some((wire) => wire.rules);
  const did = work(house, node);
  const said = node.trouble || node.paused;
  return el(
    `div.card.node.${node.state}`,
    el(`i.edge.${colour || "none"}`, { "aria-hidden": "true" }),
    el("h3", node.name, el(`span.state.${node.state}`, STATES[node.state] || node.state)),
    el("p.small", `${node.os} · ${node.arch} · ${node.kernels} · ${plural(node.threads, "thread")}`),
    el("p.holds", holds(node, stage)),
    slowest && el("p", el(`span.tag${rules ? "" : ".mild"}`, rules ? "bottleneck" : "slowest part"), el("span.small", ` ${seconds(own)} of a token's time`)),
    el("p.meter", el("span", el("b", bytes(used)), " of ", bytes(node.memory_bytes)), el("span", percent(used / offered))),
    bar("Memory", parts.map(([what, count, kind]) => ({ part: count / offered, kind, title: `${what} ${bytes(count)}` }))),
    node.state === "loading" && [
      el("progress", { max: node.total_bytes || 1, value: node.done_bytes, "aria-label": `${node.name} has loaded` }),
      el("p.small", `${bytes(node.done_bytes)} of ${bytes(node.total_bytes)} loaded`),
    ],
    said && el("p.said", said),
    el("p.small.live", did && node.state === "serving" ? [el("b", `${rate(did.rows)} tokens/s`), ` · busy ${percent(did.busy)}`] : `heard ${seconds(node.last_beat_ms / 1000)} ago`),
  );
}

function holds(node, stage) {
  const chips = [];
  if (stage) chips.push(range(stage).replace(/^l/, "L"));
  if (node.embedding) chips.push("embedding");
  if (node.head) chips.push("head");
  if (node.expert_groups) chips.push(`${plural(node.expert_groups, "expert group")} for others`);
  if (node.head_blocks) chips.push(`${plural(node.head_blocks, "head block")} for another`);
  if (!chips.length) chips.push(node.state === "serving" || node.state === "loading" ? "a part" : "no part");
  return chips.map((chip) => el("span.chip", chip));
}

function absent(node) {
  const since = new Date(node.joined_unix_s * 1000).toLocaleDateString();
  return el(
    "div.card.node.lost",
    el("h3", node.name, el("span.state.lost", node.lost ? "lost" : "absent")),
    el("p.small", `member since ${since}`),
    node.lost && el("p.said", node.lost),
    el("p.small", "Start ", el("code", "node join"), " there; it needs no new code."),
  );
}
