"""Runs every client against a split cluster. `run.py openai` runs those whose names begin so."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import agents
from household import Household

HERE = Path(__file__).resolve().parent
CLIENTS = {
    "fields": [sys.executable, "fields.py"],
    "openai-python": [sys.executable, "openai_client.py"],
    "openai-node": ["node", "openai_client.mjs"],
    "anthropic-python": [sys.executable, "anthropic_client.py"],
    "ollama-python": [sys.executable, "ollama_client.py"],
}
CONTEXT = 4096


def run_clients(names):
    """Those of them that failed."""
    if not names:
        return []
    failed = []
    with Household(CONTEXT) as house:
        print(f"{house.model} on three machines, context {house.context}")
        surroundings = {**os.environ, "HEARTH_URL": house.url, "HEARTH_MODEL": house.model, "NO_PROXY": "*"}
        for name in names:
            print(name, flush=True)
            if subprocess.run(CLIENTS[name], cwd=HERE, env=surroundings, timeout=900).returncode:
                failed.append(name)
    return failed


def main():
    wanted = sys.argv[1:]
    # So that the machines are ended as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def chosen(names):
        return [name for name in names if not wanted or any(name.startswith(word) for word in wanted)]

    failed = run_clients(chosen(CLIENTS))
    for name in chosen(agents.AGENTS):
        print(name, flush=True)
        if not agents.run(name):
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
