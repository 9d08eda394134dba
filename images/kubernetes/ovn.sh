#!/bin/sh
# VpcEgressGateway default/gateway1 in OVN: traffic of its sources goes to its gateways, as long as BFD says that they live.
# Run it again after a change. NBCTL: how ovn-nbctl is called, such as `kubectl ko nbctl`.
set -eu
nbctl() { ${NBCTL:-ovn-nbctl} "$@"; }
gateway=default/gateway1
router=ovn-cluster
port=bfd@ovn-cluster

# The ids of the rows of a table that are of this gateway.
rows() { nbctl --bare --columns=_uuid find "$1" external_ids:vpc-egress-gateway="\"$gateway\"" "$2"; }

# Makes the session with an address, or changes it in place; prints its id.
session() {
  timers='min_tx=100 min_rx=100 detect_mult=5'
  row=$(nbctl --bare --columns=_uuid find BFD logical_port="$port" dst_ip="\"$1\"")
  if [ -n "$row" ]; then
    nbctl set BFD "$row" $timers
  else
    row=$(nbctl create BFD logical_port="$port" dst_ip="\"$1\"" $timers \
      external_ids:vendor=veg-agent external_ids:vpc-egress-gateway="\"$gateway\"")
  fi
  echo "$row"
}

# IPv4
sessions=''
for address in 10.16.0.102 10.16.0.103; do sessions=$sessions${sessions:+,}$(session "$address"); done
set --
for row in $(rows Logical_Router_Policy external_ids:af=4); do
  set -- "$@" -- remove Logical_Router "$router" policies "$row"
done
nbctl "$@" \
  -- --if-exists destroy Address_Set VEG.8ca38ae7da18.ipv4 \
  -- create Address_Set name=VEG.8ca38ae7da18.ipv4 addresses='["10.17.0.0/16","10.18.0.0/16"]' \
     external_ids:vendor=veg-agent external_ids:vpc-egress-gateway="\"$gateway\"" external_ids:af=4 \
  -- --id=@reroute create Logical_Router_Policy priority=29100 match='"ip4.src == $VEG.8ca38ae7da18.ipv4"' action=reroute nexthops='["10.16.0.102","10.16.0.103"]' bfd_sessions="[$sessions]" \
     external_ids:vendor=veg-agent external_ids:vpc-egress-gateway="\"$gateway\"" external_ids:af=4 \
  -- add Logical_Router "$router" policies @reroute \
  -- --id=@drop create Logical_Router_Policy priority=29090 match='"ip4.src == $VEG.8ca38ae7da18.ipv4"' action=drop \
     external_ids:vendor=veg-agent external_ids:vpc-egress-gateway="\"$gateway\"" external_ids:af=4 \
  -- add Logical_Router "$router" policies @drop

# IPv6
set --
for row in $(rows Logical_Router_Policy external_ids:af=6); do
  set -- "$@" -- remove Logical_Router "$router" policies "$row"
done
nbctl "$@" \
  -- --if-exists destroy Address_Set VEG.8ca38ae7da18.ipv6

# Sessions with gateways that are no more.
for row in $(rows BFD external_ids:vendor=veg-agent); do
  case $(nbctl --bare --columns=dst_ip list BFD "$row") in
    10.16.0.102 | 10.16.0.103) ;;
    *) nbctl destroy BFD "$row" ;;
  esac
done
