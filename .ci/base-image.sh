#!/usr/bin/env bash
# Prints the image to build upon: the official one where it can be pulled, else a stand-in made here
# from Debian's own packages (same Debian, same Python minor version). Everything else goes to stderr.
#
#   BASE_IMAGE=$(.ci/base-image.sh)
#
# The stand-in trusts what this machine trusts (its CA bundle), so that pip works behind a proxy that
# signs for itself; it is meant for tests, not to be published.
set -euo pipefail
cd "$(dirname "$0")/.."

official=$(sed -n 's/^ARG BASE_IMAGE=//p' docker/data.Dockerfile)
stand_in=race-base:bookworm-py3.11

have() { docker image inspect "$1" >/dev/null 2>&1; }

if have "$official" || timeout 300 docker pull --quiet "$official" >/dev/null 2>&1; then
  echo "$official"
  exit
fi
if have "$stand_in"; then
  echo "base-image: $official cannot be pulled; using $stand_in" >&2
  echo "$stand_in"
  exit
fi

echo "base-image: $official cannot be pulled; making $stand_in with debootstrap" >&2
if [ "$(id -u)" != 0 ]; then
  echo "error: debootstrap needs root. Run as root, or load $official or $stand_in into the engine" >&2
  exit 2
fi
if ! command -v debootstrap >/dev/null; then
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap </dev/null >&2
fi

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
# pip, venv and the headers are in the official image as well.
debootstrap --variant=minbase \
  --include=ca-certificates,python3,python3-dev,python3-distutils,python3-pip,python3-venv \
  bookworm "$root" >&2 </dev/null
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/*.log \
  "$root"/usr/share/{doc,man,locale,info}/*
for name in python python3; do ln -sf /usr/bin/python3.11 "$root/usr/local/bin/$name"; done
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
[ -f "$bundle" ] && install -m 644 "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
printf '%s\n' 'deb http://deb.debian.org/debian bookworm main' \
  'deb http://deb.debian.org/debian bookworm-updates main' \
  'deb http://deb.debian.org/debian-security bookworm-security main' >"$root/etc/apt/sources.list"

tar -C "$root" --numeric-owner --one-file-system -c . |
  docker import --change 'CMD ["python3"]' - "$stand_in" >&2
echo "$stand_in"
