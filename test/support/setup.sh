#!/bin/sh
# Gives this checkout what it needs and has not got, without a question:
#   setup.sh unit   npm packages (Node 24 among them) and the build; needs no root
#   setup.sh lab    and what the lab's namespaces need
#   setup.sh frr    and FRR, for the lab's --peer frr
#   setup.sh ovn    and OVN and Open vSwitch instead
#   setup.sh live   and what the live tests need
#   setup.sh bench  and what the benchmarks compare with
#   setup.sh build  what building the image needs
#   setup.sh image  and what testing it in containers needs
#   setup.sh release  what `build` has, and what building the image for the other architecture needs
#   setup.sh kernels  what emulates machines with other kernels, of both architectures
#   setup.sh releases  what `live` has, and what makes a root of another Debian
#   setup.sh all    all of it
# Says what it does on stderr, and nothing when all is there.
set -u
cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# --- Debian packages, each known by a file or command of its own ---------------------------------------

lab='ip:iproute2 sysctl:procps iptables:iptables ipset:ipset conntrack:conntrack curl:curl nc.openbsd:netcat-openbsd'
frr='/usr/lib/frr/bfdd:frr vtysh:frr'
ovn='ovs-vswitchd:openvswitch-switch ovn-northd:ovn-central ovn-controller:ovn-host'
tools='ping:iputils-ping nft:nftables tcpdump:tcpdump traceroute:traceroute setcap:libcap2-bin'
# Ubuntu has Chromium as a snap only: there test/live/page.test.ts asks for a browser to be installed by hand.
browser='chromium-headless-shell:chromium-headless-shell'
grep -qs '^ID=ubuntu' /etc/os-release && browser=''
live="$lab $frr $ovn $tools bird:bird2 gobgpd:gobgpd promtool:prometheus $browser"
bench="$live conntrackd:conntrackd"
build='mmdebstrap:mmdebstrap buildah:buildah setcap:libcap2-bin strip:binutils'
image="$lab $frr $tools $build podman:podman runc:runc"
case $(uname -m) in
  x86_64) foreign='qemu-aarch64-static:qemu-user-static aarch64-linux-gnu-strip:binutils-aarch64-linux-gnu' ;;
  *) foreign='qemu-x86_64-static:qemu-user-static x86_64-linux-gnu-strip:binutils-x86-64-linux-gnu' ;;
esac
release="$build $foreign arch-test:arch-test update-binfmts:binfmt-support"
machines='qemu-system-x86_64:qemu-system-x86 qemu-system-aarch64:qemu-system-arm mke2fs:e2fsprogs cpio:cpio depmod:kmod xz:xz-utils'
case ${1:-} in
  unit) wanted='' ;;
  lab) wanted=$lab ;;
  frr) wanted="$lab $frr" ;;
  ovn) wanted="$lab $ovn" ;;
  live) wanted=$live ;;
  bench) wanted=$bench ;;
  build) wanted=$build ;;
  image) wanted=$image ;;
  release) wanted=$release ;;
  releases) wanted="$live mmdebstrap:mmdebstrap" ;;
  kernels) wanted="$release $machines" ;;
  all) wanted="$bench $image" ;;
  *) die 'usage: setup.sh unit|lab|frr|ovn|live|bench|build|image|release|releases|kernels|all' ;;
esac

packages() { # the packages of $wanted that are not there
  for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair#*:}"
  done | sort -u | tr '\n' ' '
}

services() { systemctl list-unit-files --no-legend --type=service --state=enabled 2>/dev/null | cut -d' ' -f1; }

apt_install() {
  command -v apt-get >/dev/null ||
    die "missing: $*. This machine has no apt-get; install them by hand, or use Debian or Ubuntu."
  say "installing Debian packages: $*"
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  # Nothing that comes along may run on this machine: only in the namespaces, started there.
  policy=/usr/sbin/policy-rc.d made=''
  if [ ! -e "$policy" ]; then
    made=$policy
    trap 'rm -f "$made"' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || die "cannot write $policy"
  fi
  before=" $(services | tr '\n' ' ')"
  apt-get -q -o DPkg::Lock::Timeout=300 update >&2 || die "apt-get update failed (its message is above)"
  for package in "$@"; do
    apt-cache show "$package" >/dev/null 2>&1 ||
      die "the package $package is in none of this machine's apt sources (on Ubuntu: add-apt-repository universe)"
  done
  apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
    install --no-install-recommends "$@" >&2 || die "apt-get could not install: $* (its message is above)"
  for service in $(services); do # nor at the next boot
    case $before in *" $service "*) ;; *) systemctl disable --quiet "$service" ;; esac
  done
  [ -z "$made" ] || rm -f "$made"
}

if [ -n "$wanted" ]; then
  [ "$(uname -s)" = Linux ] || die "network namespaces need Linux, this is $(uname -s)"
  [ "$(id -u)" = 0 ] || die "network namespaces need root: run it with sudo (npm run test:unit needs no root)"
  missing=$(packages)
  if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # words
    apt_install $missing
    missing=$(packages)
    [ -z "$missing" ] || die "installed, but still not found: $missing"
  fi
  unshare -n true 2>/dev/null ||
    die 'this machine lets nobody make network namespaces (in a container: --privileged or CAP_SYS_ADMIN)'
fi

# --- npm packages ---------------------------------------------------------------------------------------

newer() { [ -n "$(find "$1" -newer "$2" 2>/dev/null)" ]; } # file, reference

command -v npm >/dev/null || die 'npm is missing: install Node.js with npm (any version from 20 on)'
if [ ! -e node_modules/.package-lock.json ] || newer package-lock.json node_modules/.package-lock.json; then
  say 'installing npm packages, with a Node 24 of their own (about 200 MB; a minute or two)'
  # Errors only: the warnings say that the system's Node is older than the one that npm is just fetching.
  npm ci --loglevel=error --no-audit --no-fund >&2 || die 'npm ci failed (its message is above)'
fi
node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 18) ? 0 : 1)' ||
  die "Node $(node --version) is too old and npm brought no Node 24 along: was it told to omit optional packages, or is this neither x64 nor arm64 Linux?"

# --- build ------------------------------------------------------------------------------------------------

if [ ! -e dist/.built ] ||
  [ -n "$(find agent bfd lib nat routing shaping package.json tsconfig.json tsconfig.build.json -newer dist/.built -print | head -n 1)" ]; then
  say 'building'
  npm run --silent build >&2 || die 'the build failed (its message is above)'
  touch dist/.built
fi
