/**
 * The devices of EVPN mode: a VRF that holds the internal interface, and in it a bridge with a VXLAN device, by which
 * packets reach other sites. Which there have to be, and the steps to them. Pure.
 *
 * A device is the agent's if it has one of the three names and is in group 178. A device of another program with such a name
 * is neither used nor changed: the kernel refuses ours beside it.
 */
import { type Address, type Family, familyOf } from '../lib/prefix.ts';
import { BRIDGE, TABLE_VPN, VRF, VXLAN, VXLAN_PORT } from './numbers.ts';
import { ownsLink } from './ownership.ts';
import type { Device, Link } from './state.ts';

/** What the devices have to be. */
export interface VpnLinks {
  /** The interface that is put into the VRF. */
  internal: string;
  /** 1..16777215. */
  vni: number;
  /** Where the tunnel ends on this side. */
  local: Address;
  /** Of the external interface, octets. */
  mtu: number;
}

/** A device, or what is to be changed of one. `master`: the name of the bridge or VRF that it belongs to. */
export interface WantedLink {
  name: string;
  /** Absent: it exists, and another program has made it. */
  device?: Device;
  master?: string;
  mtu?: number;
  up?: true;
}

/** `family`: the one that the step is applied with; devices have none. */
export type LinkStep =
  | { kind: 'addLink' | 'setLink'; family: Family; link: WantedLink }
  | { kind: 'delLink'; family: Family; link: { name: string } };

/** What VXLAN adds to a packet, octets: Ethernet, IP, UDP and VXLAN headers. */
const OVERHEAD = { 4: 50, 6: 70 } as const;

/** The devices in the order in which each finds the one that it belongs to. */
function wantedLinks({ internal, vni, local, mtu }: VpnLinks): WantedLink[] {
  return [
    { name: VRF, device: { kind: 'vrf', table: TABLE_VPN }, up: true },
    { name: BRIDGE, device: { kind: 'bridge' }, master: VRF, up: true },
    {
      name: VXLAN,
      // FRR says which address is behind which site: what packets say is not learned.
      device: { kind: 'vxlan', vni, local, port: VXLAN_PORT, learning: false },
      master: BRIDGE,
      mtu: mtu - OVERHEAD[familyOf(local)],
      up: true,
    },
    { name: internal, master: VRF },
  ];
}

/**
 * The steps to the devices. Undefined: none is wanted; with the VRF its members are released. A device of other properties
 * is made anew: the kernel changes hardly any.
 */
export function diffLinks(
  observed: readonly Link[],
  wanted: VpnLinks | undefined,
  family: Family,
): LinkStep[] {
  const found = new Map(observed.map((link) => [link.name, link]));
  if (wanted === undefined) {
    return [VXLAN, BRIDGE, VRF]
      .filter((name) => found.has(name) && ownsLink(found.get(name)!))
      .map((name) => ({ kind: 'delLink', family, link: { name } }));
  }
  const made = new Set<string>();
  return wantedLinks(wanted).flatMap((link): LinkStep[] => {
    const there = found.get(link.name);
    if (link.device !== undefined && !(there && isAsWanted(there, link.device))) {
      made.add(link.name);
      const add: LinkStep = { kind: 'addLink', family, link };
      if (there === undefined || !ownsLink(there)) return [add];
      return [{ kind: 'delLink', family, link: { name: link.name } }, add];
    }
    const change = there && changeOf(there, link, found, made);
    return change === undefined ? [] : [{ kind: 'setLink', family, link: change }];
  });
}

const isAsWanted = (there: Link, device: Device): boolean =>
  ownsLink(there) && there.device !== undefined && textOf(there.device) === textOf(device);

/** All properties of a device. */
const textOf = (device: Device): string => JSON.stringify(Object.entries(device).sort());

/** What is to be changed of a device; undefined: nothing. `made`: the devices that are made anew, and have no members. */
function changeOf(
  there: Link,
  { name, master, mtu, up }: WantedLink,
  found: ReadonlyMap<string, Link>,
  made: ReadonlySet<string>,
): WantedLink | undefined {
  const isMember =
    master === undefined || (!made.has(master) && found.get(master)?.index === (there.master ?? 0));
  const change: WantedLink = {
    name,
    ...(!isMember && { master }),
    ...(mtu !== undefined && mtu !== there.mtu && { mtu }),
    ...(up && !there.up && { up }),
  };
  return Object.keys(change).length === 1 ? undefined : change;
}
