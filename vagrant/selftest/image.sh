#!/bin/bash
# Builds a disk image with Debian from its packages alone; nothing is mounted on this machine.
#
#   vagrant/selftest/image.sh SUITE KIND
#
# SUITE: bookworm or trixie. KIND: box (for Vagrant) or kernels (for the real-packet tests on this
# suite's kernel). Prints the image's path. What was built once from the same recipe is taken as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=vagrant/selftest/cache.sh
source ./cache.sh

suite=$1 kind=$2
size=2500M

# What a Debian machine of Vagrant's has, and what the provisioning would else fetch by apt.
packages=(systemd-sysv libpam-systemd dbus udev openssh-server sudo rsync kmod procps
    linux-image-cloud-amd64 initramfs-tools e2fsprogs iproute2 iputils-ping ca-certificates
    python3 iptables libnetfilter-queue1 libbpf1 ethtool tcpdump curl nginx-light)
if [[ $kind == kernels ]]; then
    packages+=(gcc libc6-dev libnetfilter-queue-dev python3-dev python3-venv nginx redis-server
        redis-tools iperf3 netcat-openbsd conntrack nftables openssl haproxy bpftool)
fi

recipe=$({
    cat image.sh image/settle.sh
    printf '%s\n' "$suite" "$kind"
    [[ $kind == box ]] || cat image/environment.sh ../../constraints.txt
} | sha256sum | cut -c 1-16)
image=$cache/$suite-$kind-$recipe.qcow2
if [[ -e $image ]]; then
    touch "$image"
    printf '%s\n' "$image"
    exit
fi

work=$(mktemp -d "$cache/building.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

hooks=(--customize-hook="$PWD/image/settle.sh \"\$1\"")
if [[ $kind == kernels ]]; then
    hooks+=(--customize-hook="$PWD/image/environment.sh \"\$1\"")
fi
printf '%s: installing Debian %s\n' "$kind" "$suite" >&2
# A mount namespace of its own: what mmdebstrap mounts for the packages' scripts ends with it.
unshare --mount --propagation private nice -n 19 mmdebstrap --quiet --variant=minbase \
    --include="$(IFS=,; printf '%s' "${packages[*]}")" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "${hooks[@]}" "$suite" "$root" >&2

printf '%s: making the image\n' "$kind" >&2
offset=$((2048 * 512))
truncate -s "$size" "$work/disk"
nice -n 19 mke2fs -q -t ext4 -L zerortt -d "$root" -E offset=$offset "$work/disk" \
    $((($(stat -c %s "$work/disk") - offset) / 1024))k
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk --quiet --no-reread --no-tell-kernel "$work/disk"

# GRUB by hand: the boot sector's code, and behind it, before the partition, the rest.
grub=/usr/lib/grub/i386-pc
grub-mkimage --format=i386-pc --directory=$grub --prefix='(hd0,msdos1)/boot/grub' \
    --output="$work/core.img" biosdisk part_msdos ext2 normal configfile linux search
dd if=$grub/boot.img of="$work/disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$work/disk" bs=512 seek=1 conv=notrunc status=none

nice -n 19 qemu-img convert -O qcow2 "$work/disk" "$work/image.qcow2"
# Only the newest is kept; a machine that runs from an older one keeps it open.
find "$cache" -name "$suite-$kind-*.qcow2" -delete
mv "$work/image.qcow2" "$image"
printf '%s\n' "$image"
