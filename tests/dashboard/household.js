// A coordinator and three nodes on this machine, each a process of its own.
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

const ROOT = resolve(import.meta.dirname, "../..");
const BIN = process.env.HEARTH_BIN || join(ROOT, "target/release");
const READY_MS = 120_000;
const run = promisify(execFile);

// What the planner believes of the machines, so that each has a part whatever this machine is.
const MACHINES = [
  { name: "den", memory: "21MiB", facts: { read_bytes_per_s: 20e9, macs_per_s: 200e9 } },
  { name: "kitchen", memory: "18MiB", facts: { read_bytes_per_s: 12e9, macs_per_s: 90e9 } },
  { name: "attic", memory: "16MiB", facts: { read_bytes_per_s: 8e9, macs_per_s: 40e9 } },
];

export class Household {
  processes = [];

  static async start(plan = "layers") {
    const house = new Household();
    house.dir = await mkdtemp(join(tmpdir(), "hearth-dashboard-"));
    house.data = join(house.dir, "coordinator");
    const serve = house.spawn("coordinator", [
      "serve", "--model", join(ROOT, "models/hearth-tiny.gguf"), "--api", "127.0.0.1:0", "--mesh", "127.0.0.1:0",
      "--expect", String(MACHINES.length), "--plan", plan, "--context", "2048", "--data-dir", house.data, "--json",
    ]);
    house.facts = JSON.parse(await firstLine(serve));
    house.url = `http://${house.facts.api}`;
    return house;
  }

  /** Lets the machines join and waits until the service is ready. */
  async gather() {
    for (const { name, memory, facts } of MACHINES) {
      const file = join(this.dir, `${name}.json`);
      await writeFile(file, JSON.stringify(facts));
      const { url } = await this.tell("invite", "--ttl", "5m");
      this.node(name, [url, "--memory", memory, "--facts", file]);
    }
    await this.until(async () => (await fetch(`${this.url}/readyz`)).ok, "the service is ready");
  }

  node(name, words) {
    return this.spawn("node", ["join", ...words, "--name", name, "--threads", "1", "--discovery", "off", "--data-dir", join(this.dir, name)]);
  }

  /** A device that asks on the owner's screen. */
  knock(name) {
    return this.node(name, ["--ask", "--coordinator", this.facts.mesh, "--memory", "8MiB"]);
  }

  /** Keeps two conversations going until `end` is called. */
  work() {
    const over = new AbortController();
    const model = this.facts.model;
    const body = JSON.stringify({ model, prompt: "Once upon a time", max_tokens: 1500, ignore_eos: true, stream: true });
    const keep = async () => {
      while (!over.signal.aborted) {
        const answer = await fetch(`${this.url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body, signal: over.signal });
        for await (const _ of answer.body);
      }
    };
    const all = [keep(), keep()].map((one) => one.catch((error) => over.signal.aborted || Promise.reject(error)));
    return {
      end: async () => {
        over.abort();
        await Promise.all(all);
      },
    };
  }

  /** Ends a machine as a pulled plug would. */
  lose(name) {
    this.processes.find((child) => child.spawnargs.includes(name)).kill("SIGKILL");
  }

  async tell(...words) {
    const { stdout } = await run(join(BIN, "coordinator"), [...words, "--data-dir", this.data, "--json"]);
    return JSON.parse(stdout);
  }

  spawn(program, words) {
    const child = spawn(join(BIN, program), words, { stdio: ["ignore", "pipe", "pipe"] });
    child.said = "";
    child.stderr.on("data", (text) => { child.said = (child.said + text).slice(-4000); });
    child.stdout.on("data", (text) => { child.said = (child.said + text).slice(-4000); });
    this.processes.push(child);
    return child;
  }

  async until(holds, what) {
    const end = Date.now() + READY_MS;
    while (!(await holds())) {
      if (Date.now() > end) throw new Error(`waited too long: ${what}\n${this.processes.map((one) => one.said).join("\n--\n")}`);
      await new Promise((done) => setTimeout(done, 100));
    }
  }

  async end() {
    for (const child of this.processes.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const over = new Promise((done) => child.once("exit", done));
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), 10_000);
      await over;
      clearTimeout(late);
    }
    await rm(this.dir, { recursive: true, force: true });
  }
}

function firstLine(child) {
  return new Promise((done, fail) => {
    let text = "";
    child.stdout.on("data", (more) => {
      text += more;
      if (text.includes("\n")) done(text.slice(0, text.indexOf("\n")));
    });
    child.once("exit", () => fail(new Error(`it ended early: ${child.said}`)));
  });
}
