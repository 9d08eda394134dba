#!/bin/sh
# The first process of a machine of kernels.ts once its disks are mounted: prepares the system and runs the tests that
# /veg/job names. The first line of output is "started RELEASE", the last one "exit CODE".
export PATH=/veg/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
cd /veg || exit
# shellcheck disable=SC1091 # written by kernels.ts
. /veg/job
for module in $VEG_KERNEL_LACKS; do echo "install $module /bin/false"; done >/etc/modprobe.d/veg.conf
[ -z "$BACKEND" ] || for program in iptables ip6tables; do update-alternatives --set $program /usr/sbin/$program-"$BACKEND"; done
if [ -b /dev/vde ]; then # the image whose agent is tested
  mkdir /image
  mount -t ext4 /dev/vde /image
  for directory in proc sys dev run tmp; do mount --rbind /$directory /image/$directory; done
  export VEG_IMAGE_ROOT=/image
fi
modprobe virtio_console
ip link set lo up
{
  echo "started $(uname -r)"
  # shellcheck disable=SC2086 # words
  node --disable-warning=ExperimentalWarning test/support/run.ts $TESTS
  echo "exit $?"
} </dev/null >"$(ls /dev/vport*p1)" 2>&1
sync
echo o >/proc/sysrq-trigger
sleep 60
