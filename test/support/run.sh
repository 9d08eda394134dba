#!/bin/sh
# Runs the tests: run.sh all|unit|live|image. Installs what they need first (setup.sh); the rest is run.ts.
#   VEG_IMAGE   an image in podman's storage to test instead of building one (npm run image)
set -u
cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
case ${1:-} in
  all | unit | live | image) ;;
  *) echo 'usage: run.sh all|unit|live|image' >&2; exit 2 ;;
esac
sh test/support/setup.sh "$1" || { echo '0 passed, 1 failed'; exit 1; }
exec node --disable-warning=ExperimentalWarning test/support/run.ts "$1"
