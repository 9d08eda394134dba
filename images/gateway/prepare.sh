#!/bin/sh
# Makes a root file system with Debian's packages and our files ready to run as any user: prepare.sh ROOT. Needs root
# and setcap.
set -eu
root=${1%/}

# Sockets and checkpoints: Kube-OVN mounts a volume at one name, the manifests of images/kubernetes at the other. veg-bfdd
# alone has its own.
mkdir -p "$root/run/kube-ovn/bfdd-supervisor" "$root/run/veg-bfdd" "$root/etc/veg-agent/policy"
ln -sfn kube-ovn/bfdd-supervisor "$root/run/veg-agent"
: >"$root/run/xtables.lock" # which iptables-legacy makes only as root
chown -R 65534:65534 "$root/run/kube-ovn" "$root/run/veg-bfdd" "$root/run/xtables.lock"

# Capabilities of programs that a user who is not root may run. A container that lacks one of them cannot start the
# program at all (EPERM), so each has no more than it needs; but for setpriv, which takes what it can get (=p).
give() { setcap "$1" "$root$(chroot "$root/" readlink -f "$2")"; }
cp -p "$root/usr/bin/setpriv" "$root/usr/libexec/veg-agent/setpriv"
give cap_net_admin,cap_net_raw,cap_net_bind_service,cap_sys_nice=p /usr/libexec/veg-agent/setpriv
give cap_net_admin=ep /usr/bin/ip
give cap_net_admin=ep /usr/sbin/conntrack
give cap_net_admin,cap_net_raw=ep /usr/sbin/ipset
give cap_net_admin,cap_net_raw=ep /usr/sbin/xtables-nft-multi
give cap_net_admin,cap_net_raw=ep /usr/sbin/xtables-legacy-multi
give cap_net_raw=ep /usr/bin/tcpdump
give cap_net_raw=ep /usr/bin/traceroute
give cap_net_admin=ep /usr/sbin/nft

# Tools that the tests without an image (test/images/root.ts) do without where the machine has them not. None is root's.
offer() { [ ! -e "$root$2" ] || { chmod u-s "$root$2" && give "$@"; }; }
offer cap_net_admin=ep /usr/sbin/ethtool
offer cap_net_raw=ep /usr/bin/ping
offer cap_net_raw=ep /usr/bin/arping
offer cap_net_raw=ep /usr/bin/ndisc6
offer cap_net_raw=ep /usr/bin/rdisc6
offer cap_net_raw=ep /usr/bin/rltraceroute6
