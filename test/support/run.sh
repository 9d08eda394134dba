#!/bin/sh
# Runs the tests: run.sh all|unit|live|image. Installs what they need first (setup.sh), shows a line a file and
# the whole of what failed, and ends with "N passed, N failed". Exit code 0 only when something ran and
# nothing failed.
#   VEG_IMAGE   an image in podman's storage to test instead of building one (npm run image)
set -u
cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
case ${1:-} in
  all) level=all suites='unit live image' ;;
  unit) level=unit suites=unit ;;
  live) level=live suites=live ;;
  image) level=image suites=image ;;
  *) echo 'usage: run.sh all|unit|live|image' >&2; exit 2 ;;
esac

passed=0 failed=0 skipped=0
finish() {
  line="$passed passed, $failed failed"
  [ "$skipped" = 0 ] || line="$line, $skipped skipped"
  printf '%s\n' "$line"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit
}

sh test/support/setup.sh "$level" || { failed=1; finish; }
tap=$(mktemp) || exit 1
trap 'rm -f "$tap"' EXIT
trap 'exit 130' INT TERM

check() { # name, command: counts as one test
  if output=$("$@" 2>&1); then
    passed=$((passed + 1)); echo "ok      $*"
  else
    failed=$((failed + 1)); echo "FAILED  $*"; printf '%s\n' "$output"
  fi
}

# One line a test file; of a file that failed also everything but its passed assertions.
show='
  /^ *TAP version/ || /^1\.\./ || /^#/ { next }
  /^  ---$/ { why = 1 } # how a file ended
  why { if (/^  (exitCode|signal|expired|timeout|failure|error):/) print; if (/^  \.\.\.$/) why = 0; next }
  /^(not )?ok / {
    name = $0; sub(/^(not )?ok [0-9]+ - /, "", name); time = ""
    if (match(name, / # time=.*/)) { time = ", " substr(name, RSTART + 8); name = substr(name, 1, RSTART - 1) }
    if (/^ok/) printf "ok      %s (%d assertions%s)\n", name, count, time
    else printf "FAILED  %s\n%s", name, detail
    fflush(); detail = ""; count = 0; next
  }
  /^ +ok / { count++; next }
  /^ +not ok / { count++ }
  NF { detail = detail $0 "\n" }
'

suite() { # tap options and files
  tap run --type-strip-only --disable-coverage --reporter=tap "$@" | tee "$tap" | awk "$show"
  # tap counts leaf assertions itself: "# { total: 9, pass: 7, fail: 1, skip: 1 }"
  totals=$(sed -n 's/^# {\(.*\)}$/\1/p' "$tap" | tail -n 1)
  number() { printf '%s\n' "$totals" | sed -n "s/.* $1: \([0-9]*\).*/\1/p"; }
  pass=$(number pass) fail=$(number fail) skip=$(number skip) todo=$(number todo)
  passed=$((passed + ${pass:-0})) failed=$((failed + ${fail:-0})) skipped=$((skipped + ${skip:-0} + ${todo:-0}))
  # A run that was cut off or counted nothing is no success.
  [ "${pass:-0}" -gt 0 ] || [ "${fail:-0}" -gt 0 ] || failed=$((failed + 1))
  [ "${fail:-0}" -gt 0 ] || ! grep -q '^not ok\|^Bail out' "$tap" || failed=$((failed + 1))
}

for name in $suites; do
  case $name in
    unit)
      check tsc --noEmit
      check biome check --error-on-warnings .
      # shellcheck disable=SC2046 # file names of ours have no blanks
      suite --timeout=120 $(find test -name '*.test.ts' ! -path 'test/live/*' ! -path 'test/images/*' | sort) ;;
    live)
      # Timings and loads are what these prove: one after the other. The others wait most of their time, and go three
      # at once.
      alone='bfd-frr conntrack conntrack-overrun crash drain order ovn-failover ovn-restart ovn-session punctual soak
        uplink uplink-ovn'
      timed='' others=''
      for file in $(find test/live -name '*.test.ts' | sort); do
        name=${file##*/} name=${name%.test.ts}
        case " $(echo $alone) " in *" $name "*) timed="$timed $file" ;; *) others="$others $file" ;; esac
      done
      # shellcheck disable=SC2086
      suite --jobs=1 --timeout=600 $timed
      # shellcheck disable=SC2086
      suite --jobs=3 --timeout=600 $others ;;
    image)
      if [ -z "${VEG_IMAGE:-}" ]; then
        VEG_IMAGE=localhost/veg-agent
        export VEG_IMAGE
        check sh images/gateway/build.sh --tag "$VEG_IMAGE"
      fi
      # Two at once: one waits most of its time.
      # shellcheck disable=SC2046
      suite --jobs=2 --timeout=600 $(find test/images -name '*.test.ts' | sort) ;;
  esac
done
finish
