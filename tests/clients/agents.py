"""The command-line agents, each with a whole loop: it reads a file, edits it and says so.

The model's side is recorded, in the format in which the bundled model calls tools; everything else is the real thing."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from household import Household

HERE = Path(__file__).resolve().parent
BIN = HERE / "node_modules/.bin"
# The agents' instructions take more than the bundled model's own 4,096 positions.
CONTEXT = 65536
DEADLINE_S = 400
BEFORE, AFTER = "the cat is red\n", "the cat is blue\n"
TASK = "Read notes.txt and change the colour of the cat to blue."
LAST = "The cat is blue now."


def call(name, **arguments):
    """A call as the model writes it."""
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def claude_answers(file):
    return [
        {"reasoning": "I look first.", "text": "I read it.\n\n" + call("Read", file_path=file)},
        {"reasoning": "Now the edit.", "text": call("Edit", file_path=file, old_string="red", new_string="blue")},
        {"reasoning": "That is all.", "text": LAST},
    ]


def codex_answers(_file):
    return [
        {"reasoning": "I look first.", "text": "I read it.\n\n" + call("exec_command", cmd="cat notes.txt")},
        {"reasoning": "Now the edit.", "text": call("exec_command", cmd="sed -i s/red/blue/ notes.txt && cat notes.txt")},
        {"reasoning": "That is all.", "text": LAST},
    ]


def claude(url, model, home):
    words = [
        BIN / "claude", "-p", TASK, "--model", model, "--tools", "Read,Edit", "--allowedTools", "Read,Edit",
        "--output-format", "json",
    ]
    return words, {
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_SMALL_FAST_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_AUTOUPDATER": "1",
        "API_TIMEOUT_MS": str(DEADLINE_S * 1000),
    }


CODEX = """
model = "{model}"
model_provider = "hearth"
check_for_update_on_startup = false
web_search = "disabled"
model_context_window = {context}

[model_providers.hearth]
name = "hearth"
base_url = "{url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false

[feedback]
enabled = false
"""


def codex(url, model, home):
    folder = home / ".codex"
    folder.mkdir()
    (folder / "config.toml").write_text(CODEX.format(model=model, url=url, context=CONTEXT))
    # Its own sandbox asks the system for what a namespace may not give; the folder is ours and made for this.
    words = [BIN / "codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "--json", TASK]
    return words, {"CODEX_HOME": str(folder)}


AGENTS = {"codex": (codex, codex_answers), "claude": (claude, claude_answers)}


def run(name):
    """Whether the agent did its work."""
    start, answers = AGENTS[name]
    with tempfile.TemporaryDirectory(prefix="hearth-agent-") as folder:
        home, work = Path(folder, "home"), Path(folder, "work")
        home.mkdir()
        work.mkdir()
        file = work / "notes.txt"
        file.write_text(BEFORE)
        with Household(CONTEXT, recorded=answers(file)) as house:
            words, settings = start(house.url, house.model, home)
            kept = {key: os.environ[key] for key in ("PATH", "LANG", "TERM") if key in os.environ}
            version = subprocess.run([words[0], "--version"], env={**kept, "HOME": str(home)}, capture_output=True, text=True)
            ended = subprocess.run(
                words, cwd=work, env={**kept, "HOME": str(home), **settings}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=DEADLINE_S,
            )
        good = ended.returncode == 0 and file.read_text() == AFTER and LAST in ended.stdout
        print(f"  {'ok  ' if good else 'FAIL'}  a loop that reads and edits a file: {version.stdout.strip()}")
        if not good:
            print(f"{ended.returncode} {file.read_text()!r}\n{ended.stdout[-6000:]}\n{ended.stderr[-3000:]}")
        return good
