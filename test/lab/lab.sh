#!/bin/sh
# npm run lab: a VPC egress gateway on this machine, from nothing to a drained session, in namespaces.
set -u
cd "$(dirname "$0")/../.." || exit 1

usage() {
  cat <<'TEXT'
usage: npm run lab -- [--peer builtin|frr|ovn] [--group N] [--keep] [--no-color]
       npm run lab -- --down

Makes a small VPC in network namespaces of this machine, runs veg-agent in its gateway pod, shows what it
does, and removes everything. Needs root and installs what is missing (Debian or Ubuntu).

  --peer builtin   BFD peer in the VPC's router: our own engine (the default)
  --peer frr       the same with FRR's bfdd
  --peer ovn       two gateways behind real OVN, and a client whose traffic moves when one fails
  --group N        N gateways (2 to 8) that share one address, under open connections: one is killed, one drained,
                   one added; with --peer builtin or ovn
  --keep           leave it running, to play with
  --down           remove a lab that was kept
  --no-color       plain text, also on a terminal
TEXT
}
refuse() { printf 'lab: %s\n\n' "$*" >&2; usage >&2; exit 2; }

peer=builtin action=run group=0 keep='' colour=''
while [ $# -gt 0 ]; do
  case $1 in
    --peer) [ $# -gt 1 ] || refuse '--peer needs a value'; peer=$2; shift ;;
    --peer=*) peer=${1#--peer=} ;;
    --group) [ $# -gt 1 ] || refuse '--group needs a number'; group=$2; shift ;;
    --group=*) group=${1#--group=} ;;
    --keep) keep=--keep ;;
    --down) action=down ;;
    --no-color | --no-colour) colour=--no-color ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "unknown argument: $1" ;;
  esac
  shift
done
case $peer in
  builtin) level=lab ;;
  frr) level=frr ;;
  ovn) level=ovn ;;
  *) refuse "unknown peer: $peer" ;;
esac

case $group in
  0) ;;
  [2-8]) [ "$peer" != frr ] || refuse '--group goes with --peer builtin and --peer ovn' ;;
  *) refuse "a group has 2 to 8 gateways, not $group" ;;
esac

sh test/support/setup.sh "$level" || exit 1
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
# shellcheck disable=SC2086 # none or one word each
exec node test/lab/main.ts "$action" "$peer" "$group" $keep $colour
