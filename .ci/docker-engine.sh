#!/usr/bin/env bash
# Makes sure that a Docker engine answers: the one that is there, or one started here.
#
#   .ci/docker-engine.sh STATE
#
# If it has to start an engine, its process id is in STATE/dockerd.pid and its log in STATE/dockerd.log;
# whoever called this ends it.
set -euo pipefail
state=$1
mkdir -p "$state"
rm -f "$state/dockerd.pid"

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
fail() { echo "error: $*" >&2; exit 2; }

if command -v docker >/dev/null && answers; then
  echo "docker-engine: using the one that runs ($(docker version --format '{{.Server.Version}}'))"
  exit
fi
[ "$(id -u)" = 0 ] || fail "no Docker engine answers, and only root can start one. Start it, or run this as root"
if ! command -v dockerd >/dev/null; then
  command -v apt-get >/dev/null || fail "no Docker engine is installed, and there is no apt-get to install one with"
  echo "docker-engine: installing docker.io"
  apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker.io </dev/null >/dev/null
fi

# Not through a service manager: a fresh container or virtual machine often has none running.
nohup dockerd >"$state/dockerd.log" 2>&1 </dev/null &
echo $! >"$state/dockerd.pid"
for _ in $(seq 60); do
  if answers; then
    echo "docker-engine: started ($(docker version --format '{{.Server.Version}}'))"
    exit
  fi
  kill -0 "$(cat "$state/dockerd.pid")" 2>/dev/null || break
  sleep 1
done
tail -n 20 "$state/dockerd.log" >&2
kill "$(cat "$state/dockerd.pid")" 2>/dev/null || true
rm -f "$state/dockerd.pid"
fail "the Docker engine did not start; the end of its log is above"
