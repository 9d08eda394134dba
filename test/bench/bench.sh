#!/bin/sh
# npm run bench: measures the agent beside what else does its work, and writes docs/benchmarks.md and docs/bench/.
set -u
cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
sh test/support/setup.sh bench || exit 1
exec node test/bench/bench.ts "$@"
