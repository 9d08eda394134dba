#!/bin/sh
# Removes what the image does not need: slim.sh ROOT. Packages go before the SBOM is written.
set -eu
root=$1
purge() { chroot "$root" dpkg --force-all --purge "$@" >/dev/null 2>&1; }

# 50 MB that ndisc6 depends on for a script that is not used.
purge perl perl-modules-5.36 libperl5.36 libgdbm6 libgdbm-compat4
rm "$root/usr/bin/dnssort"

# Accounts are fixed and nobody logs in. Then what asks questions at an installation, and its Perl.
purge adduser login passwd libpam-modules libpam-modules-bin libpam-runtime libpam0g libdb5.3 \
  libsemanage2 libsemanage-common libsepol2
purge debconf perl-base
# They need the libraries that have gone.
rm "$root/usr/bin/su" "$root/usr/sbin/runuser" "$root/usr/sbin/arpd"
sh "$(dirname "$0")/../slim.sh" "$root"
