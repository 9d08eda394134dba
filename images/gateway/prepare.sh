#!/bin/sh
# Prepares a root file system with Debian's packages and our files to run as any user: prepare.sh ROOT. Needs root and
# setcap.
set -eu
root=${1%/}

# Sockets and checkpoints: Kube-OVN mounts a volume at the first path, the manifests of images/kubernetes at the second.
# veg-bfdd alone uses the third.
mkdir -p "$root/run/kube-ovn/bfdd-supervisor" "$root/run/veg-bfdd" "$root/etc/veg-agent/policy"
ln -sfn kube-ovn/bfdd-supervisor "$root/run/veg-agent"
: >"$root/run/xtables.lock" # iptables-legacy can create it only as root
chown -R 65534:65534 "$root/run/kube-ovn" "$root/run/veg-bfdd" "$root/run/xtables.lock"

# File capabilities for users other than root. A container whose bounding set lacks one of them cannot start the program at
# all (EPERM), so each program has no more than it needs. setpriv takes what the bounding set allows (=p).
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

# Optional tools: the tests without an image (test/images/root.ts) run without them. Capabilities replace setuid.
offer() { [ ! -e "$root$2" ] || { chmod u-s "$root$2" && give "$@"; }; }
offer cap_net_admin=ep /usr/sbin/ethtool
offer cap_net_raw=ep /usr/bin/ping
offer cap_net_raw=ep /usr/bin/arping
offer cap_net_raw=ep /usr/bin/ndisc6
offer cap_net_raw=ep /usr/bin/rdisc6
offer cap_net_raw=ep /usr/bin/rltraceroute6
