#!/bin/sh
# npm run image: builds the image without a registry, from Debian's packages and npm's. Root, Debian or Ubuntu.
#
#   build.sh [--tag NAME] [--arch amd64|arm64] [--archive FILE] [--sbom FILE] [--label KEY=VALUE]
#
# NAME: localhost/veg-agent; FILE: also written, as an OCI archive, and the SBOM of what the image holds; KEY=VALUE: one more
# label. Another architecture than this machine's needs what `test/support/setup.sh release` installs.
#
# Packages, files and settings are those of the Dockerfile. Two builds of one commit from one snapshot of Debian's archive
# are identical to the byte; DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR name a snapshot, such as
# http://snapshot.debian.org/archive/debian/20261101T000000Z.
set -eu
cd "$(dirname "$0")/../.."
tag=localhost/veg-agent
# shellcheck source=images/common.sh
. images/common.sh
begin "$@"
if [ "$arch" = "$(dpkg --print-architecture)" ]; then
  sh images/gateway/tree.sh "$work/tree"
else
  case $arch in
    amd64) cpu=x64 STRIP=x86_64-linux-gnu-strip ;;
    arm64) cpu=arm64 STRIP=aarch64-linux-gnu-strip ;;
  esac
  export STRIP
  mkdir "$work/npm"
  cp package.json package-lock.json .npmrc "$work/npm/"
  npm ci --prefix "$work/npm" --cpu="$cpu" --omit=dev --ignore-scripts --loglevel=error >&2
  sh images/gateway/tree.sh "$work/tree" "$cpu" "$work/npm/node_modules"
fi
debian_root bookworm images/gateway/packages \
  --customize-hook="cp -R '$work/tree/.' \"\$1\"" \
  --customize-hook='sh images/gateway/prepare.sh "$1"' \
  --customize-hook='sh images/gateway/slim.sh "$1"' \
  --customize-hook='node images/sbom.ts "$1"'
make_image veg-agent opt/veg-agent/sbom.spdx.json --cmd '["veg-agent","run"]' --port 10669/tcp \
  --label org.opencontainers.image.licenses=Apache-2.0
