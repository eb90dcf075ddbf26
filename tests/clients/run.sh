#!/bin/sh
# Installs the clients as the lock files say, then runs them against a cluster on this machine. Where the system lets
# it, they run in a network namespace with nothing but loopback: no client can call anybody else.
set -eu
cd "$(dirname "$0")"
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
npm ci --silent --no-audit --no-fund
if unshare --user --map-root-user --net true 2>/dev/null && command -v ip >/dev/null; then
    exec unshare --user --map-root-user --net sh -c 'ip link set lo up && exec "$@"' run .venv/bin/python run.py "$@"
fi
echo "no network namespace here: the clients can reach the network" >&2
exec .venv/bin/python run.py "$@"
