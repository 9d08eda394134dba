#!/bin/sh
# Removes what the image does not need: slim.sh ROOT.
set -eu
for file in "$1"/usr/lib/frr/*; do
  case ${file##*/} in bfdd | bgpd | mgmtd | zebra) ;; *) rm "$file" ;; esac
done
sh "$(dirname "$0")/../slim.sh" "$1"
