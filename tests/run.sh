#!/usr/bin/env bash
# Runs all tests, after getting ready what they need. Arguments go to `cargo test`.
#
#   TEST_ETCDS     the etcds to test against, each with its etcdctl beside it, oldest first: /a/etcd:/b/etcd
#   TEST_COMPOSES  the docker-composes to test with
#
# Unless set, they are Debian's, fetched by tests/fetch.sh, and the machine's own docker-compose.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/prepare.sh

fetched=${XDG_CACHE_HOME:-$HOME/.cache}/leader-election-tests
export TEST_ETCDS=${TEST_ETCDS:-$fetched/etcd-bookworm/etcd:$fetched/etcd-trixie/etcd:$fetched/etcd-sid/etcd}
if [[ -z ${TEST_COMPOSES-} ]]; then
    TEST_COMPOSES=$fetched/compose-v2/docker-compose
    if own=$(command -v docker-compose); then TEST_COMPOSES=$own:$TEST_COMPOSES; fi
fi
export TEST_COMPOSES
echo "tests/run.sh: etcds: $TEST_ETCDS"
echo "tests/run.sh: composes: $TEST_COMPOSES"

# Most of what the tests do is wait.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-8}
cargo build --locked
# All failures at once: a run takes minutes.
cargo test --locked --no-fail-fast "$@"
