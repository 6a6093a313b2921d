#!/usr/bin/env bash
# Installs Debian packages: tests/install.sh PACKAGE…
# If the machine is not Debian, or if the user may not install packages, it prints what to install.
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
# If another run installs packages at the same time, both commands below wait for up to ten minutes. apt itself can wait
# only for dpkg's lock, not for the lock of the package lists.
apt=("${root[@]}" env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
until output=$("${apt[@]}" update 2>&1); do
    if [[ $output != *"Could not get lock"* ]] || ((SECONDS >= 600)); then
        echo "$output" >&2
        fail "apt-get could not read the package lists (its message is above)"
    fi
    sleep 1
done
"${apt[@]}" install --no-install-recommends --yes "$@" >/dev/null ||
    fail "apt-get could not install $* (its message is above)"
