// The dashboard as a person sees it, on a cluster at work.
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AxeBuilder } from "@axe-core/playwright";
import { expect, test as base } from "@playwright/test";
import { Household } from "./household.js";

const SHOTS = process.env.HEARTH_SHOTS || join(import.meta.dirname, "shots");
/** A folder whose files are shown in place of those in the program. */
const PAGES_DIR = process.env.HEARTH_PAGES;
const PHONE = { width: 390, height: 844 };
const SMALLEST = { width: 360, height: 640 };
const DESKTOP = { width: 1280, height: 800 };
const PAGES = ["house", "chat", "devices", "models", "people"];

const test = base.extend({
  house: [async ({}, use) => {
    const house = await Household.start(process.env.HEARTH_PLAN || "layers");
    await use(house);
    await house.end();
  }, { scope: "worker", timeout: 180_000 }],
  /** A page that fails the test for a complaint of the browser or a request that leaves the origin. */
  page: async ({ page, house }, use) => {
    const complaints = [];
    if (PAGES_DIR) {
      await page.route(/\/(dashboard\/[\w.]+)?$/, async (route) => {
        const name = new URL(route.request().url()).pathname.split("/").at(-1) || "index.html";
        const body = await readFile(join(PAGES_DIR, name)).catch(() => null);
        return body ? route.fulfill({ response: await route.fetch(), body }) : route.continue();
      });
    }
    // A refusal that a test provokes is told by the browser as well.
    page.provoked = /a^/;
    page.on("console", (said) => said.type() === "error" && !page.provoked.test(said.text() + said.location().url) && complaints.push(`${said.text()} ${said.location().url}`));
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => new URL(request.url()).origin !== house.url && complaints.push(request.url()));
    await use(page);
    await page.unrouteAll({ behavior: "ignoreErrors" });
    expect(complaints).toEqual([]);
  },
});

test.describe.configure({ mode: "serial" });

async function open(page, house, name = "house") {
  await page.goto(`${house.url}/#${name}`);
  await expect(page.locator(`#page-${name}`)).toBeVisible();
}

/** Lets the page see other facts than the service tells. */
async function change(page, path, how) {
  await page.route(path, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: how(await response.json()) });
  });
}

