#!/bin/busybox sh
# /init of a machine of kernels.ts: loads what the disks need, mounts them, and goes on with kernels-guest.sh.
# vda is the system, vdb the kernel's modules, vdc npm packages, vdd the project with the job.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
tries=0
until [ -b /dev/vdd ] || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 /dev/vda /root
mkdir -p /root/veg "/root/lib/modules/$(uname -r)"
mount -t ext4 /dev/vdb "/root/lib/modules/$(uname -r)"
mount -t ext4 /dev/vdd /root/veg
mount -t ext4 /dev/vdc /root/veg/node_modules
for directory in proc sys dev; do mount --move /$directory /root/$directory; done
exec switch_root /root /bin/sh /veg/test/support/kernels-guest.sh
