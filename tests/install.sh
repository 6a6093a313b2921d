#!/usr/bin/env bash
# Installs Debian packages: tests/install.sh PACKAGE…
# On a machine that is not Debian, and for a user who is not allowed to, it says what to install.
set -euo pipefail

fail() {
    echo "tests/install.sh: $*" >&2
    exit 1
}

# shellcheck source=/dev/null
[[ -r /etc/os-release ]] && . /etc/os-release
[[ ${ID-} == debian ]] || fail "this machine is not Debian. Please install what these Debian packages contain: $*"
root=()
if ((EUID)); then
    command -v sudo >/dev/null || fail "there is no sudo. Run this as root, or install these yourself: apt-get install $*"
    root=(sudo)
fi

echo "tests/install.sh: installing $*"
# Waits if another run installs at the same time.
apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
"${apt[@]}" update || fail "apt-get could not read the package lists (its message is above)"
"${apt[@]}" install --no-install-recommends --yes "$@" >/dev/null ||
    fail "apt-get could not install $* (its message is above)"
