#!/usr/bin/env bash
# Waits until a TCP port answers, then becomes the given command. It needs nothing but bash and coreutils.
set -u

usage() {
    cat <<'END'
Usage: wait-for-it.sh HOST:PORT [-t SECONDS] [-q] [-s] [-- COMMAND ARGS...]
       wait-for-it.sh -h HOST -p PORT [-t SECONDS] [-q] [-s] [-- COMMAND ARGS...]

Waits until HOST:PORT accepts a TCP connection, then runs COMMAND in its own place, so that signals reach it.
When the time is over, it says so and runs COMMAND anyway, unless -s is given.

  -h, --host HOST        what to wait for, in two options instead of HOST:PORT
  -p, --port PORT
  -t, --timeout SECONDS  how long to wait at most: 15 if not given; 0 means no limit
  -q, --quiet            print nothing about the waiting
  -s, --strict           when the time is over, don't run COMMAND
      --help             show this help, as does -h alone

The value of a long option follows after a space or after '=': --timeout=30.
HOST is a name or an address. In HOST:PORT, write an IPv6 address in brackets: [::1]:2379.
Exit code: COMMAND's own; without one, 0 if the port answered. 1 if the time is over and COMMAND is not run;
2 if the arguments make no sense.

Example: wait-for-it.sh etcd_server:2378 -- leader-election --name server1 --etcd etcd_server:2378
END
}

misused() {
    echo "wait-for-it.sh: $*; see wait-for-it.sh --help" >&2
    exit 2
}

# On standard output like the demo's other lines: on the other one, containers' logs would show them out of order.
say() {
    if ((!quiet)); then echo "wait-for-it.sh: $*"; fi
}

# Sets $now, in milliseconds. Not printed for a $(...): bash 5.2 sometimes misreads one in which a trap runs.
tell_time() {
    now=$((${EPOCHREALTIME//[!0-9]/} / 1000))
}

# With more arguments, -h is for a host. If that one is missing, help with exit code 0 would look like success.
if [[ $# == 1 && $1 == -h ]]; then set -- --help; fi

address='' host='' port='' seconds=15 quiet=0 strict=0
while (($#)); do
    case $1 in
        --host=* | --port=* | --timeout=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
        -h | --host)
            [[ -n ${2-} && $2 != -* ]] || misused "$1 takes a host, not '${2-}'"
            host=$2
            shift
            ;;
        -p | --port)
            [[ ${2-} =~ ^[0-9]{1,5}$ ]] || misused "$1 takes the number of a port, not '${2-}'"
            port=$2
            shift
            ;;
        -t | --timeout)
            [[ ${2-} =~ ^[0-9]{1,9}$ ]] || misused "$1 takes a whole number of seconds, not '${2-}'"
            seconds=$((10#$2))
            shift
            ;;
        -q | --quiet) quiet=1 ;;
        -s | --strict) strict=1 ;;
        --help)
            usage
            exit
            ;;
        --)
            shift
            break
            ;;
        -*) misused "there is no option '$1'" ;;
        *)
            [[ -z $address ]] || misused "one HOST:PORT is enough, but '$1' follows '$address' (COMMAND comes after --)"
            address=$1
            ;;
    esac
    shift
done

if [[ -n $host$port ]]; then
    [[ -z $address ]] || misused "give either '$address' or -h and -p, not both"
    [[ -n $host ]] || misused "-p $port needs a host: -h HOST"
    [[ -n $port ]] || misused "-h $host needs a port: -p PORT"
    if [[ $host == *:* && $host != \[*\] ]]; then host="[$host]"; fi
    address=$host:$port
fi
[[ -n $address ]] || misused "it needs to know what to wait for: HOST:PORT"
# An IPv6 address has two colons at least.
ipv6='[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*'
if [[ $address =~ ^\[($ipv6)\]:([0-9]{1,5})$ || $address =~ ^([^][/:[:space:]]+):([0-9]{1,5})$ ]]; then
    host=${BASH_REMATCH[1]} port=$((10#${BASH_REMATCH[2]}))
else
    misused "'$address' is not HOST:PORT"
fi
((port >= 1 && port <= 65535)) || misused "'$address' has a port that is not between 1 and 65535"

# As process 1 of a container, bash would ignore these signals; and it handles them only while it waits for a job in
# the background.
stop() {
    if [[ -n ${!-} ]]; then
        kill "$!" 2>/dev/null
        wait "$!"
        # A timeout that gets a signal right after its fork ends without its child, which stays in its process group.
        kill -- "-$!" 2>/dev/null
    fi
    exit "$1"
}
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM

if ((seconds)); then say "waiting $seconds seconds for $address"; else say "waiting for $address"; fi

tell_time
start=$now
available=0
while true; do
    # An address that swallows packets, or a name server that does, must not hold up an attempt for minutes.
    limit=3000
    if ((seconds)); then
        tell_time
        left=$((start + seconds * 1000 - now))
        ((left > 0)) || break
        ((left < limit)) && limit=$left
    fi
    printf -v limit '%d.%03d' $((limit / 1000)) $((limit % 1000))
    # shellcheck disable=SC2016 # The inner bash expands these.
    timeout "$limit" \
        bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$port" 2>/dev/null &
    if wait "$!"; then
        available=1
        break
    fi
    sleep 0.2 &
    wait "$!"
done

tell_time
if ((available)); then
    say "$address is available after $(((now - start) / 1000)) seconds"
elif ((strict)); then
    say "$address is still not available after $seconds seconds${1:+; not running $1}"
    exit 1
else
    say "$address is still not available after $seconds seconds${1:+; running $1 anyway}"
    (($#)) || exit 1
fi

if (($#)); then exec "$@"; fi