/** Contrast, names, roles and landmarks, as far as a program can tell. */
async function accessible(page, where) {
  const { violations, passes } = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]).analyze();
  expect(passes.length).toBeGreaterThan(10);
  const found = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${where}: ${id}: ${node.html.slice(0, 120)} ${node.failureSummary}`));
  expect(found).toEqual([]);
}

async function shot(page, name) {
  await mkdir(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: !name.includes("chat") });
}

async function say(page, text, tokens = 60) {
  await page.locator("#dials summary").click();
  await page.locator("#longest").fill(String(tokens));
  await page.locator("#dials summary").click();
  await page.locator("#say").fill(text);
  await page.locator("#say").press("Enter");
}

test("an empty household asks for machines, and a code lets the first in", async ({ page, house }) => {
  await page.setViewportSize(PHONE);
  await open(page, house);
  await expect(page.locator("#now")).toContainText("Waiting for machines");
  await shot(page, "phone-light-empty");
  await page.locator("#map a", { hasText: "Add a machine" }).click();
  await page.getByRole("button", { name: "Show a code" }).click();
  await expect(page.locator(".digits")).toHaveText(/^\d{3}-\d{3}$/);
  await expect(page.locator(".invite .words b")).toHaveCount(4);
  await expect(page.locator("[role=timer]")).toContainText(/\d:\d\d left/);
  await shot(page, "phone-light-code");
  await house.gather();
  await open(page, house);
  await expect(page.locator("#now")).toContainText("Ready");
});

test("the map shows three machines with their parts, links and one slowest", async ({ page, house }) => {
  await page.setViewportSize(DESKTOP);
  await open(page, house);
  const cards = page.locator(".flow .node");
  await expect(cards).toHaveCount(3);
  for (const name of ["den", "kitchen", "attic"]) {
    const card = cards.filter({ hasText: name });
    await expect(card).toContainText("at work");
    await expect(card).toContainText(/of \d+(\.\d)?\sMiB/);
    await expect(card).toContainText(/Layers? \d/);
  }
  await expect(page.locator(".wire.worst")).toHaveCount(1);
  await expect(page.locator(".wire").first()).toContainText(/[MG]B\/s/);
  await expect(page.locator("#plan .reasons li").first()).toBeVisible();
  await page.getByRole("button", { name: "What would be planned now?" }).click();
  await expect(page.locator("#plan")).toContainText("predicted to reach");
});

test("a chat streams an answer, can be stopped, and begins anew", async ({ page, house }) => {
  await page.setViewportSize(DESKTOP);
  await open(page, house, "chat");
  await say(page, "Tell me a story.");
  const answer = page.locator("article.assistant").last();
  await expect(answer.locator(".stats")).toContainText(/[2-9]\d* tokens · [\d.]+ tokens\/s/);
  await expect(answer.locator(".prose").last()).not.toBeEmpty();
  await expect(page.locator("#send")).toBeEnabled();
  await page.route("**/v1/chat/completions", (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }));
  await say(page, "And another one, much longer.", 1900);
  await expect(page.locator("article.assistant").last().locator(".stats")).toContainText("tokens/s");
  await page.locator("#stop").click();
  await expect(page.locator("article.assistant").last()).toContainText("Stopped.");
  await expect(page.locator("#send")).toBeEnabled();
  await expect(page.locator("article.user")).toHaveCount(2);
  await page.locator("#fresh").click();
  await expect(page.locator("article")).toHaveCount(0);
});

test("answers are shown as text: reasoning folded, tools as cards, markup never run", async ({ page, house }) => {
  await page.setViewportSize(PHONE);
  const bad = "<img src=x onerror=alert(1)><script>alert(1)</script>";
  const chunk = (delta, finish = null) => ({ choices: [{ index: 0, delta, finish_reason: finish }] });
  const chunks = [
    chunk({ role: "assistant", reasoning_content: `Let me see ${bad}` }),
    chunk({ content: `# A title\n\nSome **bold** and *soft* words, \`code\` and ${bad}\n\n- one\n- two\n  - deeper\n\n` }),
    chunk({ content: "1. first\n2. second\n\n```rust\nfn main() {\n    println!(\"<b>\");\n}\n```\n" }),
    chunk({ tool_calls: [{ index: 0, id: "call_1", type: "function", function: { name: "weather", arguments: "{\"city\":" } }] }),
    chunk({ tool_calls: [{ index: 0, function: { arguments: "\"Rome\"}" } }] }, "tool_calls"),
    { choices: [], usage: { prompt_tokens: 3, completion_tokens: 42 } },
  ];
  const body = `: hello\n\n${chunks.map((one) => `data: ${JSON.stringify(one)}\r\n\r\n`).join("")}data: [DONE]\n\n`;
  const asked = [];
  await page.route("**/v1/chat/completions", (route) => {
    asked.push(route.request().postDataJSON());
    return route.fulfill({ contentType: "text/event-stream", body });
  });
  await open(page, house, "chat");
  await say(page, `What about ${bad}?`);
  const answer = page.locator("article.assistant").first();
  await expect(answer.locator("details.thought")).not.toHaveAttribute("open", "");
  await expect(answer.locator("details.thought .prose")).toBeHidden();
  await expect(answer.locator("h3", { hasText: "A title" })).toBeVisible();
  await expect(answer.locator("strong")).toHaveText("bold");
  await expect(answer.locator("ul li ul li")).toHaveText("deeper");
  await expect(answer.locator("ol li")).toHaveCount(2);
  await expect(answer.locator("figure pre")).toContainText("println!(\"<b>\")");
  await expect(answer.locator(".card.tool")).toContainText("\"city\": \"Rome\"");
  await expect(answer.locator(".stats")).toContainText("42 tokens");
  await expect(page.locator("#talk img, #talk script")).toHaveCount(0);
  await shot(page, "phone-light-chat-parts");
  await answer.locator(".card.tool textarea").fill("Sunny");
  await answer.getByRole("button", { name: "Give result" }).click();
  await expect(page.locator("article.assistant")).toHaveCount(2);
  const last = asked[1].messages;
  expect(last.map((one) => one.role)).toEqual(["user", "assistant", "tool"]);
  expect(last[1].tool_calls[0].function).toEqual({ name: "weather", arguments: "{\"city\":\"Rome\"}" });
  expect(last[1].content).not.toContain("Let me see");
  expect(last[2]).toEqual({ role: "tool", tool_call_id: "call_1", content: "Sunny" });
});

