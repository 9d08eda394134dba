/**
 * From limits to the classes and rules that keep them. Pure.
 *
 *     net1  178: htb                    eth0 likewise, for what comes in
 *             178:1                     the whole gateway
 *               178:2                   what has no limit of its own (only where the whole gateway has one)
 *               178:100 to 178:3fff     a limit
 *               178:4000 to 178:4fff    rings of 512: a limit by source, each new source gets the next class
 *
 * Only packets that are forwarded between the two sides have a class. All others, BFD and what else the gateway sends
 * itself, wait nowhere: HTB sends packets without a class first.
 *
 * Rates of policies are those of IP packets; HTB counts frames. So the rates here are higher by the share of the
 * Ethernet header in a packet of the interface's MTU.
 */
import type { ClassRange, Leaf, Limit, ShapedDevice, ShapingIntent } from './state.ts';

/** The whole gateway, and what has no limit of its own. */
export const CLASS_WHOLE = 1;
export const CLASS_REST = 2;
const FIRST_SINGLE = 0x100;
const FIRST_RING = 0x4000;
/**
 * Classes of a ring: so many sources have the limit by themselves at the same time. All classes are read in each
 * observation, which for 4096 takes a tenth of a second.
 */
export const RING = 512;
/** policy/bandwidth.ts allows no more. */
const MOST_RINGS = 8;

const ETHERNET_HEADER = 14;
/** Octets per second of a class without a limit, 1 Tbit/s. */
export const UNLIMITED = 125_000_000_000;
/** The time that HTB must be able to make up for when the processor comes late, s. */
const BURST_TIME = 0.01;
/** Octets: the largest packet that segmentation offload makes. */
const LARGEST_PACKET = 65_536;
/** bfifo: how long a packet waits at most, s; but the largest packet must find room with its headers. */
const FIFO_TIME = 0.025;
const FIFO_LEAST = 70_000;
/** fq_codel: the longest acceptable wait and the time to see it in, µs (RFC 8289 4.2, 4.3). */
const CODEL_TARGET = 5000;
const CODEL_INTERVAL = 100_000;
const FLOWS = 1024;
/** Flows of a class for one source. */
const SOURCE_FLOWS = 16;

/** A limit in one direction, with its classes. */
export interface Shaped {
  limit: Limit;
  /** Bits per second, as in the policy. */
  rate: number;
  first: number;
  count: number;
}

export interface DesiredDevice {
  device: ShapedDevice;
  /** Parents before their children. */
  ranges: ClassRange[];
  shaped: Shaped[];
}

export interface DesiredShaping {
  devices: DesiredDevice[];
  intent: ShapingIntent;
}

/** Made once for an intent: it is compared and shown again and again. */
const made = new WeakMap<ShapingIntent, DesiredShaping>();

export function desiredShaping(intent: ShapingIntent): DesiredShaping {
  const known = made.get(intent);
  if (known !== undefined) return known;
  const numbers = minorNumbers(intent.limits);
  const desired = {
    intent,
    devices: intent.devices.flatMap((device) => {
      const limits = intent.limits.filter(({ rate }) => rate[device.direction] !== undefined);
      return limits.length === 0 ? [] : [desiredDevice(device, limits, numbers)];
    }),
  };
  made.set(intent, desired);
  return desired;
}

function desiredDevice(
  device: ShapedDevice,
  limits: readonly Limit[],
  numbers: ReadonlyMap<Limit, number>,
): DesiredDevice {
  const rateOf = ({ rate }: Limit): number => rate[device.direction]!;
  const whole = limits.find(isWhole);
  const shaped = limits.map(
    (limit): Shaped => ({
      ...{ limit, rate: rateOf(limit) },
      first: limit === whole ? CLASS_WHOLE : numbers.get(limit)!,
      count: limit.perSource ? RING : 1,
    }),
  );
  const frames = (bits: number): number => Math.ceil((bits / 8) * (1 + ETHERNET_HEADER / device.mtu));
  const most = whole === undefined ? UNLIMITED : frames(rateOf(whole));
  const own = shaped.filter(({ limit }) => limit !== whole);
  const parts = own.reduce((sum, { rate, count }) => sum + Math.min(frames(rate), most) * count, most);
  // Children may take what they are guaranteed whatever their parent has: together no more than the parent's.
  const guaranteed = (ceil: number): number =>
    whole === undefined ? ceil : Math.max(1, Math.floor((ceil * most) / parts));
  const leafRange = (first: number, count: number, ceil: number, burst?: number): ClassRange => ({
    ...{ first, count, parent: CLASS_WHOLE, rate: guaranteed(ceil), ceil },
    ...rangeOf(ceil, device.mtu, burst),
    leaves: leavesOf(ceil, device.mtu, count > 1 ? SOURCE_FLOWS : FLOWS),
  });
  return {
    ...{ device, shaped },
    ranges: [
      {
        ...{ first: CLASS_WHOLE, count: 1, parent: 0, rate: most, ceil: most },
        ...rangeOf(most, device.mtu, whole?.burst),
      },
      ...(whole === undefined ? [] : [leafRange(CLASS_REST, 1, most, whole.burst)]),
      ...own.map(({ limit, rate, first, count }) =>
        leafRange(first, count, Math.min(frames(rate), most), limit.burst),
      ),
    ],
  };
}

/** Whether a limit is that of everything together. */
export const isWhole = ({ applies, perSource }: Limit): boolean => applies === 'rest' && !perSource;

/** Burst and quantum of a class. `bits`: the burst that the policy names. */
function rangeOf(ceil: number, mtu: number, bits: number | undefined): Pick<ClassRange, 'burst' | 'quantum'> {
  const frame = mtu + ETHERNET_HEADER;
  return {
    burst: Math.max(2 * frame, bits === undefined ? Math.ceil(ceil * BURST_TIME) : Math.ceil(bits / 8)),
    // The share of a millisecond, so that a turn is long where there are many packets.
    quantum: Math.min(LARGEST_PACKET, Math.max(frame, Math.ceil(ceil / 1000))),
  };
}

function leavesOf(ceil: number, mtu: number, flows: number): [Leaf, Leaf] {
  // At a low rate a packet alone takes longer than the usual target.
  const target = Math.max(CODEL_TARGET, Math.ceil((1.5e6 * (mtu + ETHERNET_HEADER)) / ceil));
  return [
    {
      ...{ kind: 'fq_codel', target, flows },
      interval: Math.max(CODEL_INTERVAL, target + CODEL_INTERVAL - CODEL_TARGET),
    },
    { kind: 'bfifo', limit: Math.max(FIFO_LEAST, Math.ceil(ceil * FIFO_TIME)) },
  ];
}

/**
 * The first minor number of each limit. It depends on the name, so that a limit keeps its class while others come and
 * go; where two names meet, the later in the alphabet gets the next free number.
 */
function minorNumbers(limits: readonly Limit[]): Map<Limit, number> {
  const numbers = new Map<Limit, number>();
  const taken = new Set<number>();
  const sorted = limits.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  for (const limit of sorted) {
    const places = limit.perSource ? MOST_RINGS : FIRST_RING - FIRST_SINGLE;
    const number = (place: number): number =>
      limit.perSource ? FIRST_RING + place * RING : FIRST_SINGLE + place;
    let place = hash(limit.name) % places;
    for (let tries = 0; tries < places && taken.has(number(place)); tries++) place = (place + 1) % places;
    taken.add(number(place));
    numbers.set(limit, number(place));
  }
  return numbers;
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return value;
}
