#!/bin/sh
# Writes the files of the image that are not from Debian: tree.sh DIRECTORY. Needs the npm packages, Node 24 first in PATH,
# and strip.
set -eu
tree=$1
cd "$(dirname "$0")"
umask 022
mkdir -p "$tree/opt/veg-agent" "$tree/usr/bin"
node bundle.ts "$tree/opt/veg-agent"
cp -R rootfs/. "$tree/"
cp bfdd-control "$tree/usr/bin/"
# Saves 18 MB of debug symbols.
strip --strip-all -o "$tree/usr/bin/node" "$(command -v node)"
chmod -R u=rwX,go=rX "$tree"
