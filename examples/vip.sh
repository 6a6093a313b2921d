#!/usr/bin/env bash
# A virtual IP address that follows the leader:
#
#   leader-election --etcd etcd1:2379 -- examples/vip.sh 192.0.2.100/24 eth0
#
# on each machine, as root. It adds the address when this replica begins to lead, and removes it when it is told to stop.
# The next leader adds it only after that. If the address cannot be added or renewed, the script fails, so that another
# replica leads.
#
# No script can remove the address if it gets SIGKILL. So the address has a lifetime, which the script renews each second.
# Once the script is dead, the kernel removes the address by itself, $lifetime seconds after the last renewal. Until then,
# both this machine and the next leader's have the address. The announcements below let the others on the link use the next
# leader's. A machine that is paused keeps the address for as long, and for the rest of the lifetime after it resumes.
#
# `arping` announces the address to the others on the link, each second: they may remember the former leader's, and that
# may still respond. Without arping, they find out by themselves, which can take a minute. IPv6 addresses are not announced.
#
# Give each machine an address of its own in the same network first, or the prefix /32: the kernel removes the others of a
# network together with the first one.

lifetime=3
# Where users other than root do not look.
PATH=$PATH:/usr/sbin:/sbin

say() {
    echo "vip.sh: $*" >&2
}

if [[ $# != 2 || $1 != ?*/?* ]]; then
    say "give an address with its prefix and an interface, such as 192.0.2.100/24 eth0"
    exit 2
fi
address=$1 interface=$2 ip=${1%/*}

# Two programs have this name, with different options. That of busybox has those of iputils. Either waits for a second, and
# is killed by its process ID if this script ends.
announce() {
    case $arping in
        Habets) exec arping -q -U -i "$interface" -S "$ip" -c 1 -w 1 "$ip" ;;
        iputils) exec arping -q -U -I "$interface" -c 1 -w 1 "$ip" ;;
    esac >/dev/null
}

arping=none options=(valid_lft "$lifetime" preferred_lft "$lifetime")
if [[ $ip == *:* ]]; then
    # The kernel would look for another holder first, and find the former leader.
    options+=(nodad)
elif ! command -v arping >/dev/null; then
    say "there is no arping; neighbours may use the former leader's address until they find out by themselves"
elif [[ $(arping --help 2>&1) == *Habets* ]]; then
    arping=Habets
else
    arping=iputils
fi

announcer=
remove() {
    trap '' HUP INT QUIT TERM
    # An announcement must not come after the next leader's.
    if [[ $announcer ]]; then kill "$announcer" 2>/dev/null && wait "$announcer"; fi
    if error=$(ip address delete "$address" dev "$interface" 2>&1); then
        say "$address is removed from $interface"
    elif [[ $(ip -oneline address show dev "$interface" to "$ip" 2>/dev/null) ]]; then
        say "could not remove $address from $interface: $error; the kernel removes it within $lifetime s"
    fi
}

trap remove EXIT
trap 'exit 0' HUP INT QUIT TERM

# Nothing is written to this pipe: to read from it with a time limit is to sleep, and a trap interrupts it at once.
exec {never}<> <(:)

while :; do
    # It also takes over an address that is there already.
    if ! ip address replace "$address" dev "$interface" "${options[@]}"; then
        say "could not add $address to $interface (ip's message is above); giving up, so that another replica leads"
        exit 1
    fi
    if [[ ! $announcer ]]; then
        say "$address is on $interface"
        announce &
    else
        # It would say the same again.
        announce 2>/dev/null &
    fi
    announcer=$!
    read -r -t 1 -u "$never"
done
