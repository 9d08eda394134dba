#!/bin/sh
# Prepares a root file system with Debian's frr package for a container of user 65534: prepare.sh ROOT. Needs root and setcap.
set -eu
root=${1%/}

# FRR runs as the agent's user, whose group may then use FRR's sockets (the group frrvty).
chroot "$root/" sh -euc '
  old=$(id -u frr)
  groupmod --non-unique --gid 65534 frrvty
  groupmod --non-unique --gid 65534 frr
  usermod --non-unique --uid 65534 frr
  for directory in /etc /run /var; do find "$directory" -xdev -uid "$old" -exec chown -h 65534:65534 {} +; done
  mkdir -p /run/frr
  chown 65534:65534 /run/frr
  # The root file system may be read-only, and nothing of it is kept over a restart.
  rm -rf /var/lib/frr /var/tmp/frr /etc/frr/*
  ln -s /run/frr /var/lib/frr
  ln -s /run/frr /var/tmp/frr'

# A user other than root has the capabilities of its files alone. Each daemon asks for those that it was written for, and ends
# without them; SYS_ADMIN is for VRFs and network namespaces, which a gateway has none of.
for daemon in bfdd bgpd mgmtd zebra; do
  [ ! -e "$root/usr/lib/frr/$daemon" ] ||
    setcap cap_net_admin,cap_net_bind_service,cap_net_raw,cap_sys_admin=p "$root/usr/lib/frr/$daemon"
done
