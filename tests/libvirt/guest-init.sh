#!/bin/busybox sh
# /init of the tests' tiny guest: loads virtio, and answers each line on the agent's port with "echo LINE".
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
# In this order: virtio needs symbols of virtio_ring, and the transports need both.
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_balloon virtio_console virtio_mem; do
    insmod /modules/$module.ko || echo "cannot load $module"
done
echo up
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
