#!/bin/bash
# The four virtual machines for real: builds a box, brings them up, tests them, takes them down.
#
#   make vm
#
# Needs nothing but Debian's packages and takes a quarter of an hour or two: processors are
# emulated, so that it runs where none can be virtualised. Boxes are kept in ZERORTT_VM_CACHE. What
# runs is in namespaces of its own and ends with this script, however it ends.
#
#   ZERORTT_VM_REPORT=FILE    writes the result there, as a document
#   ZERORTT_VM_LIMIT_S=…      after so many seconds it is given up (4500)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=scripts/report.sh
source scripts/report.sh
# shellcheck source=scripts/debian.sh
source scripts/debian.sh
# shellcheck source=vagrant/selftest/cache.sh
source vagrant/selftest/cache.sh

((EUID == 0)) || fail "virtual machines in namespaces need root: run 'sudo make vm'"

mapfile -t missing < <(missing_of vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients \
    qemu-system-x86 qemu-utils dbus-daemon dnsmasq-base iptables mmdebstrap grub-pc-bin e2fsprogs \
    fdisk rsync openssh-client)
if ((${#missing[@]} > 0)); then
    prepare_apt vm "${missing[@]}"
    apt_install_without_services "${missing[@]}"
fi
bash scripts/setup.sh fast
# For the Debian that this is, and so is the box.
bash scripts/build_deb.sh
suite=$(sed -nE 's/^VERSION_CODENAME=//p' /etc/os-release)
image=$(vagrant/selftest/image.sh "$suite" box)

# Disks grow here: not in memory.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/zerortt-vm.XXXXXX")
trap 'rm -rf "$log" "$work"' EXIT

mkdir "$work/box"
printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": 3}\n' >"$work/box/metadata.json"
printf 'Vagrant.configure("2") { |config| }\n' >"$work/box/Vagrantfile"
ln "$image" "$work/box/box.img" 2>/dev/null || cp "$image" "$work/box/box.img"
tar -C "$work/box" -cf "$work/zerortt.box" metadata.json Vagrantfile box.img
rm -r "$work/box"

export HOME=$work/home VAGRANT_HOME=$work/vagrant.d VAGRANT_DOTFILE_PATH=$work/dot
export VAGRANT_CWD=$PWD/vagrant VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1
export ZERORTT_BOX=zerortt/$suite ZERORTT_BOX_URL=file://$work/zerortt.box
export ZERORTT_LIBVIRT_DRIVER=qemu ZERORTT_VM_WORK=$work
mkdir -p "$HOME"

say "bringing up four machines of Debian $suite"
timeout --foreground --signal=KILL "${ZERORTT_VM_LIMIT_S:-4500}" \
    nice unshare --fork --pid --kill-child --mount-proc --mount --net \
    vagrant/selftest/private.sh "$work" \
    .venv/bin/python -m pytest -p no:cacheprovider --capture=no vagrant/selftest "$@" 9<&- ||
    fail "the machines did not do as they should (exit status $?; 137: time was up)"
