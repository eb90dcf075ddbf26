// The plan in words and figures: what it promises, why it is so, and what would be planned now.
import { ask } from "./ask.js";
import { colours } from "./house.js";
import { bar, byId, el, percent, plural, rate, seconds, show, toast, whole } from "./page.js";

let next = null;
let asking = false;

export function begin(house) {
  byId("plan").addEventListener("click", async (event) => {
    if (!event.target.closest("[data-next]") || asking) return;
    asking = true;
    showPlan(house);
    try {
      next = { plan: await ask("/admin/plan/next"), epoch: house.status.epoch };
    } catch (error) {
      toast(error.message, "bad");
    }
    asking = false;
    showPlan(house);
  });
}

export function showPlan(house) {
  const { plan, planText, status } = house;
  if (!plan) {
    show(byId("plan"), planText && !status?.outside && el("p.empty", planText));
    return;
  }
  const proposal = status?.epoch === null;
  const { prediction } = plan;
  show(
    byId("plan"),
    el("h2", { key: "title" }, proposal ? "What would be planned now" : "The plan and its reasons"),
    el(
      "dl.facts",
      { key: "facts" },
      fact("Predicted", `${rate(prediction.decode_tokens_per_s)} tokens/s`, `one conversation at ${whole(prediction.positions)} tokens`),
      fact("A prompt", `${seconds(prediction.prefill_s_per_1k_tokens)}`, "for 1,000 tokens"),
      fact("Room for", plural(plan.slots, "conversation"), `of ${whole(plan.context)} tokens at once`),
      fact("Cache", plan.kv, `${whole(plan.pages)} pages of 64 tokens`),
    ),
    times(plan),
    el("ul.reasons", { key: "reasons" }, plan.reasons.map((reason) => el("li", reason)), (plan.left_out || []).map((left) => el("li", el("b", left.name), ` is left out: ${left.reason}`))),
    !proposal && el("div.row", { key: "next" }, el("button.quiet", { type: "button", "data-next": true, disabled: asking }, asking ? "Planning …" : "What would be planned now?")),
    next && !proposal && next.epoch === status?.epoch && compared(plan, next.plan),
  );
}

function fact(name, value, more) {
  return el("div", el("dt", name), el("dd", el("b", value), el("span.small", more)));
}

/** Where the time of a token goes. */
function times(plan) {
  const { stage_s_per_token: stages, hops_s_per_token: hops, decode_s_per_token: all } = plan.prediction;
  if (!(all > 0) || !stages.length) return null;
  const colour = colours(plan);
  const parts = plan.stages.map((stage, at) => ({ name: stage.name, s: stages[at] || 0, kind: colour.get(stage.node) }));
  parts.push({ name: "between machines", s: hops, kind: "wirecolour" });
  const most = parts.reduce((a, b) => (b.s > a.s ? b : a));
  return el(
    "figure.times",
    { key: "times" },
    el("figcaption", `Where the ${seconds(all)} of a token go`),
    bar("Time of a token", parts.map((part) => ({ part: part.s / all, kind: part.kind, title: `${part.name} ${seconds(part.s)}` }))),
    el("ul.legend", parts.map((part) => el("li", el(`i.${part.kind}`, { "aria-hidden": "true" }), `${part.name} ${seconds(part.s)} (${percent(part.s / all)})`, part === most && parts.length > 2 && el("span.tag", "most")))),
  );
}

function compared(plan, other) {
  const same = JSON.stringify(plan.stages.map(place)) === JSON.stringify(other.stages.map(place)) && JSON.stringify(plan.experts) === JSON.stringify(other.experts);
  return el(
    "div.card",
    { key: "compared" },
    el("p", same ? "The same would be planned now." : ["Another plan would be made now: ", other.stages.map((stage) => `${stage.name} ${stage.first_layer}–${stage.end_layer - 1}`).join(", "), "."]),
    el("p.small", `It is predicted to reach ${rate(other.prediction.decode_tokens_per_s)} tokens/s. The household changes by itself when that is worth it.`),
    !same && el("ul.reasons", other.reasons.map((reason) => el("li", reason))),
  );
}

const place = (stage) => [stage.node, stage.first_layer, stage.end_layer];
