/** The sockets to the kernel: opened, shared and closed, or not at all. */
import { readdirSync } from 'node:fs';
import t from 'tap';
import { createKernels } from '../../agent/kernels.ts';
import { NetlinkSocket } from '../../lib/netlink.ts';

const openFiles = (): number => readdirSync('/proc/self/fd').length;

t.test('opening and closing leaves no file open, and no handler', async (t) => {
  const options = { stateDir: t.testdir(), networkStatus: '/nonexistent' };
  // What is opened once and kept: koffi, /proc.
  createKernels(options).close();
  const [files, handlers] = [openFiles(), process.listenerCount('SIGURG')];
  for (let i = 0; i < 20; i++) createKernels(options).close();
  t.equal(openFiles(), files);
  t.equal(process.listenerCount('SIGURG'), handlers);
});

t.test('without a netlink socket (EMFILE) it throws, and leaves nothing open', async (t) => {
  const options = { stateDir: t.testdir(), networkStatus: '/nonexistent' };
  const [files, handlers] = [openFiles(), process.listenerCount('SIGURG')];
  t.throws(
    () =>
      createKernels(options, () => {
        throw Object.assign(new Error('socket: EMFILE'), { code: 'EMFILE' });
      }),
    { code: 'EMFILE' },
  );
  t.equal(openFiles(), files);
  t.equal(process.listenerCount('SIGURG'), handlers);
});

t.test(
  'routing is read through the one socket, and nf_tables opens one only when port blocks need it',
  async (t) => {
    const opened: number[] = [];
    const kernels = createKernels({ stateDir: t.testdir(), networkStatus: '/nonexistent' }, (protocol) => {
      opened.push(protocol);
      return new NetlinkSocket(protocol);
    });
    t.teardown(() => kernels.close());
    const observed = await kernels.routing.observe();
    t.ok(observed.links.some(({ name }) => name === 'lo'));
    t.match(await kernels.facts(observed), { networks: [], links: observed.links });
    t.same(kernels.neighbours.permanent(), []);
    t.same(opened, [0]);
  },
);
