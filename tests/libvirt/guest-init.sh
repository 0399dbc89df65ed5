#!/bin/busybox sh
# /init of the tests' tiny guest: loads virtio. With a disk (Debian's) it runs the agent and the demo's workload from it;
# without one it answers each line on the agent's port with "echo LINE".
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
# In this order: virtio needs symbols of virtio_ring, and the transports need both.
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_balloon virtio_console \
    virtio_blk virtio_mem; do
    insmod /modules/$module.ko || echo "cannot load $module"
done
# The device node of the port with this name; nothing while there is none.
port() {
    name=$(grep -l "$1" /sys/class/virtio-ports/*/name 2>/dev/null)
    [ -n "$name" ] && echo "/dev/$(basename "$(dirname "$name")")"
}
debian() {
    mkdir -p /debian
    mount -t ext4 -o ro,noload /dev/vda /debian || return
    for folder in proc sys dev; do mount --bind /$folder /debian/$folder; done
    mount -t tmpfs -o size=1m t /debian/tmp
    while workload=$(port org.ballonet.demo.0); [ -z "$workload" ]; do sleep 0.2; done
    chroot /debian /usr/bin/python3 -E /usr/lib/ballonet-demo/workload.py "$workload" &
    # As its unit does: whatever ends it, it comes back.
    while :; do
        chroot /debian /usr/bin/python3 -m ballonet_guest_agent
        sleep 0.5
    done
}
echo up
[ -b /dev/vda ] && debian
while :; do
    # The port may be plugged in later. A port can be opened once, so one descriptor serves both directions.
    name=$(grep -l org.ballonet.agent.0 /sys/class/virtio-ports/*/name 2>/dev/null)
    [ -n "$name" ] || { sleep 0.2; continue; }
    exec 3<>"/dev/$(basename "$(dirname "$name")")" || { sleep 0.2; continue; }
    # read ends at once while nobody on the host is connected.
    while [ -e "$name" ]; do
        while read -r line <&3; do
            case "$line" in
                reboot) reboot -f ;;
                *) echo "echo $line" >&3 ;;
            esac
        done
        sleep 0.1
    done
    exec 3>&-
done