test("the model's own call of a tool is a card, and a result goes back to it", async ({ page, house }) => {
  await page.setViewportSize(PHONE);
  const tool = (name, description, field) => ({ type: "function", function: { name, description, parameters: { type: "object", properties: { [field]: { type: "string" } }, required: [field] } } });
  const tools = [tool("get_weather", "Current weather in a city", "city"), tool("calculate", "Evaluate an arithmetic expression", "expression")];
  await open(page, house, "chat");
  await page.locator("#dials summary").click();
  await page.locator("#heat-own").uncheck();
  await page.locator("#heat").fill("0");
  await page.locator("#tools").fill(JSON.stringify(tools));
  await shot(page, "phone-light-chat-settings");
  await page.locator("#dials summary").click();
  await say(page, "What is the weather in Jakarta?", 200);
  const card = page.locator(".card.tool").first();
  await expect(card.locator("h3 code")).toHaveText("get_weather");
  await expect(card.locator("pre")).toContainText("\"city\"");
  await card.locator("textarea").fill("{\"temperature\": 31, \"sky\": \"rain\"}");
  await card.getByRole("button", { name: "Give result" }).click();
  await expect(page.locator("article.assistant").nth(1).locator(".stats")).toContainText("tokens");
  await shot(page, "phone-light-chat-tool");
});

test("refusals and broken answers are told in words", async ({ page, house }) => {
  page.provoked = /chat\/completions/;
  const error = { message: "the household is busy; try again in 7 s", code: "busy" };
  const cases = [
    [{ status: 429, json: { error }, headers: { "retry-after": "7" } }, "Try again in 7 s."],
    [{ status: 400, json: { error: { message: "too long", code: "context_length_exceeded" } } }, "Start a new chat"],
    [{ status: 500, body: "oops" }, "status 500"],
    [{ contentType: "text/event-stream", body: "data: {\"error\":{\"message\":\"node attic was lost\"}}\n\n" }, "node attic was lost"],
    [{ contentType: "text/event-stream", body: "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n" }, "broke off"],
  ];
  await open(page, house, "chat");
  for (const [reply, text] of cases) {
    await page.route("**/v1/chat/completions", (route) => route.fulfill(reply));
    await page.locator("#fresh").click();
    await page.locator("#say").fill("Hello");
    await page.locator("#send").click();
    await expect(page.locator("article.assistant .notice")).toContainText(text);
    await page.unroute("**/v1/chat/completions");
  }
  await page.route("**/v1/chat/completions", (route) => route.abort());
  await page.getByRole("button", { name: "Try again" }).click();
  await expect(page.locator("article.assistant .notice")).toContainText("does not answer");
});

