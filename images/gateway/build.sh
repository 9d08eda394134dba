#!/bin/sh
# npm run image: builds the image without a registry, from Debian's packages and npm's. Root, Debian or Ubuntu.
#
#   build.sh [--tag NAME] [--archive FILE] [--label KEY=VALUE]
#
# NAME: localhost/veg-agent; FILE: also written as an OCI archive; KEY=VALUE: one more label
#
# Packages, files and settings are those of the Dockerfile. Two builds of one commit from one snapshot of Debian's archive
# are identical to the byte; DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR name a snapshot, such as
# http://snapshot.debian.org/archive/debian/20261101T000000Z.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
tag=localhost/veg-agent archive='' label=''
while [ $# -gt 0 ]; do
  case $1 in
    --tag) tag=$2 ;;
    --archive) archive=$2 ;;
    --label) label=$2 ;;
    *) echo 'usage: build.sh [--tag NAME] [--archive FILE] [--label KEY=VALUE]' >&2; exit 2 ;;
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

sh images/gateway/tree.sh "$work/tree"
packages=$(sed 's/#.*//' images/gateway/packages | xargs | tr ' ' ,)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
# In a hook, $1 is mmdebstrap's root directory.
mmdebstrap --quiet --variant=essential --skip=cleanup/run --include="$packages" \
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --customize-hook="cp -R '$work/tree/.' \"\$1\"" \
  --customize-hook='sh images/gateway/prepare.sh "$1"' \
  --customize-hook='sh images/gateway/slim.sh "$1"' \
  --customize-hook='node images/gateway/sbom.ts "$1"' \
  bookworm "$work/root.tar" \
  "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main"

container=$(buildah from scratch)
buildah add --quiet "$container" "$work/root.tar" / >/dev/null
buildah config --user 65534:65534 --cmd '["veg-agent","run"]' --port 10669/tcp \
  --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  --label org.opencontainers.image.title=veg-agent \
  --label "org.opencontainers.image.version=$(node -p 'require("./package.json").version')" \
  --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
  --label org.opencontainers.image.licenses=Apache-2.0 ${label:+--label "$label"} "$container"
buildah commit --quiet --timestamp "$SOURCE_DATE_EPOCH" "$container" "$tag"
[ -z "$archive" ] || buildah push --quiet "$tag" "oci-archive:$archive:$tag"
