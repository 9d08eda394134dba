#!/bin/sh
# Writes the files of the image that are not from Debian: tree.sh DIRECTORY [ARCHITECTURE NODE_MODULES]. Needs the npm packages,
# Node 24 first in PATH, and strip. ARCHITECTURE is as in bundle.ts, and NODE_MODULES an absolute path; STRIP strips its programs.
set -eu
tree=$1
node=${2:+$3/node-linux-$2/bin/node}
cd "$(dirname "$0")"
umask 022
mkdir -p "$tree/opt/veg-agent" "$tree/usr/bin"
node bundle.ts "$tree/opt/veg-agent" ${2:+"$2" "$3"}
cp -R rootfs/. "$tree/"
cp bfdd-control "$tree/usr/bin/"
# Saves 18 MB of debug symbols.
"${STRIP:-strip}" --strip-all -o "$tree/usr/bin/node" "${node:-$(command -v node)}"
# Another 11 MB to pull: locales and encodings that nothing here uses.
node english-node.ts "$tree/usr/bin/node"
chmod -R u=rwX,go=rX "$tree"
