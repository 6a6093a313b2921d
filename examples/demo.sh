#!/usr/bin/env bash
# Runs the whole demo in one terminal, without Docker: etcd and three replicas on this machine. In each round, it kills
# the leader, prints how long nobody led, and starts the killed replica again. At Ctrl-C, it stops and removes
# everything.
set -euo pipefail

usage() {
    cat <<'END'
Usage: examples/demo.sh [--rounds N]

Starts etcd and three replicas. In each round, it kills the leader, waits until the next one takes over, and starts
the killed replica again. Stops after N rounds, or at Ctrl-C.

On Debian, only Rust must be installed: the script installs the other packages that the build needs, and fetches etcd
if there is none on the PATH.

Environment:
  ETCD         the etcd to start, instead of the one on the PATH
  DEMO_BINARY  the leader-election to run, instead of building it with cargo
  NO_COLOR     no colours
END
}

fail() {
    echo "demo.sh: $*" >&2
    exit 1
}

misused() {
    echo "demo.sh: $*; see demo.sh --help" >&2
    exit 2
}

rounds=''
while (($#)); do
    case $1 in
        --rounds)
            [[ ${2-} =~ ^[1-9][0-9]{0,8}$ ]] || misused "--rounds takes a number, 1 or more, not '${2-}'"
            rounds=$2
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        *) misused "there is no option '$1'" ;;
    esac
    shift
done

project=$(cd "$(dirname "$0")/.." && pwd)
etcd=${ETCD:-$(command -v etcd || true)}
if [[ -z $etcd ]]; then
    etcd=${XDG_CACHE_HOME:-$HOME/.cache}/leader-election-tests/etcd-sid/etcd
    [[ -x $etcd ]] || "$project/tests/fetch.sh" etcd-sid || fail "there is no etcd on the PATH, and none could be" \
        "fetched (the reason is above). Install etcd 3.5.28 or later, or name one: ETCD=/path/to/etcd"
fi
[[ -x $etcd ]] || fail "ETCD names '$etcd', which is not a program"
if [[ -n ${DEMO_BINARY-} ]]; then
    binary=$DEMO_BINARY
    [[ -x $binary ]] || fail "DEMO_BINARY names '$binary', which is not a program"
else
    "$project/tests/prepare.sh" build || fail "this machine lacks what the build needs (the message above says what)"
    cargo build --release --locked --manifest-path "$project/Cargo.toml" || fail "the build failed (cargo's message is above)"
    binary=${CARGO_TARGET_DIR:-$project/target}/release/leader-election
fi
# The user or a service manager may have set these variables for other programs. They would change the demo.
unset "${!LEADER_ELECTION_@}" "${!ETCD_@}" RUST_LOG NOTIFY_SOCKET "${!WATCHDOG_@}"

declare -A pids=() colours=([server1]=36 [server2]=33 [server3]=32)
if [[ ! -t 1 || -n ${NO_COLOR-} ]]; then colours=(); fi
leader='' etcd_pid=''

folder=$(mktemp -d)
# The lines of all replicas come through one pipe, each with the replica's name before it. The script holds both ends of
# the pipe open, so opening it never blocks.
mkfifo "$folder/lines"
exec 3<>"$folder/lines"

# Each job gets its own process group. So Ctrl-C reaches only this script, which then stops the jobs in the right order.
set -m

# An empty line ten times a second limits each wait for a line. `read -t` would lose a line that is half read at the
# timeout.
{ while sleep 0.1; do echo; done } 3>&- >"$folder/lines" 2>/dev/null &
ticker=$!

# show NAME TEXT: prints a line as docker-compose would.
show() {
    local colour=${colours[$1]-}
    if [[ -n $colour ]]; then
        printf '\e[%sm%s_1  |\e[0m %s\n' "$colour" "$1" "$2"
    else
        printf '%s_1  | %s\n' "$1" "$2"
    fi 2>/dev/null
}

