#!/bin/sh
# Runs an HAProxy that sends all requests to the leader, and to nobody while nobody leads:
#
#   leader-election observe -- examples/haproxy.sh /run/leader/haproxy.cfg :8080
#
# The arguments: the file to write, and where HAProxy listens. The replicas give their own addresses as --advertise, such
# as 10.0.0.1:8080 or http://10.0.0.1:8080.
#
# At each change, a new HAProxy takes over from the one before, which gets 5 s to finish its requests. A signal to reload
# would not do: HAProxy forgets one that comes during another reload, and a leader often follows within milliseconds after
# nobody led.
set -eu

: "${2:?usage: haproxy.sh FILE ADDRESS}" "${LEADER_ELECTION_STATE:?this is for leader-election to run}"
file=$1
front=$2
# HAProxy is on root's PATH only.
PATH=$PATH:/usr/sbin:/sbin

# publish [SERVER]: has HAProxy send requests to this server, or to none. Without a server it answers 503.
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
    # It says on standard error what is wrong.
    haproxy -c -f "$file.new" >/dev/null || return
    mv "$file.new" "$file" || return
    before=$(cat "$file.pid" 2>/dev/null) || before=''
    # After a restart of the machine, another program's process may have that id.
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
    # Anyone who may write the election's keys chooses this text, and it must not become another line of the file.
    *[!A-Za-z0-9.:_[\]-]* | *[!0-9])
        echo "haproxy.sh: the leader's address is not of the form HOST:PORT; sending to nobody" >&2
        publish
        ;;
    *:*)
        # A name that cannot be resolved now may be later, when this is run again.
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
