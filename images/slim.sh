#!/bin/sh
# Removes what no container needs: slim.sh ROOT. Keeps copyright files, and the package database for scanners.
set -eu
cd "$1"
find usr/share/doc ! -type d ! -name copyright -delete
find usr/share/doc -depth -type d -empty -delete
rm -rf usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bug usr/share/bash-completion \
  usr/share/zoneinfo usr/lib/*/gconv usr/lib/systemd etc/systemd etc/init.d etc/rc?.d etc/cron* \
  var/cache/* var/lib/apt/lists/* var/log/* var/lib/dpkg/*-old etc/machine-id run/adduser
