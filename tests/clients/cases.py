"""What every client's file shares: its cases, run one by one, each with a line of what came of it."""

import os
import sys
import traceback

URL = os.environ["HEARTH_URL"]
MODEL = os.environ["HEARTH_MODEL"]

_CASES = []


class Skip(Exception):
    """A case that cannot be run here, and why."""


def case(function):
    _CASES.append(function)
    return function


def run():
    failed = 0
    for function in _CASES:
        name = function.__name__.replace("_", " ")
        try:
            said = function()
            print(f"  ok    {name}" + (f": {said}" if said else ""))
        except Skip as why:
            print(f"  skip  {name}: {why}")
        except Exception:
            failed += 1
            print(f"  FAIL  {name}\n{traceback.format_exc()}")
        sys.stdout.flush()
    sys.exit(1 if failed else 0)