# follow MILLISECONDS [NAME TEXT]: shows the replicas' lines until NAME (a pattern) prints TEXT, for at most this time.
# Succeeds if TEXT was printed.
follow() {
    local end name text
    tell_time
    end=$((now + $1))
    while ((now < end)); do
        if ((stopped)); then exit "$stopped"; fi
        read -r -u 3 name text
        if [[ -n $name ]]; then
            show "$name" "$text"
            if [[ $text == 'I am the leader.' ]]; then leader=$name; fi
            # shellcheck disable=SC2053 # NAME is a pattern.
            if (($# > 1)) && [[ $name == $2 && $text == "$3" ]]; then return 0; fi
        fi
        tell_time
    done
    return 1
}

# Sets $now, in milliseconds. It does not print the time for a $(…), because bash 5.2 sometimes misreads a $(…) in which
# a trap runs.
tell_time() {
    now=$((${EPOCHREALTIME//[!0-9]/} / 1000))
}

start() {
    "$binary" --name "$1" --etcd "$address" </dev/null 3>&- > >(exec sed -u "s/^/$1 /" >"$folder/lines") 2>&1 &
    pids[$1]=$!
}

# end PID…: asks the processes to stop, kills those that still run after 10 seconds, and returns when all have ended.
end() {
    local watchdog
    kill -TERM "$@" 2>/dev/null
    { sleep 10 && kill -KILL "$@"; } 3>&- >/dev/null 2>&1 &
    watchdog=$!
    wait "$@" 2>/dev/null
    kill -KILL -- "-$watchdog"
    wait "$watchdog" 2>/dev/null
}

clean_up() {
    trap '' INT TERM HUP PIPE
    stopped=0
    set +e
    if ((${#pids[@]})); then
        end "${pids[@]}"
        follow 200
    fi
    if [[ -n $etcd_pid ]]; then end "$etcd_pid"; fi
    kill -KILL -- "-$ticker"
    wait "$ticker" 2>/dev/null
    rm -rf "$folder"
}
trap clean_up EXIT
# bash cannot exit safely in the middle of a read. So a signal only sets a variable, which `follow` checks ten times a
# second.
stopped=0
trap 'stopped=129' HUP
trap 'stopped=130' INT
trap 'stopped=141' PIPE
trap 'stopped=143' TERM

# Port 0 means any free port. etcd's log shows which one. The log file exists before etcd starts, so that it can be
# read.
: >"$folder/etcd.log"
"$etcd" --data-dir "$folder/etcd" \
    --listen-client-urls http://127.0.0.1:0 --advertise-client-urls http://127.0.0.1:0 \
    --listen-peer-urls http://127.0.0.1:0 --initial-advertise-peer-urls http://127.0.0.1:0 \
    --initial-cluster default=http://127.0.0.1:0 </dev/null 3>&- >"$folder/etcd.log" 2>&1 &
etcd_pid=$!
serving=$'serving [a-z ]*insecure[^\n]*[^0-9](127\\.0\\.0\\.1:[0-9]+)'
address=''
for ((tries = 0; tries < 300; tries++)); do
    read -r -d '' log <"$folder/etcd.log" || true
    if [[ $log =~ $serving ]]; then address=${BASH_REMATCH[1]}; fi
    if [[ -n $address ]] || ! kill -0 "$etcd_pid" 2>/dev/null; then break; fi
    follow 100 || true
done
if [[ -z $address ]]; then
    tail "$folder/etcd.log" >&2
    fail "$etcd did not start to serve (the end of its log is above)"
fi
echo "etcd serves at $address"

for name in server1 server2 server3; do start "$name"; done
follow 30000 '*' 'I am the leader.' || fail "nobody became the leader within 30 seconds"

for ((round = 1; ; round++)); do
    follow 5000 || true

    killed=$leader
    echo "Killing $killed."
    tell_time
    killed_at=$now
    # The braces keep bash's own message about the killed job off the terminal.
    { kill -KILL "${pids[$killed]}" && wait "${pids[$killed]}"; } 2>/dev/null || echo "$killed exited with code $?"
    unset "pids[$killed]"
    follow 60000 '*' 'I am the leader.' || fail "nobody took over from $killed within 60 seconds"
    tell_time
    echo "Nobody led for $((now - killed_at)) ms, from the kill of $killed to $leader."
    follow 3000 || true

    echo "Bringing $killed back."
    start "$killed"
    follow 30000 "$killed" 'I am a follower.' || fail "$killed did not come back as a follower within 30 seconds"
    if ((round == ${rounds:-0})); then break; fi
done
