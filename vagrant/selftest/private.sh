#!/bin/bash
# Runs a command beside a libvirt of its own, that leaves nothing on this machine.
#
#   unshare --fork --pid --kill-child --mount-proc --mount --net private.sh DIRECTORY COMMAND…
#
# In these namespaces the mounts, networks and processes made here are nobody else's, and end with
# the command. What libvirt writes goes to DIRECTORY.
set -euo pipefail
directory=$1
shift

mount --make-rprivate /
ip link set lo up
# As this network namespace sees it.
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dbus /run/lock

# A /dev without kvm: where it is and runs no guests, libvirt would look for it at every call.
dev=$directory/dev
mkdir -p "$dev"
mount -t tmpfs -o mode=755 tmpfs "$dev"
mkdir "$dev/pts" "$dev/shm" "$dev/net"
for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'net/tun 10 200'; do
    read -r name major minor <<<"$node"
    mknod -m 666 "$dev/$name" c "$major" "$minor"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$dev/pts"
mount -t tmpfs tmpfs "$dev/shm"
ln -s pts/ptmx "$dev/ptmx"
ln -s /proc/self/fd "$dev/fd"
ln -s /proc/self/fd/0 "$dev/stdin"
ln -s /proc/self/fd/1 "$dev/stdout"
ln -s /proc/self/fd/2 "$dev/stderr"
mount --rbind "$dev" /dev

for place in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p "$directory$place"
    cp -a "$place/." "$directory$place"
    mount --bind "$directory$place" "$place"
done
cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
CONF
printf '%s\n' 'auth_unix_rw = "none"' "log_outputs = \"3:file:$directory/libvirtd.log\"" \
    >/etc/libvirt/libvirtd.conf

dbus-daemon --system --nofork --nopidfile >"$directory/dbus.log" 2>&1 &
until [[ -S /run/dbus/system_bus_socket ]]; do sleep 0.2; done
libvirtd >"$directory/libvirtd.out" 2>&1 &
for attempt in {1..60}; do
    ! virsh --quiet --connect qemu:///system version >/dev/null 2>&1 || break
    ((attempt < 60)) || { tail -n 20 "$directory"/libvirtd.{out,log} >&2; exit 1; }
    sleep 1
done

"$@"
