#!/bin/bash
# The client: an ordinary machine with curl and a command that compares.
#
#   client.sh SERVER-IPV4 SERVER-IPV6
set -euo pipefail
# shellcheck source=vagrant/guest/lib.sh
source /vagrant/guest/lib.sh

need python3 curl
install -m 755 /vagrant/guest/zerortt_demo.py /usr/local/bin/zerortt-demo
put /etc/zerortt-demo.conf <<<"$1 $2" || true
say "try: vagrant ssh client -c zerortt-demo"
