#!/bin/sh
# The image that the tests run: image.sh builds it unless this checkout has built it from the same inputs before, and
# image.sh --name prints its name, image.sh --inputs the hash of its inputs. One image a checkout: a new one replaces
# the old one.
set -eu
cd "$(dirname "$0")/../.."
label=io.veg-agent.test-inputs
name=localhost/veg-agent-test:$(pwd -P | sha256sum | cut -c 1-12)

# Whatever images/gateway/build.sh reads: its own files, the sources of the bundle, the npm packages, the archive.
inputs() {
  {
    printf '%s\n' "${DEBIAN_MIRROR:-}" "${DEBIAN_SECURITY_MIRROR:-}" "$(uname -m)"
    find LICENSE package.json package-lock.json tsconfig.json tsconfig.build.json agent bfd images/gateway lib nat \
      routing -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d ' ' -f 1
}

case ${1:-} in
  --name) printf '%s\n' "$name"; exit ;;
  --inputs) inputs; exit ;;
  '') ;;
  *) echo 'usage: image.sh [--name|--inputs]' >&2; exit 2 ;;
esac

wanted=$(inputs)
id() { podman image inspect --format '{{.Id}}' "$name" 2>/dev/null || true; }
if [ "$(podman image inspect --format "{{index .Labels \"$label\"}}" "$name" 2>/dev/null || true)" = "$wanted" ]; then
  echo "unchanged: $name"
  exit
fi
old=$(id)
sh images/gateway/build.sh --tag "$name" --label "$label=$wanted"
[ -z "$old" ] || [ "$old" = "$(id)" ] || podman image rm "$old" >/dev/null 2>&1 || true
