#!/bin/bash
# A host's links, routes, forwarding, and the WAN's delay; all of it comes again after a reboot.
#
#   FORWARDS=true|false RTT_MS=100 network.sh 'NAME MAC IPV4 IPV6 [TO=VIA…]' …
#
# One argument for each link. RTT_MS empty: no delay on this host.
set -euo pipefail
# shellcheck source=vagrant/guest/lib.sh
source /vagrant/guest/lib.sh

need iproute2 procps

# A machine forwards all it is asked to, and answers by the way its routes say.
put /etc/sysctl.d/60-zerortt.conf <<END || true
net.ipv4.ip_forward = $([[ $FORWARDS == true ]] && echo 1 || echo 0)
net.ipv6.conf.all.forwarding = $([[ $FORWARDS == true ]] && echo 1 || echo 0)
END
sysctl --quiet --load=/etc/sysctl.d/60-zerortt.conf

names=()
changed=()
for link in "$@"; do
    read -r name mac ipv4 ipv6 routes <<<"$link"
    interface=$(interface_with "$mac")
    names+=("$interface")
    if {
        printf '%s\n' "# Written by vagrant/guest/network.sh: the link $name of the testbed." \
            '[Match]' "MACAddress=$mac" '' \
            '[Network]' DHCP=no IPv6AcceptRA=no IPv6DuplicateAddressDetection=0 \
            "Address=$ipv4" "Address=$ipv6"
        for route in $routes; do
            printf '%s\n' '' '[Route]' "Destination=${route%=*}" "Gateway=${route#*=}"
        done
    } | put "/etc/systemd/network/10-zerortt-$name.network"; then
        changed+=("$interface")
    fi
done

systemctl --quiet enable --now systemd-networkd
networkctl reload
((${#changed[@]} == 0)) || networkctl reconfigure "${changed[@]}"
for interface in "${names[@]}"; do
    /lib/systemd/systemd-networkd-wait-online --quiet --timeout=60 --interface="$interface" ||
        fail "$interface gets no address: look at 'networkctl status $interface'"
    say "$interface $(ip -brief address show dev "$interface" | awk '{ $1 = ""; print }')"
done

[[ -n $RTT_MS ]] || exit 0

# The WAN: half of the round trip on the way out of either side, where what leaves waits.
[[ $RTT_MS =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
    fail "ZERORTT_RTT_MS=$RTT_MS: must be the round trip in milliseconds, as in 100"
one_way_us=$(awk -v rtt="$RTT_MS" 'BEGIN { printf "%d", rtt * 500 }')
{
    printf '%s\n' '# Written by vagrant/guest/network.sh.' '[Unit]' \
        "Description=The WAN's delay: a round trip of $RTT_MS ms"
    for interface in "${names[@]}"; do
        printf 'Requires=%s\nAfter=%s\n' "sys-subsystem-net-devices-$interface.device"{,}
    done
    printf '%s\n' '' '[Service]' Type=oneshot RemainAfterExit=yes
    # The limit: room for a second of a fast link.
    for interface in "${names[@]}"; do
        printf 'ExecStart=/sbin/tc qdisc replace dev %s root netem limit 100000 delay %sus\n' \
            "$interface" "$one_way_us"
    done
    printf '%s\n' '' '[Install]' WantedBy=multi-user.target
} | put /etc/systemd/system/zerortt-wan.service || true
systemctl daemon-reload
systemctl --quiet enable zerortt-wan
systemctl restart zerortt-wan || {
    journalctl -u zerortt-wan -n 10 -o cat
    fail 'the kernel does not delay: is there a module sch_netem?'
}
tc qdisc show | grep netem
