#!/bin/bash
# Makes a tree of Debian packages a machine: network, user, boot menu. Called by mmdebstrap.
set -euo pipefail
root=$1

printf 'LABEL=zerortt / ext4 defaults,noatime 0 1\n' >"$root/etc/fstab"
printf 'zerortt\n' >"$root/etc/hostname"
printf '127.0.0.1 localhost zerortt\n::1 localhost\n' >"$root/etc/hosts"

# Vagrant's own network. What is provisioned for the other cards comes before it.
cat >"$root/etc/systemd/network/80-dhcp.network" <<'NETWORK'
[Match]
Name=en* eth*

[Network]
DHCP=ipv4
NETWORK
chroot "$root" systemctl --quiet enable systemd-networkd ssh
for service in nginx redis-server haproxy; do
    [[ -z $(chroot "$root" systemctl list-unit-files --no-legend "$service.service") ]] ||
        chroot "$root" systemctl --quiet disable "$service"
done
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer

# The user that Vagrant expects, with the key that it replaces at the first start.
chroot "$root" useradd --create-home --shell /bin/bash vagrant
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/vagrant"
install -d -m 700 "$root/home/vagrant/.ssh"
keys=$(dpkg -L vagrant | grep '/keys/vagrant\.pub$')
install -m 600 "$keys" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant: /home/vagrant/.ssh
printf 'UseDNS no\n' >"$root/etc/ssh/sshd_config.d/vagrant.conf"

# A small initial file system: emulated processors unpack slowly.
printf 'MODULES=list\n' >"$root/etc/initramfs-tools/conf.d/small"
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ahci ata_piix ext4 >>"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u

install -d "$root/boot/grub"
kernel=$(basename "$root"/boot/vmlinuz-*)
cat >"$root/boot/grub/grub.cfg" <<GRUB
linux /boot/$kernel root=LABEL=zerortt ro console=tty0 console=ttyS0 mitigations=off no_timer_check
initrd /boot/${kernel/vmlinuz/initrd.img}
boot
GRUB
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
