#!/usr/bin/env bash
# Runs the tests, after installing and fetching what they need.
#
#   tests/run.sh unit [ARGUMENT...]   tests that need neither Docker nor a server; they take seconds after the build
#   tests/run.sh [ARGUMENT...]        the gate: everything; at most 30 minutes on two cores
#   tests/run.sh all [ARGUMENT...]    the gate and long runs: the Debian package, a million simulated schedules, half an
#                                     hour of fail-over limits under load and beside keepalived, and the faults five
#                                     times. Only in these runs, tests/package.rs builds the package and installs it in
#                                     a container
#
# The arguments go to `cargo test`: `tests/run.sh --test network` runs one file. Those of `unit` go to the test
# programs: `tests/run.sh unit backoff` runs the tests with that in their names.
#
#   TEST_ETCDS     the etcds to test against, each with its etcdctl beside it, oldest first: /a/etcd:/b/etcd
#   TEST_COMPOSES  the docker-composes to test with
#
# If they are not set, the tests use Debian's versions, which tests/fetch.sh fetches, and the machine's own
# docker-compose.
set -euo pipefail
cd "$(dirname "$0")/.."

# The files whose tests need no server. Their module `gate_only` has the tests that need one or take long.
unit=(checker command_line dependencies documents simulation wait_for_it)
# The files that inject faults. There, one run in many may find a bug.
faults=(cluster connections disturbances exclusion fail_over_exclusion fail_over_faults keys network once_faults outages
    presence_faults)
rounds=5
schedules=1000000

# cargo_tests FILE...: prints the options that select these files.
cargo_tests() {
    printf -- '--test=%s\n' "$@"
}

# If this script is a background job of another script or runs under nohup, it ignores these signals. Then the programs
# that the tests start could not handle them.
cargo() {
    env --default-signal=HUP,INT,QUIT cargo "$@"
}

failed=0
step() {
    echo "tests/run.sh: $*"
    "$@" || failed=1
}

# all_tests: runs all tests. Most of them wait most of the time, but the simulator only computes. So the simulator runs
# at the same time as the others. It has the lowest priority and one processor, because the others measure times: beside
# a program that uses all processors, etcd needs several times as long to write to its disk.
all_tests() {
    local file others=() processor
    # "pid 7's current affinity list: 0-3"
    processor=$(taskset --cpu-list --pid $$)
    processor=${processor##*: }
    processor=${processor%%[-,]*}
    for file in tests/*.rs; do
        file=$(basename "$file" .rs)
        [[ $file == simulation ]] || others+=("$file")
    done
    mapfile -t others < <(cargo_tests "${others[@]}")
    step cargo test --locked --no-run
    output=$(mktemp)
    trap 'rm -f "$output"' EXIT
    echo "tests/run.sh: cargo test --locked --no-fail-fast --test simulation, in the background; its output comes last"
    # In its own process group, so that the whole group can be ended.
    set -m
    taskset --cpu-list "$processor" nice -n 19 env --default-signal=HUP,INT,QUIT \
        cargo test --locked --no-fail-fast --test simulation >"$output" 2>&1 &
    simulator=$!
    trap 'kill -- "-$simulator" 2>/dev/null || true; rm -f "$output"' EXIT
    set +m
    step cargo test --locked --no-fail-fast --lib --bins "${others[@]}"
    step cargo test --locked --doc
    wait "$simulator" || failed=1
    cat "$output"
}

mode=gate
case ${1-} in
    unit | all)
        mode=$1
        shift
        ;;
esac

if [[ $mode == unit ]]; then
    tests/prepare.sh build
    # A test that asks for a server fails, even on a machine that has one.
    export TEST_ETCDS=/unit-tests-have-no-etcd TEST_COMPOSES=/unit-tests-have-no-docker-compose
    mapfile -t files < <(cargo_tests "${unit[@]}")
    step cargo test --locked --no-fail-fast --lib --bins "${files[@]}" -- --skip gate_only:: "$@"
    step cargo test --locked --doc -- "$@"
else
    tests/prepare.sh
    fetched=${XDG_CACHE_HOME:-$HOME/.cache}/leader-election-tests
    export TEST_ETCDS=${TEST_ETCDS:-$fetched/etcd-bookworm/etcd:$fetched/etcd-trixie/etcd:$fetched/etcd-sid/etcd}
    if [[ -z ${TEST_COMPOSES-} ]]; then
        TEST_COMPOSES=$fetched/compose-v2/docker-compose
        if own=$(command -v docker-compose); then TEST_COMPOSES=$own:$TEST_COMPOSES; fi
    fi
    export TEST_COMPOSES
    # Only with this variable do the tests take the minutes that some faults need to show an effect.
    if [[ $mode == all ]]; then export TEST_LONG=1; fi
    echo "tests/run.sh: etcds: $TEST_ETCDS"
    echo "tests/run.sh: composes: $TEST_COMPOSES"

    # The tests wait most of the time.
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-8}
    # tests/examples.rs runs the examples. cargo builds them together with the tests only if it builds all tests.
    cargo build --locked --profile test --examples
    # Show all failures of a run, because a run takes minutes.
    if (($#)); then
        step cargo test --locked --no-fail-fast "$@"
    else
        all_tests
    fi
    if [[ $mode == all ]]; then
        step cargo bench --locked --bench simulation -- --schedules "$schedules"
        step cargo bench --locked --bench fail_over
        mapfile -t files < <(cargo_tests "${faults[@]}")
        for ((round = 2; round <= rounds; round++)); do
            step cargo test --locked --no-fail-fast "${files[@]}"
        done
    fi
fi

echo "tests/run.sh: $( ((failed)) && echo failed || echo passed) after $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit "$failed"
