import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import t from 'tap';
import { GroupThread } from '../../../agent/group/thread.ts';
import type { Log } from '../../../lib/log.ts';

const PROGRAM = `
  const { GroupThread } = await import(${JSON.stringify(join(import.meta.dirname, '../../../agent/group/thread.ts'))});
  const log = { error() {}, warn() {}, info() {}, debug() {} };
  const thread = new GroupThread({ log, report() {}, answer: async () => ({ status: 200, body: '' }) });
  process.on('worker', (worker) =>
    worker.once('online', async () => {
      console.log((await worker.getHeapStatistics()).heap_size_limit / 2 ** 20);
      await thread.stop();
    }));
  await thread.configure({ configs: [], port: 10667, credentials: {} });`;

t.test(
  'the thread has a smaller heap than the main thread, whatever flag Node was started with',
  async (t) => {
    const limitWith = (...flags: string[]) =>
      Number(
        execFileSync(process.execPath, [...flags, '--input-type=module', '-e', PROGRAM], {
          encoding: 'utf8',
        }),
      );
    const small = limitWith('--max-old-space-size=24', '--max-semi-space-size=1');
    t.ok(small >= 12 && small < 20, `${small} MiB in a container of 64 MiB`);
    const large = limitWith('--max-old-space-size=96', '--max-semi-space-size=4');
    t.ok(large > 40 && large < 96, `${large} MiB in a container of 256 MiB`);
  },
);

t.test('a thread that cannot be started is started again', async (t) => {
  const errors: string[] = [];
  const note: Log['error'] = (_: unknown, message?: string) => void errors.push(message ?? '');
  const log = { error: note, warn: note, info: note, debug: note };
  const thread = new GroupThread({ log, report() {}, answer: async () => ({ status: 200, body: '' }) });
  class Refused {
    constructor() {
      throw new Error('Worker initialization failure: EAGAIN');
    }
  }
  const modules = t.intercept(process, 'getBuiltinModule', { value: () => ({ Worker: Refused }) });
  await thread.configure({ configs: [], port: 10_667, credentials: { keyFile: '/nowhere' } });
  modules.restore();
  const started = once(process, 'worker');
  t.same(errors, ['exchange of the group failed', 'exchange of the group ended, restarting']);
  await started;
  await thread.stop();
});
