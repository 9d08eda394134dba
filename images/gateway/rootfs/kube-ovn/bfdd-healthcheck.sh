#!/bin/bash
# Liveness of the BFD container, as Kube-OVN 1.15.20 to 1.15.22 ask it: BFD answers, and has a session.
status=$(bfdd-control status) || exit 1
[[ $status != 'There are 0 sessions:'* ]] || { echo "$status" >&2; exit 1; }
