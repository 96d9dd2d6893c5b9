#!/bin/bash
# Makes this checkout ready to use: Debian packages, and the package in .venv.
#
#   scripts/setup.sh run     for the command and the demonstration
#   scripts/setup.sh test    for the tests and benchmarks as well
#   scripts/setup.sh fast    for the tests that need no packets, and no root
#   scripts/setup.sh lint    for ruff, mypy and shellcheck
#
# A second run changes nothing, needs no network and takes a moment. One that was
# interrupted is made good by the next.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=scripts/report.sh
source scripts/report.sh
# shellcheck source=scripts/debian.sh
source scripts/debian.sh
# shellcheck source=scripts/venv.sh
source scripts/venv.sh

purpose=${1:-run}

# Two at a time would build the same .venv over each other.
exec 9<scripts/setup.sh
flock 9

packages=(gcc libc6-dev libnetfilter-queue-dev)
services=()
extras='[dev]'
case $purpose in
    run)
        packages+=(iptables iproute2 procps ethtool tcpdump libbpf1)
        extras=''
        ;;
    test)
        packages+=(iptables iproute2 procps ethtool tcpdump libbpf1)
        # The kernel data path is built anew, and looked at.
        packages+=(clang llvm libbpf-dev bpftool)
        # The independent clients and servers of the tests.
        services=(nginx redis-server redis-tools iperf3 netcat-openbsd curl conntrack
            iputils-ping nftables openssl haproxy)
        # The package is built, installed in a container, and its service run there.
        packages+=(debhelper kmod systemd systemd-container)
        # It asks what the dashboard and the alerts ask.
        services+=(prometheus)
        # It reads the traces.
        services+=(tshark)
        # What vagrant/ is checked with; no virtual machine is started.
        services+=(vagrant vagrant-libvirt)
        ;;
    fast) packages+=(systemd) ;;
    lint) packages+=(shellcheck) ;;
    *) fail "unknown purpose '$purpose': run, test, fast and lint are known" ;;
esac

# A virtual environment that stands needs no second look at its Python.
python=''
if ! venv_is_ready "$extras"; then
    python=$(choose_python)
    mapfile -t -O "${#packages[@]}" packages < <(packages_of_python "$python")
fi
mapfile -t missing < <(missing_of "${packages[@]}")
mapfile -t missing_services < <(missing_of "${services[@]}")
if ((${#missing[@]} + ${#missing_services[@]} > 0)); then
    prepare_apt "$purpose" "${missing[@]}" "${missing_services[@]}"
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
    ((${#missing_services[@]} == 0)) || apt_install_without_services "${missing_services[@]}"
fi

[[ -z $python ]] || build_venv "$extras" "$python"
