#!/usr/bin/env bash
# Runs a program on every machine, and makes it active only on the leader's machine. On the other machines, it is warm:
# it has started, and waits. On each machine, start the program and the replica that promotes it:
#
#   examples/warm-standby.sh serve /run/standby
#   leader-election --etcd etcd1:2379 -- examples/warm-standby.sh lead /run/standby
#
# Replace `serve` with your own program, in any language. Use `lead` as it is. They share a folder with two named pipes:
#
#   promotion   `lead` writes a line with the fencing token into it, and keeps it open. The program is active from that
#               line until the end of the file. The kernel closes the pipe when `lead` ends, even by SIGKILL. So the
#               program is asked to stop even if no trap can run.
#   activity    At each change, the program writes `active TOKEN` or `standby TOKEN` into it. It keeps the pipe open.
#
# When `lead` is asked to stop, it ends once the program is in standby. So at a planned hand-over, at most one program is
# active. If `lead` or its replica gets SIGKILL, the program stops as soon as it reads from the pipe; the next program may
# become active a moment earlier. For that case, and for a paused machine, pass the token with each write: see worker.sh
# and fence.sql.

set -u

# How long the program may take to become active or to stop, in seconds.
patience=5

say() {
    echo "warm-standby.sh: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

make_pipes() {
    local pipe error
    error=$(mkdir -p "$state" 2>&1) || fail "$error"
    for pipe in promotion activity; do
        # The other side may create it at the same moment.
        error=$(mkfifo "$state/$pipe" 2>&1) || [[ -p $state/$pipe ]] || fail "$error"
    done
}

# Stands for the work of the active program, and is repeated with the token of the term.
act() {
    echo "acts, token $1"
}

serve() {
    # The lock ends with the process.
    exec 7>"$state/lock"
    flock --nonblock 7 || fail "another program uses $state; stop it, or give another folder"
    # Opening a pipe for reading and writing does not block.
    exec 6<>"$state/activity"
    local token
    echo standby
    while :; do
        # Blocks until a `lead` opens the pipe.
        exec 8<"$state/promotion"
        token=
        while :; do
            if read -r -t 0.1 -u 8 line; then
                token=$line
                echo "active, token $token"
                echo "active $token" >&6
            elif (($? <= 128)); then
                # The end of the file; after a timeout, the code is more than 128.
                break
            fi
            if [[ $token ]]; then act "$token"; fi
        done
        exec 8<&-
        if [[ $token ]]; then
            echo standby
            echo "standby $token" >&6
        fi
    done
}

# has_said LINE: reads what the program writes until this line; fails if that takes too long. Succeeds if the program has
# ended.
has_said() {
    local line end=$((SECONDS + patience + 1))
    while ((SECONDS < end)); do
        if read -r -t "$patience" -u 5 line; then
            if [[ $line == "$1" ]]; then return; fi
        elif (($? <= 128)); then
            return
        fi
    done
    return 1
}

lead() {
    : "${LEADER_ELECTION_TOKEN:?this is for leader-election to run}"
    # Only this process may hold the pipes, so from here on, it starts no other process.
    exec 5<>"$state/activity" 9<>"$state/promotion"
    trap demote HUP INT QUIT TERM
    echo "$LEADER_ELECTION_TOKEN" >&9
    has_said "active $LEADER_ELECTION_TOKEN" ||
        fail "no program has become active within $patience s; start '$0 serve $state'; giving up, so that another replica leads"
    # From here on, this process does not hold the pipe for writing, so it reads the end of the file if the program dies.
    exec 4<"$state/activity" 5<&4 4<&-
    local line
    while read -r -u 5 line; do :; done
    fail "the program has ended; giving up, so that another replica leads"
}

demote() {
    trap '' HUP INT QUIT TERM
    exec 9>&-
    has_said "standby $LEADER_ELECTION_TOKEN" || fail "the program was not seen to stop within $patience s"
    exit 0
}

state=${2-}
case $#,${1-} in
    2,serve | 2,lead)
        make_pipes
        "$1"
        ;;
    *)
        say "give 'serve' or 'lead', and a folder"
        exit 2
        ;;
esac
