#!/bin/sh
# Runs a tool of this folder that needs more than npm packages: tool.sh kernels|release|releases ARGUMENT… (npm run
# test:kernels, release, test:releases). Installs what is missing first (setup.sh); the rest is NAME.ts. What only prints
# or removes something needs npm packages alone.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
name=$1
shift
case " $* " in
  *' --help '* | *' -h '* | *' --list '* | *' --clean '* | *' --dry-run '*) setup=unit ;;
  *) setup=$name ;;
esac
sh test/support/setup.sh "$setup"
exec node --disable-warning=ExperimentalWarning "test/support/$name.ts" "$@"
