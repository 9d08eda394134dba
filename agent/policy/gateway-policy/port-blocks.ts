/** What must be true of a policy with `portBlockSize`: every source has a block, and nothing else its ports. Pure. */

import {
  type Address,
  addressBits,
  FAMILIES,
  type Family,
  familyOf,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixLength,
} from '../../../lib/prefix.ts';
import { BLOCK_PORTS, capacity, MAX_BLOCKS, sourceCount } from '../../../nat/port-blocks.ts';
import type { PolicyDocument } from '../documents.ts';
import type { EgressRule, Policy } from '../model.ts';
import { PrefixIndex } from '../overlap.ts';
import type { Path } from '../parse.ts';
import { quote } from '../quote.ts';
import { each, familyName } from '../resolve.ts';
import type { GatewayPolicy } from './resource.ts';

/** Checks one policy that has port blocks. */
export function checkPortBlocks(document: GatewayPolicy, path: Path, rule: EgressRule): void {
  const { ipBlocks, egressIP, portBlockSize: size } = rule;
  const field = [...path, 'portBlockSize'];
  if (size === undefined || !document.sound) return;
  if (ipBlocks.length === 0) {
    document.fail(field, 'needs ipBlocks: each source gets ports of its own', 'key');
    return;
  }
  if (egressIP === undefined) {
    document.fail(field, 'needs egressIP: it is the ports of its addresses that are divided', 'key');
    return;
  }
  checkDisjoint(document, path);
  for (const family of FAMILIES) {
    const sources = ipBlocks.filter((block) => familyOf(block) === family);
    const addresses = egressIP.addresses.filter((address) => familyOf(address) === family).length;
    if (addresses > 0) checkFit(document, field, { family, sources, addresses, size });
  }
}

/** Reports sources that are more than there are blocks. */
function checkFit(
  document: PolicyDocument,
  field: Path,
  given: { family: Family; sources: Prefix[]; addresses: number; size: number },
): void {
  const { family, sources, addresses, size } = given;
  const count = sourceCount(sources);
  const blocks = capacity(addresses, size);
  const fit = Math.min(blocks, MAX_BLOCKS);
  if (count <= fit) return;
  const name = familyName(family);
  const has = addresses === 1 ? 'one egress address has' : `${addresses} egress addresses have`;
  const limit =
    fit < blocks
      ? `at most ${fit} blocks are made`
      : `${has} ${blocks} blocks of ${size} of ${BLOCK_PORTS} ports`;
  const whole = addressBits(family) - Math.floor(Math.log2(fit));
  document.fail(
    field,
    `${name} sources: ipBlocks hold ${countText(count)}, and ${limit}; ${fit} sources fit, such as a /${whole}`,
  );
}

/** A number of addresses; a power of two as such when it is large. */
const countText = (count: number): string =>
  count <= 2 ** 32
    ? `${count}`
    : `${Number.isInteger(Math.log2(count)) ? '' : 'about '}2^${Math.round(Math.log2(count))}`;

/** Reports blocks of sources that lie in each other: a source has one place in the list. */
function checkDisjoint(document: GatewayPolicy, path: Path): void {
  const { ipBlocks } = document.value.spec!.policies![path.at(-1) as number]!;
  const blocks = each(ipBlocks, (text, i) => ({ i, block: parsePrefix(text)! }));
  const wider = new PrefixIndex<{ i: number; block: Prefix }>();
  for (const one of blocks.toSorted((a, b) => prefixLength(a.block) - prefixLength(b.block))) {
    const [around] = wider.holding(one.block);
    wider.add(one.block, one);
    if (around === undefined || around.block === one.block) continue;
    const place = [...path, 'ipBlocks', Math.max(around.i, one.i)];
    document.fail(place, `${one.block} lies in ${around.block}: a source can have only one block of ports`);
  }
}

/**
 * Reports egress addresses with port blocks that are used for something else: its connections would take ports that
 * belong to a source. `first` is the place of the document's first policy among the rules.
 */
export function checkNotShared(document: PolicyDocument, policy: Policy, first: number): void {
  const users = new Map<Address, { what: string; rule?: EgressRule }[]>();
  const use = (address: Address, user: { what: string; rule?: EgressRule }): void => {
    const list = users.get(address) ?? [];
    users.set(address, list);
    list.push(user);
  };
  for (const { externalIP, internalIP } of policy.eips ?? [])
    use(externalIP, { what: `the EIP of ${internalIP}` });
  policy.rules.forEach((rule) => {
    for (const address of rule.egressIP?.addresses ?? []) {
      use(address, { what: `an egress address of policy ${quote(rule.name)}`, rule });
    }
  });
  policy.rules.forEach((rule, at) => {
    if (rule.portBlockSize === undefined) return;
    for (const address of rule.egressIP?.addresses ?? []) {
      const other = users.get(address)!.find((user) => user.rule !== rule);
      if (other === undefined) continue;
      const path = ['spec', 'policies', at - first, 'egressIP', 'address'];
      const texts = (document as GatewayPolicy).value.spec?.policies?.[at - first]?.egressIP?.address ?? [];
      document.fail(
        [...path, texts.findIndex((text) => parseAddress(text) === address)],
        `${address} is ${other.what} as well; an address with port blocks cannot be shared`,
      );
    }
  });
}
