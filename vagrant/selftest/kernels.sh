#!/bin/bash
# The tests with real packets on the kernels of Debian 12 and 13, each in a virtual machine.
#
#   make kernels                                those tests that a kernel can make fail
#   make kernels ARGS='kernel_path testbed'     these: test_kernel_path.py and test_testbed.py
#
# The machines are emulated, and slow (kernels/run.sh has the list of tests). Images are kept in
# ZERORTT_VM_CACHE; nothing else is left.
#
#   ZERORTT_KERNELS='trixie'     only this one
#   ZERORTT_VM_REPORT=FILE       writes the result there, as a document
#   ZERORTT_VM_LIMIT_S=…         for each machine (3000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=scripts/report.sh
source scripts/report.sh
# shellcheck source=scripts/debian.sh
source scripts/debian.sh
# shellcheck source=vagrant/selftest/cache.sh
source vagrant/selftest/cache.sh

((EUID == 0)) || fail "building images needs root: run 'sudo make kernels'"

mapfile -t missing < <(missing_of qemu-system-x86 qemu-utils mmdebstrap grub-pc-bin e2fsprogs fdisk \
    vagrant)
if ((${#missing[@]} > 0)); then
    prepare_apt kernels "${missing[@]}"
    apt_install_without_services "${missing[@]}"
fi
bash scripts/setup.sh fast

work=$(mktemp -d "${TMPDIR:-/var/tmp}/zerortt-kernels.XXXXXX")
trap 'rm -rf "$log" "$work"' EXIT

# What the machine reads from its second disk: the checkout, and what is to be done.
printf '%s\n' "$*" >"$work/files"
tar -cf "$work/job.tar" --exclude=__pycache__ --exclude='.*_cache' \
    nfq_zerortt iptables_rules tests bench scripts systemd setup.cfg pyproject.toml constraints.txt \
    Makefile README.md vagrant --transform='s,^vagrant/selftest/kernels/run.sh$,run,' \
    -C "$work" files
truncate -s '%1M' "$work/job.tar"

status=0
for suite in ${ZERORTT_KERNELS:-bookworm trixie}; do
    image=$(vagrant/selftest/image.sh "$suite" kernels)
    say "starting a machine with the kernel of Debian $suite"
    touch "$work/$suite.said"
    tail --follow --lines=+1 --sleep-interval=2 "$work/$suite.said" \
        > >(grep --line-buffered -v '^PASSED ') &
    following=$!
    # -cpu max: the programs that are compiled for these packages may want more than a qemu64 has.
    timeout --foreground --signal=KILL "${ZERORTT_VM_LIMIT_S:-3000}" \
        nice qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -display none \
        -no-reboot -nic none -snapshot \
        -drive "file=$image,format=qcow2,if=virtio,cache=unsafe" \
        -drive "file=$work/job.tar,format=raw,if=virtio" \
        -serial "file:$work/$suite.console" -serial "file:$work/$suite.said" 9<&- ||
        say "the machine did not end by itself (exit status $?; 137: time was up)"
    sleep 3
    kill "$following"
    wait "$following" || true
    if ! grep --quiet '^exit status 0' "$work/$suite.said"; then
        status=1
        [[ -s $work/$suite.said ]] || tail -n 20 "$work/$suite.console" >&2
    fi
done
.venv/bin/python -m vagrant.selftest.kernels.report "$work"/*.said
((status == 0)) || fail 'not all is as it should be'
