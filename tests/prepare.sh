#!/usr/bin/env bash
# Installs and fetches what building and testing need, on a Debian machine with Rust and Docker. On other machines, it
# prints what to install. If there is nothing to do, it takes no time.
#
#   tests/prepare.sh         for everything
#   tests/prepare.sh build   for building only, which needs neither Docker nor a server
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "tests/prepare.sh: $*" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null
}

# shellcheck source=/dev/null
[[ -r /etc/os-release ]] && . /etc/os-release
build_only=0
if [[ ${1-} == build ]]; then build_only=1; fi

missing=()
has cargo || fail "there is no cargo on the PATH. Install Rust with rustup: https://rustup.rs"
# Rust links with a C compiler, and some crates contain C. The compiler alone lacks the headers.
has cc && cc -E -include stdlib.h -x c /dev/null >/dev/null 2>&1 || missing+=(gcc libc6-dev)
has protoc || missing+=(protobuf-compiler)
# The .proto files that etcd's own include come with the compiler or in /usr/include.
[[ -e $(dirname "$(command -v protoc || echo /usr/bin/protoc)")/../include/google/protobuf/empty.proto ]] ||
    missing+=(libprotobuf-dev)

if ((!build_only)); then
    has docker || fail "there is no docker, which the tests of the containers need. Install Docker (Debian: docker.io)"
    docker version >/dev/null ||
        fail "the Docker engine does not respond (docker's message is above). Start it, and let this user access it"
    has shellcheck || missing+=(shellcheck)
    # Debian keeps the server's programs off the PATH, one folder for each version.
    has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    # haproxy is on root's PATH only.
    has haproxy || [[ -x /usr/sbin/haproxy ]] || missing+=(haproxy)
    # benches/fail_over compares with it.
    has keepalived || [[ -x /usr/sbin/keepalived ]] || missing+=(keepalived)
    # promtool comes with it.
    { has prometheus && has promtool; } || missing+=(prometheus)
    # The tests of the page use these. Without a font, the browser shows no text.
    has chromium || missing+=(chromium)
    has chromedriver || missing+=(chromium-driver)
    compgen -G '/usr/share/fonts/*/*/*.[ot]tf' >/dev/null || missing+=(fonts-dejavu-core)
    # The tests of examples/vip.sh make networks of their own.
    has ip || [[ -x /usr/sbin/ip ]] || missing+=(iproute2)
    has arping || [[ -x /usr/sbin/arping ]] || missing+=(iputils-arping)
    # Bookworm has the classic version, 1.29. tests/fetch.sh cannot fetch it, because it is not a single program.
    if [[ ${ID-} == debian && ${VERSION_CODENAME-} == bookworm ]] && ! has docker-compose; then
        missing+=(docker-compose)
    fi
fi

if ((${#missing[@]})); then tests/install.sh "${missing[@]}"; fi

if ((!build_only)); then
    if [[ -z ${TEST_ETCDS-} || -z ${TEST_COMPOSES-} ]]; then tests/fetch.sh; fi
    tests/stand-ins.sh
fi
