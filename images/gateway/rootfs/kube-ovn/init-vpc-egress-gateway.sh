#!/bin/bash
# The init container of Kube-OVN's gateway pods, the only privileged one. It applies the policy in its environment and saves
# it for the main container, which does not get these variables.
set -eu
# The one volume that both containers share in every release. It is sticky: other users cannot replace root's files.
saved=/usr/local/sbin/veg-agent.env

# Reports an error on stderr and as the termination message (`kubectl describe pod`), and exits.
fail() {
  printf 'veg-agent: error: %s\n' "$1" >&2
  { printf '%s\n' "$1" >/dev/termination-log; } 2>/dev/null || true
  exit 1
}

save() {
  local name value
  for name in {INTERNAL_GATEWAY,EXTERNAL_GATEWAY,NO_SNAT_SOURCES}_IPV{4,6} ENABLE_{BGP,EVPN} VNI; do
    value=${!name-}
    [[ -z $value ]] || printf "export %s='%s'\n" "$name" "${value//\'/\'\\\'\'}"
  done >"$saved"
}

# What the main container compares the kernel with, to begin before it has observed everything itself.
export VEG_AGENT_SEAL=/usr/local/sbin/veg-agent.seal
rm -f "$VEG_AGENT_SEAL"

# Runs a program with the main container's flags and fills Node's compile cache: that container has a fraction of a core,
# this one has no limit. Root writes the cache for that container's user, and never reads it.
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

if [[ -z ${INTERNAL_GATEWAY_IPV4-}${INTERNAL_GATEWAY_IPV6-} ]]; then
  fail 'no policy: neither INTERNAL_GATEWAY_IPV4 nor INTERNAL_GATEWAY_IPV6 is set'
fi

if [[ ${ENABLE_BGP-} == true ]]; then
  directory=${VEG_AGENT_POLICY_DIR:-/etc/veg-agent/policy}
  consequence="nothing is translated, not even for policies with snat: true, as in Kube-OVN's own image; to translate as well,"
  consequence+=' use a policy with spec.bgp (veg-agent render kubernetes)'
  for file in "$directory"/*.{yaml,yml,json}; do
    [[ ! -e $file ]] || consequence="the policy in $directory is in force and decides what is translated and announced"
  done
  mode='BGP mode (ENABLE_BGP)'
  [[ ${ENABLE_EVPN-} != true ]] || mode="EVPN mode (ENABLE_EVPN, VNI ${VNI-})"
  echo "veg-agent: $mode: $consequence"
fi
if ! report=$(compiling /opt/veg-agent/dist/agent/main.js apply 2>&1); then
  printf '%s\n' "$report"
  fail "${report##*$'\n'}"
fi
printf '%s\n' "$report"
[[ ! -e $VEG_AGENT_SEAL ]] || chmod a+r "$VEG_AGENT_SEAL"
# The main container writes its own as another user, who could neither read nor replace root's.
rm -f "${VEG_AGENT_STATE_DIR:-/run/veg-agent}/last-policy.json.gz"
save
(keep_compiled) || echo 'veg-agent: warning: cannot fill the compile cache; the main container starts more slowly' >&2
