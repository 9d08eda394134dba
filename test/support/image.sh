#!/bin/sh
# The images that the tests run: image.sh builds the gateway's unless this checkout has built it from the same inputs before, and
# image.sh --frr SUITE that of FRR's container from a suite of Debian. With --name it prints the image's name, with --inputs the
# hash of its inputs. One image of each a checkout: a new one replaces the old one.
set -eu
cd "$(dirname "$0")/../.."
label=io.veg-agent.test-inputs
checkout=$(pwd -P | sha256sum | cut -c 1-12)
name=localhost/veg-agent-test:$checkout suite=''
if [ "${1:-}" = --frr ] && [ $# -gt 1 ]; then
  suite=$2 name=localhost/veg-frr-test:$2-$checkout
  shift 2
fi

# Whatever the image's build.sh reads: its own files, the sources of the bundle, the npm packages, the archive.
inputs() {
  if [ -n "$suite" ]; then set -- images/frr package.json; else
    set -- LICENSE package.json package-lock.json tsconfig.json tsconfig.build.json agent bfd images/gateway \
      lib nat routing shaping
  fi
  {
    printf '%s\n' "${DEBIAN_MIRROR:-}" "${DEBIAN_SECURITY_MIRROR:-}" "$suite" "$(uname -m)"
    find "$@" images/common.sh images/slim.sh images/sbom.ts -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d ' ' -f 1
}

case ${1:-} in
  --name) printf '%s\n' "$name"; exit ;;
  --inputs) inputs; exit ;;
  '') ;;
  *) echo 'usage: image.sh [--frr SUITE] [--name|--inputs]' >&2; exit 2 ;;
esac

wanted=$(inputs)
id() { podman image inspect --format '{{.Id}}' "$name" 2>/dev/null || true; }
if [ "$(podman image inspect --format "{{index .Labels \"$label\"}}" "$name" 2>/dev/null || true)" = "$wanted" ]; then
  echo "unchanged: $name"
  exit
fi
old=$(id)
if [ -n "$suite" ]; then
  sh images/frr/build.sh --suite "$suite" --tag "$name" --label "$label=$wanted"
else
  sh images/gateway/build.sh --tag "$name" --label "$label=$wanted"
fi
[ -z "$old" ] || [ "$old" = "$(id)" ] || podman image rm "$old" >/dev/null 2>&1 || true
