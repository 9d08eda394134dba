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
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
usage='usage: build.sh [--tag NAME] [--arch amd64|arm64] [--archive FILE] [--sbom FILE] [--label KEY=VALUE]'
tag=localhost/veg-agent archive='' label='' sbom='' arch=$(dpkg --print-architecture)
while [ $# -gt 0 ]; do
  case $1 in
    --tag) tag=$2 ;;
    --arch) arch=$2 ;;
    --archive) archive=$2 ;;
    --sbom) sbom=$2 ;;
    --label) label=$2 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  shift 2
done
sh test/support/setup.sh build

# All timestamps in the image are the commit's.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
chmod 755 "$work"
container=''
finish() {
  [ -z "$container" ] || buildah rm "$container" >/dev/null
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ "$arch" = "$(dpkg --print-architecture)" ]; then
  sh images/gateway/tree.sh "$work/tree"
else
  case $arch in
    amd64) cpu=x64 STRIP=x86_64-linux-gnu-strip ;;
    arm64) cpu=arm64 STRIP=aarch64-linux-gnu-strip ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  export STRIP
  mkdir "$work/npm"
  cp package.json package-lock.json .npmrc "$work/npm/"
  npm ci --prefix "$work/npm" --cpu="$cpu" --omit=dev --ignore-scripts --loglevel=error >&2
  sh images/gateway/tree.sh "$work/tree" "$cpu" "$work/npm/node_modules"
fi
packages=$(sed 's/#.*//' images/gateway/packages | xargs | tr ' ' ,)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
# In a hook, $1 is mmdebstrap's root directory.
mmdebstrap --quiet --architectures="$arch" --variant=essential --skip=cleanup/run --include="$packages" \
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --customize-hook="cp -R '$work/tree/.' \"\$1\"" \
  --customize-hook='sh images/gateway/prepare.sh "$1"' \
  --customize-hook='sh images/gateway/slim.sh "$1"' \
  --customize-hook='node images/sbom.ts "$1"' \
  bookworm "$work/root.tar" \
  "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main"

[ -z "$sbom" ] || tar -xOf "$work/root.tar" ./opt/veg-agent/sbom.spdx.json >"$sbom"

container=$(buildah from --arch "$arch" scratch)
buildah add --quiet "$container" "$work/root.tar" / >/dev/null
buildah config --arch "$arch" --user 65534:65534 --cmd '["veg-agent","run"]' --port 10669/tcp \
  --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  --label org.opencontainers.image.title=veg-agent \
  --label "org.opencontainers.image.version=$(node -p 'require("./package.json").version')" \
  --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
  --label org.opencontainers.image.licenses=Apache-2.0 ${label:+--label "$label"} "$container"
buildah commit --quiet --timestamp "$SOURCE_DATE_EPOCH" "$container" "$tag"
[ -z "$archive" ] || sh images/archive.sh "$tag" "$archive"
