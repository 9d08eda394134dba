/** The question for a next hop's Ethernet address, its answer, and which address to trust. */
import t from 'tap';
import { answerTo, encodeQuestion, trusted } from '../../bfd/next-hop.ts';
import { address } from '../../lib/prefix.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const OWN_MAC = '02:00:00:00:00:12';

t.test('RFC 826: the request, and the reply that answers it', async (t) => {
  const question = { ownMac: OWN_MAC, own: address('10.16.0.12'), target: address('10.16.0.1') };
  t.equal(
    encodeQuestion(question).toString('hex'),
    hex('0001 0800 0604 0001 020000000012 0a10000c 000000000000 0a100001').toString('hex'),
  );
  const reply = '0001 0800 0604 0002 020000000001 0a100001 020000000012 0a10000c';
  t.equal(answerTo(question, hex(reply)), '02:00:00:00:00:01');
  t.equal(answerTo(question, hex(`${reply} 0000`)), '02:00:00:00:00:01', 'with Ethernet’s padding');
  for (const [what, other] of [
    ['a request', reply.replace('0604 0002', '0604 0001')],
    ['from another address', reply.replace('0a100001', '0a100002')],
    ['to another address', reply.replace('0a10000c', '0a10000d')],
    ['not for IPv4', reply.replace('0800', '86dd')],
    ['cut off', reply.slice(0, -2)],
  ] as const) {
    t.equal(answerTo(question, hex(other)), undefined, what);
  }
});

t.test('RFC 4861: the solicitation, and the advertisement that answers it', async (t) => {
  const question = { ownMac: OWN_MAC, own: address('fd00:10:16::12'), target: address('fd00:10:16::1') };
  const target = 'fd000010001600000000000000000001';
  t.equal(
    encodeQuestion(question).toString('hex'),
    hex(`87000000 00000000 ${target} 0101 020000000012`).toString('hex'),
  );
  const answer = `8800abcd e0000000 ${target} 0201 020000000001`;
  t.equal(answerTo(question, hex(answer)), '02:00:00:00:00:01');
  for (const [what, other] of [
    ['unsolicited', answer.replace('e0000000', 'a0000000')],
    ['of another target', answer.replace('00000001 0201', '00000002 0201')],
    ['without an address', answer.replace('0201', '0e01')],
    ['with an option of length 0', answer.replace('0201', '0200')],
    ['with a code', answer.replace('8800', '8801')],
    ['cut off', answer.slice(0, 40)],
  ] as const) {
    t.equal(answerTo(question, hex(other)), undefined, what);
  }
});

t.test('the trusted address stays while it answers, and is replaced when only others do', async (t) => {
  t.same(trusted([], []), []);
  t.same(trusted([], ['a']), ['a']);
  t.same(trusted(['a'], []), ['a'], 'silence changes nothing');
  t.same(trusted(['a'], ['b', 'a']), ['a']);
  t.same(trusted(['a'], ['b']), ['b']);
  t.same(trusted(['a'], ['b', 'c']), ['b', 'c'], 'it is unknown which');
  t.same(trusted(['b', 'c'], ['c']), ['c'], 'until one goes silent');
});
