#!/usr/bin/env bash
# Builds the Debian package, and prints the path of the .deb as its last line. The package depends on the libc that the
# program needs, so build it on the oldest Debian release that it must support.
#
#   tests/package.sh                builds the program and the package
#   tests/package.sh units FOLDER   only writes the package's units into FOLDER
#
# If cargo-deb, which makes the package, is missing in ~/.cache/leader-election-tests, the script installs it there.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo_deb_version=3.8.0

fail() {
    echo "tests/package.sh: $*" >&2
    exit 1
}

# unit HEADER EDIT…: prints the example unit, with this header, the path of the package's program, and these edits.
unit() {
    local header=$1
    shift
    printf '# %s\n# To change it, run "systemctl edit". To change the options, edit /etc/default.\n\n' "$header"
    sed -e '1,/^$/d' -e 's|^ExecStart=/usr/local/bin/|ExecStart=/usr/bin/|' "$@" examples/leader-election.service
}

# units FOLDER: writes the units. Each instance of the template needs its own file of options: without one, an instance
# could join another instance's election.
units() {
    mkdir -p "$1"
    unit 'A replica of leader-election.' >"$1/leader-election.service"
    unit 'A replica in one of several elections on this machine: NAME of leader-election@NAME.service.' \
        -e 's|^Description=.*|& (%i)|' \
        -e 's|^EnvironmentFile=.*|&\
# The options of this election alone, which take precedence. This file must exist.\
EnvironmentFile=/etc/default/leader-election-%i\
# The key of this election, unless one of the files sets it.\
Environment=LEADER_ELECTION_LEADER_KEY=%i|' >"$1/leader-election@.service"
}

case ${1-} in
    '') ;;
    units)
        units "${2:?a folder}"
        exit
        ;;
    *) fail "there is no '$1'; the arguments are in the first lines of this script" ;;
esac

tests/prepare.sh build
command -v dpkg >/dev/null || fail "there is no dpkg. A Debian package is built on Debian"
# cargo-deb asks it for the libraries that the program needs.
command -v dpkg-shlibdeps >/dev/null || tests/install.sh dpkg-dev

cargo_deb=${XDG_CACHE_HOME:-$HOME/.cache}/leader-election-tests/cargo-deb-$cargo_deb_version
if [[ ! -x $cargo_deb/bin/cargo-deb ]]; then
    echo "tests/package.sh: installing cargo-deb $cargo_deb_version into $cargo_deb"
    cargo install --quiet --locked --no-track --version "$cargo_deb_version" --root "$cargo_deb" cargo-deb ||
        fail "cargo could not install cargo-deb $cargo_deb_version (its message is above)"
fi

cargo build --locked --release
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
files=$target/release/package
program=$target/release/leader-election
units "$files"
"$program" man | gzip -9n >"$files/leader-election.1.gz"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$files/leader-election.$shell"
done
"$cargo_deb/bin/cargo-deb" --no-build --locked
