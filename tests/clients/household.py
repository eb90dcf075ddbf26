"""A coordinator and three nodes on this machine, each a process of its own, with the bundled model split over them."""

import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("HEARTH_BIN") or ROOT / "target/release")
MODEL = ROOT / "models/hearth-tiny.gguf"
READY_S = 180
# The programs would take variables of this name for settings of theirs.
SURROUNDINGS = {key: value for key, value in os.environ.items() if not key.startswith("HEARTH_")}

# What the planner believes of the machines, so that each has a part whatever this machine is.
MACHINES = {
    "den": {"read_bytes_per_s": 20e9, "macs_per_s": 200e9},
    "kitchen": {"read_bytes_per_s": 12e9, "macs_per_s": 90e9},
    "attic": {"read_bytes_per_s": 8e9, "macs_per_s": 40e9},
}


def widened(folder, context):
    """A copy of the bundled model that says it takes a longer context. What it answers there is worth nothing, but agents
    bring instructions longer than the model's own context, and their answers are recorded ones."""
    data = bytearray(MODEL.read_bytes())
    key = b".context_length"
    at = data.index(key) + len(key)
    kind, known = struct.unpack_from("<II", data, at)
    if (kind, known) != (4, 4096):
        raise RuntimeError(f"the model's context has another form: type {kind}, value {known}")
    struct.pack_into("<I", data, at + 4, context)
    file = folder / "hearth-tiny-wide.gguf"
    file.write_bytes(data)
    return file


class Household:
    def __init__(self, context, recorded=None):
        """`recorded`: answers that requests with tools get, in their order."""
        self.context = context
        self.recorded = recorded
        self.processes = []
        self.folder = Path(tempfile.mkdtemp(prefix="hearth-clients-"))

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def start(self):
        data = self.folder / "coordinator"
        model, more = MODEL, []
        if self.recorded is not None:
            model = widened(self.folder, self.context)
            answers = self.folder / "answers.json"
            answers.write_text(json.dumps(self.recorded))
            more = ["--replay", answers]
        serve = self.spawn(
            "coordinator", "serve", "--model", model, "--api", "127.0.0.1:0", "--mesh", "127.0.0.1:0", "--expect",
            len(MACHINES), "--plan", "layers", "--context", self.context, "--sequences", 4, "--data-dir", data, "--json", *more,
        )
        line = serve.stdout.readline()
        if not line:
            raise RuntimeError(f"the coordinator ended: {self.logs()}")
        facts = json.loads(line)
        self.url, self.model = f"http://{facts['api']}", facts["model"]
        for name, speeds in MACHINES.items():
            file = self.folder / f"{name}.json"
            file.write_text(json.dumps(speeds))
            told = subprocess.run(
                [BIN / "coordinator", "invite", "--ttl", "5m", "--data-dir", data, "--json"],
                check=True, capture_output=True, text=True,
            )
            self.spawn(
                "node", "join", json.loads(told.stdout)["url"], "--memory", "256MiB", "--facts", file, "--name", name,
                "--threads", 1, "--discovery", "off", "--data-dir", self.folder / name,
            )
        self.wait()
        nodes = self.read("/readyz")["nodes"]
        if nodes != len(MACHINES):
            raise RuntimeError(f"the model runs on {nodes} machines, expected {len(MACHINES)}")
        return self

    def spawn(self, program, *words):
        log = open(self.folder / f"{len(self.processes)}-{program}.log", "w")
        child = subprocess.Popen(
            [BIN / program, *map(str, words)], env=SURROUNDINGS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.processes.append(child)
        return child

    def read(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def wait(self):
        end = time.monotonic() + READY_S
        while True:
            try:
                self.read("/readyz")
                return
            except urllib.error.HTTPError as error:
                said = error.read().decode()
            except OSError as error:
                said = error
            if any(child.poll() is not None for child in self.processes) or time.monotonic() > end:
                raise RuntimeError(f"the service did not become ready: {said}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self):
        return "\n".join(file.read_text()[-2000:] for file in sorted(self.folder.glob("*.log")))

    def __exit__(self, *_):
        for child in reversed(self.processes):
            child.terminate()
        for child in self.processes:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
