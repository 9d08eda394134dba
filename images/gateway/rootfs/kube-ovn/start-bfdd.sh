#!/bin/bash
# The BFD container of Kube-OVN's gateway pods up to 1.15.22 and 1.16.2.
exec /usr/libexec/veg-agent/gateway
