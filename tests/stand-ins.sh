#!/usr/bin/env bash
# Makes stand-ins for the images in the Dockerfile and the compose files. An image gets a stand-in if it is not on this
# machine and cannot be pulled. Then `docker-compose up --build` works on a Debian machine without access to image
# registries. It needs Docker, Rust, Debian's packages and the crates. Everything comes from the machine itself and from
# Debian:
#
#   debian:…  a minimal Debian made by debootstrap
#   rust:…    the same with a C compiler and the machine's own Rust toolchain
#   etcd      Debian's newest etcd and the libraries it needs; like upstream's image, it has no shell
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "tests/stand-ins.sh: $*" >&2
    exit 1
}

say() {
    echo "tests/stand-ins.sh: $*"
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        command -v sudo >/dev/null || fail "this needs root, and there is no sudo. Run it as root: $*"
        sudo "$@"
    fi
}

# here IMAGE: succeeds if the engine has the image. Pulls the image if it is missing.
here() {
    docker image inspect "$1" >/dev/null 2>&1 && return
    say "pulling $1"
    timeout 900 docker pull --quiet "$1" && return
    say "$1 cannot be pulled (the reason is above); making a stand-in"
    return 1
}

make_debian() {
    # It is on root's PATH only.
    [[ -x /usr/sbin/debootstrap ]] || tests/install.sh debootstrap
    local root=$work/debian suite=${debian#debian:}
    as_root debootstrap --variant=minbase "${suite%-slim}" "$root" >"$work/log" || {
        tail "$work/log" >&2
        fail "debootstrap failed to make $debian (the end of its output is above); it needs root and Debian's mirrors"
    }
    as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    as_root tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$debian" >/dev/null
}

make_rust() {
    local toolchain certificates=/etc/ssl/certs/ca-certificates.crt
    toolchain=$(rustc --print sysroot) || fail "making $rust needs Rust on this machine. Install it: https://rustup.rs"
    [[ $toolchain != /usr ]] ||
        fail "making $rust needs a Rust toolchain in a folder of its own, as rustup installs it, not Debian's package"
    mkdir "$work/rust"
    [[ -e $certificates ]] || tests/install.sh ca-certificates
    # This machine may reach the crates through a proxy with a certificate of its own.
    cp "$certificates" "$work/rust/"
    cat >"$work/rust/Dockerfile" <<END
FROM $debian
RUN apt-get update && apt-get install --no-install-recommends --yes gcc libc6-dev ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY ca-certificates.crt $certificates
COPY bin /usr/local/bin
COPY lib /usr/local/lib
END
    tar -c -C "$work/rust" . -C "$toolchain" --exclude=lib/rustlib/src bin lib |
        DOCKER_BUILDKIT=0 docker build --tag "$rust" - >"$work/log" 2>&1 || {
        tail "$work/log" >&2
        fail "docker build failed to make $rust (the end of its output is above)"
    }
}

make_etcd() {
    tests/fetch.sh etcd-sid
    local root=$work/etcd etcds=${XDG_CACHE_HOME:-$HOME/.cache}/leader-election-tests/etcd-sid
    mkdir -p "$root/usr/local/bin"
    cp "$etcds"/{etcd,etcdctl} "$root/usr/local/bin"
    ldd "$etcds"/{etcd,etcdctl} | grep -o '/[^ ]*\.so[^ ]*' | sort -u | xargs cp --parents --dereference -t "$root"
    tar -C "$root" --owner=0 --group=0 -c . |
        docker import --change 'CMD ["/usr/local/bin/etcd"]' --change 'WORKDIR /var/lib/etcd' \
            --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$etcd" >/dev/null
}

docker version >/dev/null || fail "there is no Docker engine to talk to (its client's message is above): install and start one"

rust=$(sed -n 's/^FROM \(rust:[^ ]*\).*/\1/p' Dockerfile)
debian=$(sed -n 's/^FROM \(debian:[^ ]*\).*/\1/p' Dockerfile)
etcd=$(sed -n 's/^ *image: \(.*\/etcd:.*\)/\1/p' docker-compose-etcd.yaml)

# Not under /tmp: debootstrap refuses to work in a folder that is mounted "nodev", as /tmp may be.
work=$(mktemp -d /var/tmp/leader-election.XXXXXX)
cleanup() {
    if [[ -d $work/debian ]]; then
        # An interrupted debootstrap may leave file systems mounted. They must not be deleted.
        as_root umount -q "$work"/debian/{proc,sys} || true
        as_root rm -rf --one-file-system "$work/debian"
    fi
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

here "$debian" || make_debian
here "$rust" || make_rust
here "$etcd" || make_etcd
say "$debian, $rust and $etcd are here"
