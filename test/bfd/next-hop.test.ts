/** The questions for a next hop's Ethernet address, their answers, and whom to believe. */
import t from 'tap';
import {
  advertisementAnswer,
  arpAnswer,
  arpRequest,
  believed,
  macOctets,
  solicitation,
  solicitedNodeOf,
} from '../../bfd/next-hop.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const OWN_MAC = macOctets('02:00:00:00:00:12');

t.test('RFC 826: the request, and the reply that answers it', async (t) => {
  const question = { ownMac: OWN_MAC, own: hex('0a10000c'), target: hex('0a100001') };
  t.equal(
    arpRequest(question).toString('hex'),
    hex('0001 0800 0604 0001 020000000012 0a10000c 000000000000 0a100001').toString('hex'),
  );
  const reply = '0001 0800 0604 0002 020000000001 0a100001 020000000012 0a10000c';
  t.equal(arpAnswer(hex(reply), question), '02:00:00:00:00:01');
  t.equal(arpAnswer(hex(`${reply} 0000`), question), '02:00:00:00:00:01', 'with Ethernet’s padding');
  for (const [what, other] of [
    ['a request', reply.replace('0604 0002', '0604 0001')],
    ['of somebody else', reply.replace('0a100001', '0a100002')],
    ['to somebody else', reply.replace('0a10000c', '0a10000d')],
    ['not for IPv4', reply.replace('0800', '86dd')],
    ['cut off', reply.slice(0, -2)],
  ] as const) {
    t.equal(arpAnswer(hex(other), question), undefined, what);
  }
});

t.test('RFC 4861: the solicitation, and the advertisement that answers it', async (t) => {
  const target = hex('fd000010001600000000000000000001');
  const question = { ownMac: OWN_MAC, own: hex('fd000010001600000000000000000012'), target };
  t.equal(
    solicitation(question).toString('hex'),
    hex(`87000000 00000000 ${target.toString('hex')} 0101 020000000012`).toString('hex'),
  );
  t.equal(solicitedNodeOf(target), 'ff02::1:ff00:0001');
  const answer = `8800abcd e0000000 ${target.toString('hex')} 0201 020000000001`;
  t.equal(advertisementAnswer(hex(answer), question), '02:00:00:00:00:01');
  for (const [what, other] of [
    ['not asked for', answer.replace('e0000000', 'a0000000')],
    ['of another target', answer.replace('00000001 0201', '00000002 0201')],
    ['without an address', answer.replace('0201', '0e01')],
    ['with an option of length 0', answer.replace('0201', '0200')],
    ['cut off', answer.slice(0, 40)],
  ] as const) {
    t.equal(advertisementAnswer(hex(other), question), undefined, what);
  }
});

t.test('who answers as before is believed, whoever else answers; who does not is replaced', async (t) => {
  t.same(believed([], []), []);
  t.same(believed([], ['a']), ['a']);
  t.same(believed(['a'], []), ['a'], 'silence is no news');
  t.same(believed(['a'], ['b', 'a']), ['a']);
  t.same(believed(['a'], ['b']), ['b']);
  t.same(believed(['a'], ['b', 'c']), ['b', 'c'], 'nobody can tell which');
  t.same(believed(['b', 'c'], ['c']), ['c'], 'until one goes silent');
});
