#!/bin/bash
# Installs the package on clientnic, names the interfaces in its configuration, starts the service.
#
#   FAST_OPEN_WAIT_MS=10 service.sh MAC-TOWARDS-THE-CLIENT MAC-TOWARDS-THE-SERVER
set -euo pipefail
# shellcheck source=vagrant/guest/lib.sh
source /vagrant/guest/lib.sh

checkout=/home/vagrant/nfq_zerortt
client_iface=$(interface_with "$1")
server_iface=$(interface_with "$2")

# What was built on the host may be for another Debian: apt knows.
fits() { [[ -e $1 ]] && apt-get -qq install --simulate "$1" >/dev/null 2>&1; }

package=$(find "$checkout/dist" -name "nfq-zerortt_*_$(dpkg --print-architecture).deb" 2>/dev/null |
    sort --version-sort | tail -n 1)
if ! fits "$package"; then
    apt-get -qq update >/dev/null || true
fi
if ! fits "$package"; then
    say 'no package in dist fits this machine: building one'
    need make
    make -C "$checkout" deb
    package=$(find "$checkout/dist" -name '*.deb' -newer "$checkout/setup.cfg" | sort --version-sort | tail -n 1)
    fits "$package" || fail "apt does not take $package: see 'apt-get install --simulate $package'"
fi

# apt reads it as another user, who may not look into the checkout.
copy=$(mktemp -d)
chmod 755 "$copy"
trap 'rm -rf "$copy"' EXIT
install -m 644 "$package" "$copy/"
say "installing $(basename "$package")"
DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --reinstall --no-install-recommends \
    -o DPkg::Options::=--force-confold "$copy/$(basename "$package")" >/dev/null

# Four ports of the server, the same programs behind them; see docs/howto/vagrant.md.
put /etc/nfq-zerortt/config.toml <<END || true
# Written by vagrant/guest/service.sh. Every key: /usr/share/doc/nfq-zerortt, docs/reference.
client_iface = "$client_iface"
server_iface = "$server_iface"
strategy = "auto"
state_file = "/var/lib/nfq-zerortt/learned.state"

# All but 8080 and 9000: connections to these never come to the service, to compare with.
ports = "1-8079,8081-8999,9001-65535"

[[destination]]
ports = "9001"
strategy = "hold"

[[destination]]
ports = "9002"
strategy = "fastopen"

[limits]
fast_open_wait_ms = $FAST_OPEN_WAIT_MS
END

systemctl --quiet enable nfq-zerortt
systemctl restart nfq-zerortt ||
    { journalctl -u nfq-zerortt -n 20 -o cat; fail 'the service does not start: its last words stand above'; }
say "nfq-zerortt is $(systemctl is-active nfq-zerortt), between $client_iface and $server_iface"
