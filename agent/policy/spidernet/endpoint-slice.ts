/** Spidernet's endpoint slices: of thousands of endpoints only the addresses are read. Pure. */

interface Endpoint {
  ipv4?: string[];
  ipv6?: string[];
}

/** All addresses of a slice as those of one endpoint. */
export function condenseSlice({ endpoints, ...rest }: Record<string, unknown>): Record<string, unknown> {
  if (!Array.isArray(endpoints)) return rest;
  const all = (family: keyof Endpoint) => (endpoints as Endpoint[]).flatMap((one) => one?.[family] ?? []);
  return { ...rest, endpoints: [{ ipv4: all('ipv4'), ipv6: all('ipv6') }] };
}
