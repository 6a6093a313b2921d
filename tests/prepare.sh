#!/usr/bin/env bash
# Gets ready what building and testing need. On a Debian machine with Rust and Docker it installs and fetches what is
# missing; elsewhere it tells what to install. Quick when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "tests/prepare.sh: $*" >&2
    exit 1
}

# shellcheck source=/dev/null
[[ -r /etc/os-release ]] && . /etc/os-release
debian=0
if [[ ${ID-} == debian ]]; then debian=1; fi

there() {
    command -v "$1" >/dev/null
}

there cargo || fail "there is no Rust. Install it with rustup: https://rustup.rs"
there docker || fail "there is no docker, which the tests of the containers need. Install Docker (Debian: docker.io)"
docker version >/dev/null || fail "the Docker engine does not answer (docker's message is above). Start it, and see that this user may use it"

missing=()
there protoc || missing+=(protobuf-compiler)
# The .proto files that etcd's own include come with the compiler or in /usr/include.
[[ -e $(dirname "$(command -v protoc || echo /usr/bin/protoc)")/../include/google/protobuf/empty.proto ]] ||
    missing+=(libprotobuf-dev)
there shellcheck || missing+=(shellcheck)
# Debian keeps the server's programs off the PATH, one folder for each version.
there initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
# haproxy is where only root looks.
there haproxy || [[ -x /usr/sbin/haproxy ]] || missing+=(haproxy)
there prometheus || missing+=(prometheus)
if ((debian)); then
    there debootstrap || missing+=(debootstrap)
    # Bookworm's is 1.29, the classic one, which tests/fetch.sh cannot fetch: it is no single program.
    if [[ ${VERSION_CODENAME-} == bookworm ]] && ! there docker-compose; then missing+=(docker-compose); fi
fi

if ((${#missing[@]})); then
    ((debian)) || fail "please install what these Debian packages hold: ${missing[*]}"
    root=()
    if ((EUID)); then
        there sudo || fail "run as root, or install these yourself: apt-get install ${missing[*]}"
        root=(sudo)
    fi
    echo "tests/prepare.sh: installing ${missing[*]}"
    "${root[@]}" apt-get -qq update
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends --yes "${missing[@]}" >/dev/null
fi

if [[ -z ${TEST_ETCDS-} || -z ${TEST_COMPOSES-} ]]; then tests/fetch.sh; fi
tests/stand-ins.sh
