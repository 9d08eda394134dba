#!/bin/bash
# The liveness probe of the BFD container of Kube-OVN 1.15.20 to 1.15.22: bfdd-control answers, and there is a session.
status=$(bfdd-control status) || exit 1
[[ $status != 'There are 0 sessions:'* ]] || { echo "$status" >&2; exit 1; }
