#!/bin/bash
# The init container of Kube-OVN's gateway pods, the only privileged one: brings the pod to the policy that is in
# its environment, and saves that for the container that keeps it so, which is not given it.
set -eu
# The one directory that every release shares between the two. Only root writes there: it has the sticky bit.
saved=/usr/local/sbin/veg-agent.env

# Says why on stderr and where `kubectl describe pod` shows it.
fail() {
  printf 'veg-agent: error: %s\n' "$1" >&2
  { printf '%s\n' "$1" >/dev/termination-log; } 2>/dev/null || true
  exit 1
}

save() {
  local name value
  for name in {INTERNAL_GATEWAY,EXTERNAL_GATEWAY,NO_SNAT_SOURCES}_IPV{4,6} ENABLE_BGP; do
    value=${!name-}
    [[ -z $value ]] || printf "export %s='%s'\n" "$name" "${value//\'/\'\\\'\'}"
  done >"$saved"
}

# Runs a program as the next container will, and keeps what Node compiles for it: that container has a fraction of a
# core, and no limit is here. Root writes it for the user of that container, and never reads it.
cache=/usr/local/sbin/veg-agent.cache
rm -rf "$cache" "$cache.new"
compiling() {
  local flags
  read -ra flags </usr/libexec/veg-agent/small-flags
  NODE_COMPILE_CACHE=$cache.new node "${flags[@]}" "$@"
}
keep_compiled() {
  compiling /usr/libexec/veg-agent/warm.mjs
  mv "$cache".new/*-0 "$cache.new/$(basename "$cache".new/*-0 0)65534"
  chmod -R a+rX "$cache.new"
  mv "$cache.new" "$cache"
}

if [[ ${ENABLE_EVPN-} == true ]]; then
  fail "EVPN (ENABLE_EVPN, VNI ${VNI-}) is not part of this image: take spec.image away from this gateway, so that Kube-OVN's own image runs it"
fi
if [[ -z ${INTERNAL_GATEWAY_IPV4-}${INTERNAL_GATEWAY_IPV6-} ]]; then
  fail 'no policy: neither INTERNAL_GATEWAY_IPV4 nor INTERNAL_GATEWAY_IPV6 is set'
fi

if [[ ${ENABLE_BGP-} == true ]]; then
  echo "veg-agent: BGP mode (ENABLE_BGP): nothing is translated, not even for policies with snat: true, as in Kube-OVN's own image"
fi
if ! report=$(compiling /opt/veg-agent/dist/agent/main.js apply 2>&1); then
  printf '%s\n' "$report"
  fail "${report##*$'\n'}"
fi
printf '%s\n' "$report"
# The next container keeps its own, as its user: that one could neither read nor replace root's.
rm -f "${VEG_AGENT_STATE_DIR:-/run/veg-agent}/last-policy.json.gz"
save
(keep_compiled) || echo 'veg-agent: warning: nothing is compiled ahead; the next container starts more slowly' >&2
