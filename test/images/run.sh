#!/bin/sh
# npm run test:image: the tests of the image in containers. Root, Debian or Ubuntu; a few minutes.
#   VEG_IMAGE   an image in podman's storage to test instead of building one (npm run image)
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
sh test/support/setup.sh containers
if [ -z "${VEG_IMAGE:-}" ]; then
  VEG_IMAGE=localhost/veg-agent
  export VEG_IMAGE
  sh images/gateway/build.sh --tag "$VEG_IMAGE"
fi
exec tap run --type-strip-only --disable-coverage --jobs=1 --timeout=600 test/images/*.test.ts "$@"
