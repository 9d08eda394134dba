/** The parameters of a lookup: flags of `veg-agent translations`, query of `GET /v1/translations`. Pure. */
export const LOOKUP_OPTIONS = {
  internal: { value: 'IP', help: 'the pod' },
  external: { value: 'IP[:PORT]', help: 'what the outside saw: address and port, of ICMP the identifier' },
  dest: { value: 'IP[:PORT]', help: 'where the connection went' },
  proto: { value: 'P', help: 'tcp, udp, sctp, icmp, icmpv6, gre or a number' },
  at: { value: 'TIME', help: 'alive at that time, RFC 3339; without a fraction: in that second' },
  since: { value: 'TIME', help: 'alive at or after that time' },
  until: { value: 'TIME', help: 'alive at or before that time' },
  limit: { value: 'N', help: 'at most N flows, the newest (default: 1000)' },
} as const;
