#!/bin/sh
# npm run image:frr: builds the image of the FRR container from Debian's frr package, without a registry. Root, Debian or
# Ubuntu.
#
#   build.sh [--suite bookworm|trixie] [--tag NAME] [--arch amd64|arm64] [--archive FILE] [--sbom FILE] [--label KEY=VALUE]
#
# The suite is Debian's: bookworm has FRR 8.4, trixie (the default) 10.3. NAME: localhost/veg-frr. The other options and
# variables are those of images/gateway/build.sh.
set -eu
cd "$(dirname "$0")/../.."
tag=localhost/veg-frr suite=trixie
# shellcheck source=images/common.sh
. images/common.sh
begin "$@"
debian_root "$suite" images/frr/packages \
  --customize-hook='cp -R images/frr/rootfs/. "$1"' \
  --customize-hook='sh images/frr/prepare.sh "$1"' \
  --customize-hook='sh images/frr/slim.sh "$1"' \
  --customize-hook="node images/sbom.ts \"\$1\" veg-frr $version"
make_image veg-frr usr/share/veg-frr/sbom.spdx.json --cmd '["/usr/libexec/veg-frr/start"]'
