import t from 'tap';
import { attribute, nest, u32Be, zeroEnded } from '../../lib/netlink-codec.ts';
import {
  elementMessages,
  expression,
  isOfTable,
  isPartOf,
  nftValue,
  nftVerdict,
  numbers,
} from '../../lib/nft-codec.ts';

const rule = (...expressions: Buffer[]): Buffer => nest(4, ...expressions);
const meta = expression('meta', ...numbers(1, 3));

t.test('what the kernel adds to an object does not make it another one', async (t) => {
  const dumped = Buffer.concat([
    attribute(3, Buffer.alloc(8)),
    rule(expression('meta', ...numbers(1, 3), attribute(9, u32Be(7)))),
  ]);
  t.ok(isPartOf(rule(meta), dumped));
});

t.test('a missing, another, an additional or a moved expression makes it another one', async (t) => {
  const drop = expression('immediate', ...numbers(0), nftVerdict(2, 0));
  const written = rule(meta, drop);
  t.ok(isPartOf(written, rule(meta, drop)));
  t.notOk(isPartOf(written, rule(meta)));
  t.notOk(isPartOf(written, rule(meta, expression('immediate', ...numbers(0), nftVerdict(2, 1)))));
  t.notOk(isPartOf(written, rule(meta, drop, drop)));
  t.notOk(isPartOf(written, rule(drop, meta)));
  t.notOk(isPartOf(written, Buffer.alloc(0)));
});

t.test('a damaged dump is another object', async (t) => {
  t.notOk(isPartOf(rule(meta), rule(meta).subarray(0, 9)));
  t.notOk(isPartOf(nftValue(3, zeroEnded('a')), Buffer.alloc(12)));
});

t.test('a verdict that leads to a chain names it', async (t) => {
  t.notOk(isPartOf(nftVerdict(2, -3, 'a'), nftVerdict(2, -3, 'b')));
  t.ok(isPartOf(nftVerdict(2, -3, 'a'), nftVerdict(2, -3, 'a')));
});

t.test('elements are split so that none of their messages is too long', async (t) => {
  const table = attribute(1, zeroEnded('VEG-X'));
  const elements = Array.from({ length: 1001 }, (_, i) => nest(1, nftValue(1, u32Be(i))));
  const messages = [...elementMessages(1, table, 'numbers', elements)];
  t.equal(messages.length, 3);
  t.ok(messages.every(({ data }) => isOfTable(Buffer.from(data), 'VEG-X', 4)));
  t.same([...elementMessages(1, table, 'numbers', [])], []);
});

t.test('an object of another table, or of none, is not of this one', async (t) => {
  const named = (name: string) =>
    Buffer.concat([attribute(3, zeroEnded('forward')), attribute(1, zeroEnded(name))]);
  t.ok(isOfTable(named('VEG-X'), 'VEG-X'));
  t.notOk(isOfTable(named('VEG-XY'), 'VEG-X'));
  t.notOk(isOfTable(attribute(3, zeroEnded('VEG-X')), 'VEG-X'));
});
