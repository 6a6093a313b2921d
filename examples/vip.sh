#!/usr/bin/env bash
# A virtual IP address that follows the leader:
#
#   leader-election --etcd etcd1:2379 -- examples/vip.sh 192.0.2.100/24 eth0
#
# Run this on each machine, as root. The script adds the address when this replica begins to lead, and removes it when it
# is asked to stop. The next leader adds it only after that. If the script cannot add or renew the address, it fails, so that
# another replica leads.
#
# After SIGKILL, no script can remove the address. So the address has a lifetime, which the script renews each second.
# Once the script is dead, the kernel removes the address, $lifetime seconds after the last renewal. Until then, both this
# machine and the next leader's may have the address; the announcements (see below) make the others on the link use the
# next leader's machine. A paused machine keeps the address during the pause, and for the rest of the lifetime after it
# resumes.
#
# `arping` announces the address to the others on the link each second, because they may still use the former leader's
# hardware address. Without arping, it can take a minute until they notice. IPv6 addresses are not announced.
#
# Before you start, give each machine its own permanent address in the same network, or use the prefix /32: when the
# kernel removes the first address of a network, it also removes the machine's other addresses in that network.

lifetime=3
# These folders may be missing in the PATH of users other than root.
PATH=$PATH:/usr/sbin:/sbin

say() {
    echo "vip.sh: $*" >&2
}

if [[ $# != 2 || $1 != ?*/?* ]]; then
    say "give an address with its prefix and an interface, such as 192.0.2.100/24 eth0"
    exit 2
fi
address=$1 interface=$2 ip=${1%/*}

# Two programs are called arping, with different options; busybox has the options of iputils. Both run for a second.
# `exec` gives them the process ID that `remove` kills.
announce() {
    case $arping in
        Habets) exec arping -q -U -i "$interface" -S "$ip" -c 1 -w 1 "$ip" ;;
        iputils) exec arping -q -U -I "$interface" -c 1 -w 1 "$ip" ;;
    esac >/dev/null
}

arping=none options=(valid_lft "$lifetime" preferred_lft "$lifetime")
if [[ $ip == *:* ]]; then
    # Without this, the kernel checks for another holder first, and may find the former leader.
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
    # No announcement may follow that of the next leader.
    if [[ $announcer && $(jobs -pr) == *"$announcer"* ]]; then kill "$announcer" 2>/dev/null && wait "$announcer"; fi
    if error=$(ip address delete "$address" dev "$interface" 2>&1); then
        say "$address is removed from $interface"
    elif [[ $(ip -oneline address show dev "$interface" to "$ip" 2>/dev/null) ]]; then
        say "could not remove $address from $interface: $error; the kernel removes it within $lifetime s"
    fi
}

trap remove EXIT
trap 'exit 0' HUP INT QUIT TERM

# Nothing is ever written to this pipe. A read with a timeout serves as a sleep that a trap interrupts at once.
exec {never}<> <(:)

while :; do
    # `replace` also renews an address that exists already.
    if ! ip address replace "$address" dev "$interface" "${options[@]}"; then
        say "could not add $address to $interface (ip's message is above); giving up, so that another replica leads"
        exit 1
    fi
    if [[ ! $announcer ]]; then
        say "$address is on $interface"
        announce &
    else
        # An error message would repeat the first one.
        announce 2>/dev/null &
    fi
    announcer=$!
    # In parts: a signal that arrives right before a read is noticed only after it.
    for ((part = 0; part < 10; part++)); do
        read -r -t 0.1 -u "$never"
    done
done
