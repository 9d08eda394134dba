#!/bin/sh
# npm run image:frr: builds the image of the FRR container from Debian's frr package, without a registry. Root, Debian or
# Ubuntu.
#
#   build.sh [--suite bookworm|trixie] [--tag NAME] [--arch amd64|arm64] [--archive FILE] [--sbom FILE] [--label KEY=VALUE]
#
# The suite is Debian's: bookworm has FRR 8.4, trixie (the default) 10.3. NAME: localhost/veg-frr; FILE: also written, as an OCI
# archive, and the SBOM of what the image holds; KEY=VALUE: one more label. --arch, DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR as for images/gateway/build.sh.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
usage='usage: build.sh [--suite bookworm|trixie] [--tag NAME] [--arch amd64|arm64] [--archive FILE] [--sbom FILE] [--label KEY=VALUE]'
tag=localhost/veg-frr archive='' label='' sbom='' suite=trixie arch=$(dpkg --print-architecture)
while [ $# -gt 0 ]; do
  case $1 in
    --suite) suite=$2 ;;
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

version=$(node -p 'require("./package.json").version')
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

packages=$(sed 's/#.*//' images/frr/packages | xargs | tr ' ' ,)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
# In a hook, $1 is mmdebstrap's root directory.
mmdebstrap --quiet --architectures="$arch" --variant=essential --skip=cleanup/run --include="$packages" \
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --customize-hook='cp -R images/frr/rootfs/. "$1"' \
  --customize-hook='sh images/frr/prepare.sh "$1"' \
  --customize-hook='sh images/frr/slim.sh "$1"' \
  --customize-hook="node images/sbom.ts \"\$1\" veg-frr $version" \
  "$suite" "$work/root.tar" \
  "deb $mirror $suite main" "deb $mirror $suite-updates main" "deb $security $suite-security main"

[ -z "$sbom" ] || tar -xOf "$work/root.tar" ./usr/share/veg-frr/sbom.spdx.json >"$sbom"

container=$(buildah from --arch "$arch" scratch)
buildah add --quiet "$container" "$work/root.tar" / >/dev/null
buildah config --arch "$arch" --user 65534:65534 --cmd '["/usr/libexec/veg-frr/start"]' \
  --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  --label org.opencontainers.image.title=veg-frr \
  --label "org.opencontainers.image.version=$version" \
  --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" ${label:+--label "$label"} "$container"
buildah commit --quiet --timestamp "$SOURCE_DATE_EPOCH" "$container" "$tag"
[ -z "$archive" ] || sh images/archive.sh "$tag" "$archive"
