#!/usr/bin/env bash
# Fetches the versions of etcd and the docker-compose v2 that the tests use. It extracts them from Debian's packages,
# without installing the packages, into ~/.cache/leader-election-tests:
#
#   etcd-bookworm/{etcd,etcdctl}   etcd-trixie/…   etcd-sid/…   compose-v2/docker-compose
#
# `tests/fetch.sh etcd-sid` fetches only that one.
# The script names Debian's suites, not versions, so the tests use what the users of Debian run today.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/leader-election-tests

fail() {
    echo "tests/fetch.sh: $*" >&2
    exit 1
}

# sources SUITE: writes a source list for SUITE, with the machine's own mirror and signing key, into the folder $work.
# Prints the list's file name, whose ending shows apt the format.
sources() {
    local own
    for own in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        [[ -e $own ]] || continue
        if [[ $own == *.sources ]]; then
            awk -v RS= '/(^|\n)Types:/ { print; exit }' "$own" |
                sed -e "s/^Suites:.*/Suites: $1/" -e 's/^Types:.*/Types: deb/' >"$work/suite.sources"
            own=$work/suite.sources
        else
            sed -nE "/^deb .*cdrom:/d; s/^(deb +(\[[^]]*\] +)?[^ ]+) .*/\1 $1 main/p" "$own" |
                head -n 1 >"$work/suite.list"
            own=$work/suite.list
        fi
        if [[ -s $own ]]; then
            echo "$own"
            return
        fi
    done
    fail "found no Debian mirror in /etc/apt/sources.list.d/debian.sources or /etc/apt/sources.list"
}

# fetch FOLDER SUITE PACKAGE=PATH…: copies each PATH of PACKAGE into FOLDER, which appears complete or not at all.
fetch() {
    local folder=$cache/$1 suite=$2 list item apt
    [[ -d $folder ]] && return
    shift 2
    echo "tests/fetch.sh: fetching ${*%=*} of Debian $suite into $folder"

    # Run by root, apt fetches as the user _apt, who needs access to the folders.
    work=$(mktemp -d)
    chmod 755 "$work"
    mkdir -p "$cache" "$work/lists" "$work/debs"
    if ((EUID == 0)); then chown _apt "$work/debs"; fi
    list=$(sources "$suite")
    apt=(apt-get -qq -o "Dir::Etc::sourcelist=$list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o Acquire::Languages=none)
    "${apt[@]}" update || fail "apt-get could not read the package lists of Debian $suite (its message is above)"
    part=$(mktemp -d "$cache/part.XXXXXX")
    for item; do
        (cd "$work/debs" && "${apt[@]}" download "${item%%=*}") ||
            fail "apt-get could not fetch the package ${item%%=*} of Debian $suite (its message is above)"
        dpkg -x "$work/debs/${item%%=*}"_*.deb "$work/root"
        cp "$work/root/${item#*=}" "$part"
    done
    chmod 755 "$part"
    # Another run may have been faster.
    mv -T "$part" "$folder" 2>/dev/null || [[ -d $folder ]]
    cleanup
}

cleanup() {
    rm -rf "$work" "$part"
}
work='' part=''
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# shellcheck source=/dev/null
[[ -r /etc/os-release ]] && . /etc/os-release
if [[ ${ID:-} != debian ]]; then
    fail "fetches from Debian's mirrors with apt, which needs a Debian machine. Elsewhere, install etcd 3.4 or later" \
        "with its etcdctl and docker-compose, and name them: TEST_ETCDS=/path/to/etcd TEST_COMPOSES=/path/to/docker-compose"
fi

if ((!$#)); then set -- etcd-bookworm etcd-trixie etcd-sid compose-v2; fi
for folder; do
    case $folder in
        etcd-bookworm | etcd-trixie | etcd-sid)
            fetch "$folder" "${folder#etcd-}" etcd-server=usr/bin/etcd etcd-client=usr/bin/etcdctl
            ;;
        compose-v2) fetch compose-v2 trixie docker-compose=usr/libexec/docker/cli-plugins/docker-compose ;;
        *) fail "there is nothing to fetch for '$folder'" ;;
    esac
done
