# shellcheck shell=sh
# What the build.sh of each image have in common; they source it in the root directory of the project, with `tag` set to the
# image's name.
PATH=$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin
export PATH
archive='' label='' sbom='' suite=${suite:-} arch=$(dpkg --print-architecture)
usage="usage: build.sh ${suite:+[--suite bookworm|trixie] }[--tag NAME] [--arch amd64|arm64] [--archive FILE] [--sbom FILE] [--label KEY=VALUE]"
# All timestamps in an image are the commit's.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
work='' container=''

finish() {
  [ -z "$container" ] || buildah rm "$container" >/dev/null
  rm -rf "$work"
}

usage_error() {
  echo "$usage" >&2
  exit 2
}

# Reads the options, installs what a build needs, and makes the directory $work, which goes with this process.
begin() {
  while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || usage_error
    case $1 in
      --suite) [ -n "$suite" ] || usage_error; suite=$2 ;;
      --tag) tag=$2 ;;
      --arch) arch=$2 ;;
      --archive) archive=$2 ;;
      --sbom) sbom=$2 ;;
      --label) label=$2 ;;
      *) usage_error ;;
    esac
    shift 2
  done
  case $arch in amd64 | arm64) ;; *) usage_error ;; esac
  sh test/support/setup.sh build
  version=$(node -p 'require("./package.json").version')
  work=$(mktemp -d)
  chmod 755 "$work"
  trap finish EXIT
  trap 'exit 130' INT TERM
}

# Debian's packages that the file $2 lists, from the suite $1, as $work/root.tar; the rest are options of mmdebstrap. In a hook,
# $1 is its root directory.
debian_root() {
  suite=$1 packages=$(sed 's/#.*//' "$2" | xargs | tr ' ' ,)
  shift 2
  mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
  security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
  mmdebstrap --quiet --architectures="$arch" --variant=essential --skip=cleanup/run --include="$packages" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr "$@" \
    "$suite" "$work/root.tar" \
    "deb $mirror $suite main" "deb $mirror $suite-updates main" "deb $security $suite-security main"
}

# The image $1 of $work/root.tar, with the SBOM $2 in it; the rest are options of buildah config.
make_image() {
  title=$1 parts=$2
  shift 2
  [ -z "$sbom" ] || tar -xOf "$work/root.tar" "./$parts" >"$sbom"
  container=$(buildah from --arch "$arch" scratch)
  buildah add --quiet "$container" "$work/root.tar" / >/dev/null
  buildah config --arch "$arch" --user 65534:65534 \
    --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --label "org.opencontainers.image.title=$title" \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
    "$@" ${label:+--label "$label"} "$container"
  buildah commit --quiet --timestamp "$SOURCE_DATE_EPOCH" "$container" "$tag"
  [ -z "$archive" ] || sh images/archive.sh "$tag" "$archive"
}
