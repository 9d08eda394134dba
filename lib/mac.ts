/** Ethernet addresses as text, `02:42:ac:11:00:02`, and as octets. Pure. */
import { type Address, addressBytes } from './prefix.ts';

export const MAC_BROADCAST = 'ff:ff:ff:ff:ff:ff';
/** In an ARP request, the address that is asked for. */
export const MAC_ZERO = '00:00:00:00:00:00';

/** The six octets of an address. Throws `TypeError` for anything else. */
export function macBytes(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(text)) throw new TypeError(`not an Ethernet address: ${text}`);
  return Uint8Array.from(text.split(':'), (octet) => Number.parseInt(octet, 16));
}

/** The text of six octets. */
export const macText = (octets: Uint8Array): string =>
  Array.from(octets, (octet) => octet.toString(16).padStart(2, '0')).join(':');

/** Where Ethernet delivers an IPv6 multicast address (RFC 2464 7). */
export const multicastMac = (address: Address): string =>
  macText(Uint8Array.of(0x33, 0x33, ...addressBytes(address).subarray(12)));
