// The devices of EVPN mode: which steps lead to them, as `ip link` commands, and their messages.
import t from 'tap';
import { address } from '../../lib/prefix.ts';
import { diffLinks, type VpnLinks } from '../../routing/links.ts';
import { formatDelLink, formatLinkChange, formatNewLink, parseLink } from '../../routing/parse.ts';
import { renderStep } from '../../routing/render.ts';
import type { Device, Link } from '../../routing/state.ts';

const WANTED: VpnLinks = { internal: 'eth0', vni: 1016, local: address('172.17.0.11'), mtu: 1500 };
const VXLAN: Device = {
  ...{ kind: 'vxlan', vni: 1016, local: address('172.17.0.11'), port: 4789, learning: false },
};
const link = (index: number, name: string, more: Partial<Link> = {}): Link => ({
  ...{ index, name, up: true, carrier: true, mtu: 1500, mac: '', ...more },
});
const POD = [link(2, 'eth0'), link(3, 'net1')];
/** The devices as they have to be. */
const MADE: Link[] = [
  link(2, 'eth0', { master: 10 }),
  link(3, 'net1'),
  link(10, 'vrf-vpn', { group: 178, device: { kind: 'vrf', table: 2000 }, mtu: 65_575 }),
  link(11, 'br-vpn', { group: 178, device: { kind: 'bridge' }, master: 10, mtu: 1450 }),
  link(12, 'vxlan-vpn', { group: 178, device: VXLAN, master: 11, mtu: 1450 }),
];
const lines = (observed: readonly Link[], wanted = WANTED): string[] =>
  diffLinks(observed, wanted, 4).map(renderStep);
/** The same where none is wanted. */
const linesAfter = (observed: readonly Link[]): string[] => diffLinks(observed, undefined, 4).map(renderStep);
/** The devices with one of them changed; undefined: gone. */
const changed = (name: string, more: Partial<Link> | undefined): Link[] =>
  MADE.flatMap((one) => (one.name === name ? (more === undefined ? [] : [{ ...one, ...more }]) : [one]));

const ADD = {
  vrf: 'ip link add vrf-vpn group 178 up type vrf table 2000',
  bridge: 'ip link add br-vpn group 178 master vrf-vpn up type bridge',
  vxlan:
    'ip link add vxlan-vpn mtu 1450 group 178 master br-vpn up type vxlan id 1016 dstport 4789 local 172.17.0.11 nolearning',
};

t.test('each is made after the one that it belongs to, and what is there needs nothing', async (t) => {
  t.strictSame(lines(POD), [ADD.vrf, ADD.bridge, ADD.vxlan, 'ip link set eth0 master vrf-vpn']);
  t.strictSame(lines(MADE), []);
});

t.test('IPv6 outside has a longer header', async (t) => {
  const [, , vxlan] = lines(POD, { ...WANTED, local: address('fd00:172:17::11') });
  t.match(vxlan, /mtu 1430 .* local fd00:172:17::11 /);
});

t.test('drift: what is gone is made, and takes its members back', async (t) => {
  t.strictSame(lines(changed('vxlan-vpn', undefined)), [ADD.vxlan]);
  t.strictSame(lines(changed('br-vpn', undefined)), [ADD.bridge, 'ip link set vxlan-vpn master br-vpn']);
  t.strictSame(lines(changed('vrf-vpn', undefined)), [
    ADD.vrf,
    'ip link set br-vpn master vrf-vpn',
    'ip link set eth0 master vrf-vpn',
  ]);
});

t.test('drift: what has been changed is changed back', async (t) => {
  const { master: _, ...free } = MADE[0]!;
  t.strictSame(lines([free, ...MADE.slice(1)]), ['ip link set eth0 master vrf-vpn']);
  t.strictSame(lines(changed('eth0', { master: 3 })), ['ip link set eth0 master vrf-vpn']);
  t.strictSame(lines(changed('vxlan-vpn', { up: false, mtu: 1500 })), ['ip link set vxlan-vpn mtu 1450 up']);
  t.strictSame(lines(changed('vrf-vpn', { up: false })), ['ip link set vrf-vpn up']);
});

t.test('a device with other properties is made anew', async (t) => {
  for (const other of [{ vni: 7 }, { port: 8472 }, { learning: true }, { local: address('172.17.0.12') }]) {
    t.strictSame(
      lines(changed('vxlan-vpn', { device: { ...VXLAN, ...other } as Device })),
      ['ip link del vxlan-vpn', ADD.vxlan],
      JSON.stringify(other),
    );
  }
  t.strictSame(lines(changed('vrf-vpn', { device: { kind: 'vrf', table: 7 } })), [
    'ip link del vrf-vpn',
    ADD.vrf,
    'ip link set br-vpn master vrf-vpn',
    'ip link set eth0 master vrf-vpn',
  ]);
});

t.test('a device of another program is neither used nor removed', async (t) => {
  const foreign = changed('vrf-vpn', { group: 0 });
  t.ok(lines(foreign).includes(ADD.vrf), 'the kernel refuses ours beside it');
  t.notOk(lines(foreign).includes('ip link del vrf-vpn'));
  t.strictSame(linesAfter(foreign), ['ip link del vxlan-vpn', 'ip link del br-vpn']);
  t.strictSame(linesAfter([...POD, link(9, 'vrf-blue', { group: 178, device: { kind: 'bridge' } })]), []);
});

t.test('all go when they are not wanted', async (t) => {
  t.strictSame(linesAfter(MADE), ['ip link del vxlan-vpn', 'ip link del br-vpn', 'ip link del vrf-vpn']);
  t.strictSame(linesAfter(POD), []);
});

t.test('what is written reads back the same', async (t) => {
  const devices: Device[] = [
    { kind: 'vrf', table: 2000 },
    { kind: 'bridge' },
    VXLAN,
    { ...VXLAN, local: address('fd00:172:17::11'), vni: 16_777_215, learning: true } as Device,
  ];
  for (const device of devices) {
    const data = formatNewLink({ name: 'x-vpn', device, mtu: 1450 }, 7);
    const read = parseLink(Buffer.from(data));
    t.match(read, { name: 'x-vpn', mtu: 1450, master: 7, group: 178, up: true });
    t.strictSame(read?.device, device);
  }
  const change = parseLink(Buffer.from(formatLinkChange({ mtu: 1450 }, 12, 11)));
  t.match(change, { index: 12, mtu: 1450, master: 11, up: false });
  t.match(parseLink(Buffer.from(formatLinkChange({ up: true }, 12, undefined))), { index: 12, up: true });
  t.match(parseLink(Buffer.from(formatDelLink(12))), { index: 12, up: false });
});

t.test('an address that is not set is reported as zeros', async (t) => {
  const zeros = parseLink(
    Buffer.from(
      formatNewLink({ name: 'v', device: { ...VXLAN, local: address('0.0.0.0') } as Device }, undefined),
    ),
  );
  t.strictSame(zeros?.device, { kind: 'vxlan', vni: 1016, port: 4789, learning: false });
});
