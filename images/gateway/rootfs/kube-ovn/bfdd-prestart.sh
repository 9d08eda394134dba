#!/bin/bash
# The startup probe of the BFD container up to Kube-OVN 1.15.22: called once, 1 s after the start, with a timeout of 1 s.
# Upstream's script adds the sessions; the agent has them from its policy, so this one only waits until the agent answers.
# A slower start (on a twentieth of a core) is not a failure: the liveness probe takes over.
socket=${VEG_AGENT_STATE_DIR:-/run/veg-agent}/control.sock
LC_ALL=C
end=$((${EPOCHREALTIME/./} + 400000)) # microseconds; the rest of the second is for starting this script on a throttled CPU
exec 3<> <(:) # never readable: read -t sleeps without a process
while [[ ${EPOCHREALTIME/./} -lt $end ]]; do
  [[ -S $socket ]] && bfdd-control version >/dev/null 2>&1 && exit 0
  read -rt 0.05 -u 3
done
exit 0
