#!/bin/sh
# Runs an HAProxy that sends all requests to the leader. While nobody leads, it responds with 503:
#
#   leader-election observe -- examples/haproxy.sh /run/leader/haproxy.cfg :8080
#
# The arguments are the file to write and the address on which HAProxy listens. Each replica gives its own address as
# --advertise, such as 10.0.0.1:8080 or http://10.0.0.1:8080.
#
# At each change, a new HAProxy takes over from the old one, which gets 5 s to finish its requests. A reload signal is
# not enough: HAProxy ignores a signal that comes during a reload, and the state "nobody leads" often lasts only
# milliseconds.
set -eu

: "${2:?usage: haproxy.sh FILE ADDRESS}" "${LEADER_ELECTION_STATE:?this is for leader-election to run}"
file=$1
front=$2
# HAProxy is on root's PATH only.
PATH=$PATH:/usr/sbin:/sbin

# publish [SERVER]: makes HAProxy send requests to this server. Without a server, HAProxy responds with 503.
publish() {
    {
        cat <<END
# Written by haproxy.sh.
global
    hard-stop-after 5s
listen leader
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    bind $front
END
        if [ $# -gt 0 ]; then echo "    server leader $1"; fi
    } >"$file.new" || return
    # If the file is invalid, haproxy prints the reason on standard error.
    haproxy -c -f "$file.new" >/dev/null || return
    mv "$file.new" "$file" || return
    before=$(cat "$file.pid" 2>/dev/null) || before=''
    # After a reboot, another program's process may have this ID.
    if [ "$(cat "/proc/${before:-none}/comm" 2>/dev/null)" != haproxy ]; then before=''; fi
    haproxy -D -f "$file" -p "$file.pid" ${before:+-sf "$before"}
}

address=${LEADER_ELECTION_ADDRESS#http://}
address=${address%/}
case $address in
    '')
        if [ "$LEADER_ELECTION_STATE" = led ]; then
            echo "haproxy.sh: the leader gives no address: start each replica with --advertise; sending to nobody" >&2
        fi
        publish
        ;;
    # Anyone who may write the election's keys can choose this text; it must not add a line to the file.
    *[!A-Za-z0-9.:_[\]-]* | *[!0-9])
        echo "haproxy.sh: the leader's address is not of the form HOST:PORT; sending to nobody" >&2
        publish
        ;;
    *:*)
        # If the name cannot be resolved now, the failure makes leader-election run this script again later.
        publish "$address" || {
            publish
            exit 1
        }
        ;;
    *)
        echo "haproxy.sh: the leader's address has no port; sending to nobody" >&2
        publish
        ;;
esac
