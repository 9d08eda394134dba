import t from 'tap';
import { attribute, formatDatagram, nfgenHeader, u8 } from '../../lib/netlink-codec.ts';
import { SetHeaders, type SetLibc } from '../../nat/set-headers.ts';

const IPSET_LIST = 0x607;
const [ERROR, DONE] = [2, 3];
const message = (type: number, data: Uint8Array): Buffer => formatDatagram([{ type, flags: 0, data }], 0, 0);
const header = (name: string): Buffer =>
  message(
    IPSET_LIST,
    Buffer.concat([nfgenHeader(2), attribute(1, u8(6)), attribute(2, Buffer.from(`${name}\0`))]),
  );
const done = message(DONE, Buffer.alloc(4));

/** A kernel that answers a dump with these datagrams, and then would block. */
function fake(...datagrams: Buffer[]) {
  const kernel = { open: 0, sent: 0 };
  let replies: Buffer[] = [];
  const libc: SetLibc = {
    socket: () => ++kernel.open,
    close: () => void kernel.open--,
    sendto(_, data) {
      kernel.sent++;
      replies = [...datagrams];
      return data.length;
    },
    recv(_, data) {
      const next = replies.shift();
      if (next === undefined) return -11;
      data.set(next);
      return next.length;
    },
  };
  return { kernel, headers: new SetHeaders(libc) };
}

t.test('only sets of the agent count', (t) => {
  t.equal(fake(header('OTHER'), done).headers.exist(), false);
  t.equal(fake(Buffer.concat([header('OTHER'), header('VEG-FORWARD-4')]), done).headers.exist(), true);
  t.end();
});

t.test('without a complete dump it is unknown whether there are sets', (t) => {
  t.equal(fake(message(ERROR, Buffer.alloc(20))).headers.exist(), undefined, 'refused');
  t.equal(fake(header('OTHER')).headers.exist(), undefined, 'cut off');
  const broken = new SetHeaders({
    socket() {
      throw new Error('EPROTONOSUPPORT');
    },
    close() {},
    sendto: () => -1,
    recv: () => -1,
  });
  t.equal(broken.exist(), undefined, 'no netlink');
  t.end();
});

t.test('a dump that was cut off does not leave its socket to the next one', (t) => {
  const { kernel, headers } = fake(header('OTHER'));
  headers.exist();
  t.equal(kernel.open, 0);
  headers.exist();
  t.equal(kernel.sent, 2);
  t.end();
});
