#!/usr/bin/env bash
# One clear line for what would otherwise be pages of compiler or pip output.
set -u
python=$1
fail() { echo "error: $*" >&2; exit 2; }
command -v "$python" >/dev/null || fail "$python is not installed. Install Python 3.11 or 3.12, or name one: make setup PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' ||
  fail "$python is $("$python" -c 'import platform; print(platform.python_version())'), but 3.11 or 3.12 is needed. Name one: make setup PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv module. On Debian and Ubuntu: apt-get install $(basename "$python")-venv"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler (${CXX:-g++}), and fairseq has to be compiled. On Debian and Ubuntu: apt-get install g++"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$include/Python.h" ] || fail "$python has no headers ($include/Python.h). On Debian and Ubuntu: apt-get install $(basename "$python")-dev"
