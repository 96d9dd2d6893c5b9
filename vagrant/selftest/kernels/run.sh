#!/bin/bash
# Runs in the virtual machine, from the unpacked checkout: says what kernel this is and what it
# allows, then runs the tests that a kernel can make fail. One line for each test.
set -uo pipefail

fact() { printf 'fact %s: %s\n' "$1" "${*:2}"; }

python=/opt/venv/bin/python
export PYTHONPATH=$PWD
fact Debian "$(sed -nE 's/^PRETTY_NAME="(.*)"$/\1/p' /etc/os-release)"
fact kernel "$(uname -rv)"
fact Python "$("$python" --version)"
fact NetfilterQueue "$("$python" -m pip show NetfilterQueue | sed -n 's/^Version: //p'), built by this Python"
fact iptables "$(iptables --version) and $(iptables-legacy --version)"
fact libbpf "$(dpkg-query -W -f '${Version}' libbpf1)"
fact netem "$(modprobe sch_netem && echo there || echo missing)"

printf 'check\n'
"$python" -m nfq_zerortt check 2>&1 | sed 's/^/    /'

# The tests mount a bpf file system of their own where they want one, and else there is none.
umount /sys/fs/bpf

# A slow machine: fewer of what is drawn by chance, enough for every kind of packet.
export ZERORTT_DIFFERENTIAL_SEQUENCES=100 ZERORTT_TRANSFERS=8 ZERORTT_CROWD=20
export PYTHONUNBUFFERED=1

# Verifier and helpers; queue and rules; netem; handshakes, hand-over and survival. What says most
# of a kernel comes first.
files=(bpf_layout bpf_on_an_interface rules_kernel_path kernel_path kernel_path_maps
    kernel_path_failures kernel_path_adoption bpf_differential kernel_survival service_connections
    testbed testbed_wan testbed_faults rules_ipv6 rules_mark rules_fragments rules_packets raw_sender
    service_lifecycle rules_watch rules_icmp rules_reload bpf_hand_over service_fast_open check_kernel_path
    check_host rules rules_writers rules_command testbed_command testbed_killed)
read -ra chosen <files
((${#chosen[@]} == 0)) || files=("${chosen[@]}")
failed=0
for file in "${files[@]}"; do
    begun=$SECONDS
    printf 'file %s\n' "$file"
    # pytest's "tests/…::test_x PASSED [ 3%]" becomes "PASSED tests/…::test_x", as it comes.
    timeout --kill-after=10 900 "$python" -m pytest -v --tb=short -p no:cacheprovider \
        "tests/kernel/test_$file.py" 2>&1 | tee /tmp/said |
        sed -unE 's/^(tests.*) (PASSED|FAILED|ERROR|SKIPPED)( \(.*\))? +\[ *[0-9]+%\]$/\2 \1\3/p'
    code=${PIPESTATUS[0]}
    ((code == 0)) || {
        failed=1
        sed -n '/^=* FAILURES =/,$p; /^=* ERRORS =/,$p' /tmp/said | head -n 150 | sed 's/^/    /'
        ((code != 124)) || printf 'FAILED tests/kernel/test_%s.py - not ready after 900 s\n' "$file"
    }
    printf 'took %s %d\n' "$file" $((SECONDS - begun))
done
exit $failed
