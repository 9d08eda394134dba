#!/bin/bash
# The startup probe of the BFD container up to Kube-OVN 1.15.22: called once, 1 s after the start, with 1 s for its
# answer. The agent knows its sessions by itself; what is left to do is to wait until it answers. A start that
# takes longer, on a twentieth of a core, is no failure: from then on the liveness probe asks.
socket=${VEG_AGENT_STATE_DIR:-/run/veg-agent}/control.sock
LC_ALL=C
end=$((${EPOCHREALTIME/./} + 400000)) # microseconds; the rest of the second is for a throttled start of this
exec 3<> <(:) # nothing ever comes: a sleep without a process
while [[ ${EPOCHREALTIME/./} -lt $end ]]; do
  [[ -S $socket ]] && bfdd-control version >/dev/null 2>&1 && exit 0
  read -rt 0.05 -u 3
done
exit 0