test("a device that knocks is let in by its words, and can be removed", async ({ page, house }) => {
  await page.setViewportSize(DESKTOP);
  await open(page, house, "devices");
  house.knock("workshop");
  const knock = page.locator(".knock", { hasText: "workshop" });
  await expect(knock.locator(".words b")).toHaveCount(4);
  await expect(page.locator("#knocks")).toHaveText("1");
  const { pending } = await house.tell("approve");
  const words = await knock.locator(".words b").allTextContents();
  expect(words.join(" ")).toBe(pending[0].words);
  await shot(page, "desktop-light-knock");
  await knock.getByRole("button", { name: "let it in" }).click();
  const row = page.locator(".rows li", { hasText: "workshop" });
  await expect(row).toBeVisible();
  await row.getByRole("button", { name: "Remove workshop" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await expect(row).toBeVisible();
  await row.getByRole("button", { name: "Remove workshop" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await expect(row).toHaveCount(0);
});

test("keys of people are made and listed, and the page goes on with the first", async ({ page, house }) => {
  await open(page, house, "people");
  await page.getByLabel("Name").fill("ada");
  await page.getByRole("button", { name: "Create a key" }).click();
  await expect(page.locator(".invite")).toContainText("It is the first");
  expect((await fetch(`${house.url}/v1/models`)).status).toBe(401);
  const row = page.locator("#people .rows li", { hasText: "ada" });
  await expect(row).toContainText("priority normal");
  await page.locator(`.tabs a[href="#chat"]`).click();
  await say(page, "Tell me a story.");
  await expect(page.locator("article.assistant .stats")).toContainText("tokens/s");
  await page.locator(`.tabs a[href="#people"]`).click();
  await expect(page.locator("#people tbody")).toContainText("ada", { timeout: 30_000 });
  await row.getByRole("button", { name: "Revoke the key of ada" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await expect(row).toContainText("revoked");
  expect((await fetch(`${house.url}/v1/models`)).status).toBe(200);
});

test("a key is shown once, and who used what is listed", async ({ page, house }) => {
  await page.setViewportSize(PHONE);
  const keys = [];
  const key = (name, more) => ({ id: keys.length + 1, name, priority: "normal", tokens_per_day: null, tokens_today: 0, revoked_unix_s: null, ...more });
  await page.route("**/admin/keys", (route) => {
    const made = route.request().postDataJSON();
    if (!made) return route.fulfill({ json: { keys } });
    keys.push(key(made.name, { tokens_per_day: made.tokens_per_day, priority: made.priority }));
    return route.fulfill({ json: { ...keys.at(-1), key: "hearth-secret", first: false } });
  });
  await page.route("**/admin/keys/revoke", (route) => {
    keys.find((one) => String(one.id) === route.request().postDataJSON().key).revoked_unix_s = 1;
    return route.fulfill({ json: {} });
  });
  const usage = [{ day: "2026-03-01", person: "ada", model: "hearth-tiny", requests: 3, prompt_tokens: 1200, completion_tokens: 340 }];
  await page.route("**/admin/usage?days=30", (route) => route.fulfill({ json: { days: 30, usage } }));
  await open(page, house, "people");
  await page.getByLabel("Name").fill("ada");
  await page.getByLabel("Tokens a day").fill("5000");
  await page.getByLabel("Priority").selectOption("high");
  await page.getByRole("button", { name: "Create a key" }).click();
  await expect(page.locator(".invite .command")).toContainText("hearth-secret");
  await expect(page.locator("#people tbody")).toContainText("1,200");
  await shot(page, "phone-light-keys");
  await page.getByRole("button", { name: "I have it" }).click();
  await expect(page.locator("#people")).not.toContainText("hearth-secret");
  const row = page.locator("#people .rows li", { hasText: "ada" });
  await expect(row).toContainText("0 of 5,000 tokens today · priority high");
  await row.getByRole("button").click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await expect(row).toContainText("revoked");
});

test("expert groups and head blocks away from their layers are on the map", async ({ page, house }) => {
  await page.setViewportSize(DESKTOP);
  const { nodes } = await house.tell("nodes");
  const attic = nodes.find((node) => node.name === "attic");
  await change(page, "**/admin/plan", (plan) => {
    const held = plan.stages.find((stage) => stage.name === "attic");
    const [first, second] = plan.stages.filter((stage) => stage !== held);
    const stages = [{ ...first, first_layer: 0, end_layer: 4, embedding: true, head: false }, { ...second, first_layer: 4, end_layer: 8, head: true }];
    const away = { node: attic.node, name: "attic" };
    return {
      ...plan, stages, experts: [{ ...away, first_layer: 1, end_layer: 7, groups: [4, 5, 6, 7] }], head_blocks: [{ ...away, blocks: [0, 1] }],
      prediction: { ...plan.prediction, stage_s_per_token: [3e-4, 9e-4], hops_s_per_token: 2e-4 },
    };
  });
  await change(page, "**/admin/nodes", (facts) => ({
    ...facts, nodes: facts.nodes.map((node) => (node.name === "attic" ? { ...node, layers: null, head: false, expert_groups: 24, head_blocks: 2 } : node)),
  }));
  await open(page, house);
  await expect(page.locator(".flow .node")).toHaveCount(2);
  await expect(page.locator(".layers .thin")).toHaveText("attic: 4 expert groups");
  const card = page.locator(".grid .node", { hasText: "attic" });
  await expect(card).toContainText("24 expert groups for others");
  await expect(card).toContainText("2 head blocks for another");
  await expect(page.locator(".flow .tag", { hasText: "bottleneck" })).toHaveCount(1);
  await expect(page.locator(".wire .tag")).toHaveText("slowest link");
  await shot(page, "desktop-light-experts");
});

test("loading shows how far it is, and for how long", async ({ page, house }) => {
  await page.setViewportSize(PHONE);
  await page.emulateMedia({ colorScheme: "dark" });
  await change(page, "**/admin/status", (facts) => ({
    ...facts, phase: "loading", ready: false, done_bytes: 5 * 2 ** 30, total_bytes: 20 * 2 ** 30, eta_s: 42, detail: "3 machines are loading epoch 2",
  }));
  await change(page, "**/admin/nodes", (facts) => ({
    ...facts, nodes: facts.nodes.map((node) => ({ ...node, state: "loading", done_bytes: 2 ** 30, total_bytes: 7 * 2 ** 30 })),
  }));
  await open(page, house);
  await expect(page.locator("#now")).toContainText("Loading");
  await expect(page.locator(".wait")).toContainText("5.0 GiB of 20.0 GiB · about 42 s to go");
  await expect(page.locator(".node progress")).toHaveCount(3);
  await shot(page, "phone-dark-loading");
  await page.locator(`.tabs a[href="#chat"]`).click();
  await expect(page.locator("#send")).toBeDisabled();
  await expect(page.locator("#chat-note")).toContainText("not ready: 3 machines are loading");
});

test("a key is asked for and brought along; who is not the owner can chat all the same", async ({ page, house }) => {
  page.provoked = /admin|401|403/;
  const keys = [];
  await page.route("**/admin/**", (route) => {
    keys.push(route.request().headers().authorization);
    const status = keys.at(-1) === "Bearer right" ? 403 : 401;
    const message = status === 403 ? "the owner's page works on the machine of the coordinator alone" : "a key is expected";
    return route.fulfill({ status, json: { error: { message } } });
  });
  await open(page, house, "chat");
  await page.getByLabel("This household asks for a key").fill("right");
  await page.getByRole("button", { name: "Use it" }).click();
  await expect(page.locator("#trouble")).toContainText("on the machine of the coordinator alone");
  await say(page, "Tell me a story.");
  await expect(page.locator("article.assistant .stats")).toContainText("tokens/s");
});

test("another origin's page and a missing mark get nothing", async ({ house }) => {
  for (const headers of [{}, { "x-hearth": "1", origin: "http://evil.example" }, { "x-hearth": "1", "sec-fetch-site": "cross-site" }]) {
    expect((await fetch(`${house.url}/admin/status`, { headers })).status).toBe(403);
  }
});

test("every page fits phone and desktop, dark and light, and works by keyboard", async ({ page, house }) => {
  await open(page, house, "chat");
  await say(page, "Tell me a story.", 400);
  const work = house.work();
  await page.locator(`.tabs a[href="#house"]`).click();
  await expect(page.locator(".flow .node .live b").first()).toHaveText(/^[1-9]\d+/);
  await expect(page.locator(".spark")).toBeVisible();
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [kind, size] of [["desktop", DESKTOP], ["phone", PHONE], ["smallest", SMALLEST]]) {
      await page.setViewportSize(size);
      for (const name of PAGES) {
        await page.locator(`.tabs a[href="#${name}"]`).click();
        await expect(page.locator(`#page-${name}`)).toBeVisible();
        if (name === "house") await expect(page.locator(".flow .node .live b").first()).toBeVisible();
        if (name === "models") await expect(page.locator("#models h3")).toBeVisible();
        if (name === "people") await expect(page.locator("#people")).not.toContainText("Looking");
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        expect(wide, `${name} on ${kind}`).toBeLessThanOrEqual(0);
        if (kind === "desktop") await accessible(page, `${name} ${scheme}`);
        if (kind !== "smallest") await shot(page, `${kind}-${scheme}-${name}`);
      }
    }
  }
  await work.end();
  await page.goto(house.url);
  await page.keyboard.press("Tab");
  await expect(page.locator(".skip")).toBeFocused();
  for (const name of ["Hearth", "Household", "Chat"]) {
    await page.keyboard.press("Tab");
    await expect(page.locator(":focus")).toContainText(name);
  }
  await page.keyboard.press("Enter");
  await expect(page.locator("#page-chat")).toBeVisible();
});

test("a machine that is lost is shown as such, and the others go on", async ({ page, house }) => {
  await page.setViewportSize(DESKTOP);
  await open(page, house);
  await expect(page.locator(".flow .node")).toHaveCount(3);
  house.lose("attic");
  await expect(page.locator(".card.lost", { hasText: "attic" })).toContainText("node join");
  await expect(page.locator(".flow .node")).toHaveCount(2, { timeout: 60_000 });
  await expect(page.locator("#now")).toContainText("Ready");
  await shot(page, "desktop-light-lost");
});
