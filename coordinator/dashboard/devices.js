// Letting machines in: a code to type there, or a yes to a device that asks. And sending one away.
import { ask } from "./ask.js";
import { STATES } from "./house.js";
import { byId, bytes, clock, copier, el, seconds, show, sure, toast } from "./page.js";

let invite = null;
let busy = false;
let house = null;

export function begin(facts) {
  house = facts;
  byId("devices").addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button && !busy) acts[button.dataset.do]?.(button.dataset);
  });
  setInterval(() => invite && !byId("page-devices").hidden && !document.hidden && showDevices(house), 1000);
}

async function act(work) {
  busy = true;
  showDevices(house);
  try {
    await work();
  } catch (error) {
    toast(error.message, "bad");
  }
  busy = false;
  showDevices(house);
  document.dispatchEvent(new Event("hearth:look"));
}

const acts = {
  invite: () => act(async () => {
    const members = known();
    invite = { ...(await ask("/admin/invite", {})), members };
  }),
  forget: () => {
    invite = null;
    showDevices(house);
  },
  approve: ({ words, name }) => act(async () => {
    await ask("/admin/approve", { device: words });
    toast(`${name} belongs to the household now`);
  }),
  deny: ({ words, name }) => act(async () => {
    await ask("/admin/deny", { device: words });
    toast(`${name} was refused`);
  }),
  kick: async ({ node, name }) => {
    const text = "Its part of the model goes to the others, and running answers may break off. It needs a new code to come back.";
    if (await sure(`Remove ${name}?`, text, "Remove")) {
      await act(async () => {
        await ask("/admin/kick", { node, confirm: node });
        toast(`${name} no longer belongs to the household`);
      });
    }
  },
};

/** The ids of all members. */
function known() {
  return new Set([...(house.nodes?.nodes || []), ...(house.nodes?.absent || [])].map((node) => node.node));
}

export function showDevices(facts) {
  if (!facts.pending || facts.status?.outside) {
    show(byId("devices"));
    return;
  }
  show(byId("devices"), waiting(facts.pending), adding(facts.pending), members(facts.nodes));
}

function waiting({ pending }) {
  if (!pending.length) return null;
  return el(
    "div",
    { key: "waiting" },
    el("h2", "Somebody knocks"),
    pending.map((device) => el(
      "div.card.knock",
      { key: `knock-${device.number}` },
      el("h3", device.name, el("span.small.mono", device.address)),
      el("p", "Let it in only if the same four words stand on its own screen:"),
      el("p.words", device.words.split(/[\s-]+/).map((word) => el("b", word))),
      el(
        "div.row",
        el("button.main", { type: "button", "data-do": "approve", "data-words": device.words, "data-name": device.name, disabled: busy }, "The words match: let it in"),
        el("button.quiet", { type: "button", "data-do": "deny", "data-words": device.words, "data-name": device.name, disabled: busy }, "Refuse"),
        el("span.small", `waits ${clock(device.expires_s)} more`),
      ),
    )),
  );
}

function adding(pending) {
  return el(
    "div",
    { key: "adding" },
    el("h2", "Add a machine"),
    !invite && el(
      "div.card",
      { key: "none" },
      el("p", "A short code lets one machine in, once, within ten minutes."),
      el("button.main", { type: "button", "data-do": "invite", disabled: busy }, "Show a code"),
      pending.failed && failed(pending.failed),
      el("p.small", "Without a code: say ", el("code", "node join --ask"), " on the machine, and it shows up here."),
    ),
    invite && open(pending),
  );
}

function open(pending) {
  const left = invite.expires_unix_s - Date.now() / 1000;
  const came = [...known()].some((node) => !invite.members.has(node));
  const again = el("button.main", { type: "button", "data-do": "invite", disabled: busy }, "Show a new code");
  const done = (title, text) => el("div.card", { key: "done" }, el("h3", title), text, el("div.row", again, el("button.quiet", { type: "button", "data-do": "forget" }, "Done")));
  if (came && !pending.code_open) return done("A machine has joined", el("p", "The code is spent. It loads its part as soon as the plan has one for it."));
  if (left <= 0) return done("The code has run out", el("p", "Nobody used it."));
  if (!pending.code_open && pending.failed) return done("The code is void", failed(pending.failed));
  const command = `node join ${invite.code}${invite.announced ? "" : ` --coordinator ${invite.coordinator}`}`;
  return el(
    "div.card.invite",
    { key: "open" },
    el("p", "On the machine that is to join, say:"),
    el("p.digits", { "aria-label": `The code is ${invite.code.split("").join(" ")}` }, invite.code),
    el("progress", { max: 600, value: Math.max(0, left), "aria-label": "Time left" }),
    el("p.small", { role: "timer" }, `${clock(left)} left · works once`),
    el("div.command", el("code", command), copier(command)),
    el("p.small", "The machine shows these words for your household:"),
    el("p.words", invite.words.split(/[\s-]+/).map((word) => el("b", word))),
    el("details", { key: "url" }, el("summary", "For scripts, or where machines cannot find each other"), el("div.command", el("code", `node join ${invite.url}`), copier(`node join ${invite.url}`))),
    el("button.quiet", { type: "button", "data-do": "forget" }, "Hide"),
  );
}

function failed(facts) {
  return el("p.said", `Somebody at ${facts.address} tried the last code wrongly ${seconds(facts.seconds_ago)} ago, so it is void. If that was you, show a new one.`);
}

function members(nodes) {
  if (!nodes) return null;
  const here = nodes.nodes.map((node) => [node, `${STATES[node.state] || node.state} · ${bytes(node.memory_bytes)} · ${node.os} ${node.arch} · version ${node.version}`, node.remote]);
  const away = nodes.absent.map((node) => [node, node.lost ? "lost" : "absent", ""]);
  return el(
    "div",
    { key: "members" },
    el("h2", "Members"),
    here.length + away.length === 0 && el("p.empty", "Nobody yet."),
    el("ul.rows", [...here, ...away].map(([node, facts, remote]) => el(
      "li",
      { key: node.node },
      el("div", el("b", node.name), el("span.small", facts), remote && el("span.small.mono", remote)),
      el("button.quiet.small", { type: "button", "data-do": "kick", "data-node": node.node, "data-name": node.name, "aria-label": `Remove ${node.name}`, disabled: busy }, "Remove"),
    ))),
  );
}
