#!/bin/sh
# Lays out the files of the image that are not Debian's: tree.sh DIRECTORY. Needs npm's packages, Node 24 first in
# PATH, and strip.
set -eu
tree=$1
cd "$(dirname "$0")"
umask 022
mkdir -p "$tree/opt/veg-agent" "$tree/usr/bin"
node bundle.ts "$tree/opt/veg-agent"
cp -R rootfs/. "$tree/"
cp bfdd-control "$tree/usr/bin/"
# 18 MB of symbols that only a debugger reads.
strip --strip-all -o "$tree/usr/bin/node" "$(command -v node)"
chmod -R u=rwX,go=rX "$tree"
