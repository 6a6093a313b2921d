#!/usr/bin/env bash
# A program that runs on every machine, of which one is active: the leader's. The others are warm: they have started, and
# wait. On each machine, start the program, and the replica that promotes it:
#
#   examples/warm-standby.sh serve /run/standby
#   leader-election --etcd etcd1:2379 -- examples/warm-standby.sh lead /run/standby
#
# `serve` stands for a program of your own, in any language, and `lead` can stay as it is. They share a folder with two
# named pipes:
#
#   promotion   `lead` writes the fencing token into it, in a line, and keeps it open. The program is active from that line
#               on until the end of the file. However `lead` ends, the kernel closes the pipe, SIGKILL included: so the
#               program is told to stop even if no trap can run.
#   activity    The program writes `active TOKEN` and `standby TOKEN` into it, as it changes, and keeps it open.
#
# When `lead` is told to stop, it ends once the program is in standby: so no two programs are active at a planned hand-over.
# If `lead` or its replica gets SIGKILL, the program stops as soon as it looks at the pipe, and the next one may be active a
# moment earlier. For that moment, and for a machine that is paused, pass the token with what the program does: see
# worker.sh and fence.sql.

set -u

# How long the program may take to follow, in seconds.
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
        # The other side may make it at the same moment.
        error=$(mkfifo "$state/$pipe" 2>&1) || [[ -p $state/$pipe ]] || fail "$error"
    done
}

# What the active program does, again and again, with the token of the term.
act() {
    echo "acts, token $1"
}

serve() {
    # The lock ends with the process.
    exec 7>"$state/lock"
    flock --nonblock 7 || fail "another program uses $state; stop it, or give another folder"
    # To open a pipe for both directions does not block.
    exec 6<>"$state/activity"
    local token
    echo standby
    while :; do
        # Waits until there is somebody to promote it.
        exec 8<"$state/promotion"
        token=
        while :; do
            if read -r -t 0.1 -u 8 line; then
                token=$line
                echo "active, token $token"
                echo "active $token" >&6
            elif (($? <= 128)); then
                # The end of the file; at a timeout, it is more than 128.
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

# has_said LINE: reads what the program writes until it is this line; fails if it takes too long. A program that has ended
# need not say anything.
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
    # Nothing but this process may hold the pipes: it starts no other one from here on.
    exec 5<>"$state/activity" 9<>"$state/promotion"
    trap demote HUP INT QUIT TERM
    echo "$LEADER_ELECTION_TOKEN" >&9
    has_said "active $LEADER_ELECTION_TOKEN" ||
        fail "no program has become active within $patience s; start '$0 serve $state'; giving up, so that another replica leads"
    # From here on, this process only reads, and so finds the end of the file if the program dies.
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
