// What the agent does not obey yet is refused, unless it asks for nothing.
import t from 'tap';
import { UNSUPPORTED } from '../../../agent/policy/unsupported.ts';
import { GATEWAY, printed } from './support.ts';

/** For each entry of the table: lines that ask for it with the field's place, and lines that do not. */
const CASES: Record<string, { asks: [string, string][]; harmless: string[] }> = {
  'spec.policies[].portBlockSize': {
    asks: [
      [
        '  policies: [{ ipBlocks: [10.17.0.0/16], portBlockSize: 64 }]\n',
        '7:42: spec.policies[0].portBlockSize',
      ],
    ],
    harmless: ['  policies: [{ portBlockSize: 0 }]\n'],
  },
};

for (const { field } of UNSUPPORTED.GatewayPolicy!) {
  t.test(field, async (t) => {
    const { asks, harmless } = CASES[field]!;
    for (const [lines, place] of asks) {
      t.same(printed({ 'a.yaml': `${GATEWAY}${lines}` }), [
        `a.yaml:${place}: not supported by this version of veg-agent`,
      ]);
    }
    for (const lines of harmless) t.same(printed({ 'a.yaml': `${GATEWAY}${lines}` }), [], lines);
  });
}
