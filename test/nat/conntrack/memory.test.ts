/** What looks at all flows at once has room for it in the heap of the thread, whoever talks to whom. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import t from 'tap';

/** The heap in agent/flows/translations.ts; an object or a string a flow for four times its flows would not fit into it. */
const HEAP = { maxOldGenerationSizeMb: 24, maxYoungGenerationSizeMb: 4, stackSizeMb: 1 };

for (const look of ['the sources', 'a range of ports without end', 'port blocks', 'ports in use']) {
  t.test(`${look} of 262 144 flows`, async (t) => {
    const thread = new URL('memory-look.ts', import.meta.url);
    const worker = new Worker(thread, { workerData: look, resourceLimits: HEAP, execArgv: [] });
    t.same(await once(worker, 'exit'), [0]);
  });
}
