#!/bin/sh
# Writes an image of buildah's storage as an OCI archive: archive.sh TAG FILE. All timestamps are SOURCE_DATE_EPOCH, so that two
# archives of one image are identical to the byte.
set -eu
layout=$(mktemp -d)
trap 'rm -rf "$layout"' EXIT
trap 'exit 130' INT TERM
buildah push --quiet "$1" "oci:$layout:$1"
tar -C "$layout" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
  -cf "$2" blobs index.json oci-layout
