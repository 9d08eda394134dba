/** One TCP connection over which one end sends as fast as it can, and what the other one gets: both in namespaces. */
import { type Namespace, NODE, URGENTLY, until } from './netns.ts';

/**
 * One end: `listen PORT` or `connect HOST PORT FROM`, and `send MS` or `count`. Both print the processor time that they took, ms, what
 * counts also the octets, and the time between the first and the last of them, ms.
 */
const END = `
  const { connect, createServer } = require('node:net');
  const [what, ...rest] = process.argv.slice(1);
  const block = Buffer.alloc(1 << 18);
  let before;
  const end = (result) => {
    const { user, system } = process.cpuUsage(before);
    console.log(JSON.stringify({ ...result, cpuMs: (user + system) / 1000 }));
    process.exit();
  };
  const run = (socket) => {
    before = process.cpuUsage();
    const [does, ms] = rest.slice(what === 'listen' ? 1 : 3);
    let [octets, first, last] = [0, 0, 0];
    socket.on('error', () => {});
    if (does === 'send') {
      const more = () => { while (!socket.destroyed && socket.write(block)); };
      socket.on('drain', more);
      more();
      setTimeout(() => (socket.destroy(), end({})), Number(ms));
    } else {
      socket.on('data', (data) => {
        last = performance.now();
        if (first === 0) first = last;
        octets += data.length;
      });
      socket.on('close', () => end({ octets, ms: last - first }));
    }
  };
  if (what === 'listen') createServer(run).listen(Number(rest[0]), '::', () => console.log('ready'));
  else {
    const [host, port, localAddress] = rest;
    const socket = connect({ host, port, ...(localAddress && { localAddress }) }, () => run(socket));
    socket.on('error', () => process.exit(1));
  }`;

export interface Bulk {
  octets: number;
  ms: number;
  /** Processor time of both ends, with what the kernel does for them, ms. */
  cpuMs: number;
}

/** Payload, bits per second. */
export const rateOf = ({ octets, ms }: Pick<Bulk, 'octets' | 'ms'>): number => (octets * 8 * 1000) / ms;

let nextPort = 20_000;

export interface BulkOptions {
  /** The address of the other end. */
  host: string;
  /** How long it sends. */
  ms: number;
  /** The address of the end that connects. */
  source?: string;
  /** The end that connects counts, the other one sends. */
  back?: boolean;
}

/** Connects from one namespace to the other and sends for some time. Returns what arrived. */
export async function bulk(
  from: Namespace,
  to: Namespace,
  { host, ms, source = '', back = false }: BulkOptions,
): Promise<Bulk> {
  const port = `${nextPort++}`;
  const [file, ...urgently] = URGENTLY;
  const spawn = (ns: Namespace, name: string, args: string[]) =>
    ns.spawn(file!, [...urgently, NODE, '-e', END, ...args], { name });
  const does = (sends: boolean) => (sends ? ['send', `${ms}`] : ['count']);
  const listener = spawn(to, 'listener', ['listen', port, ...does(back)]);
  await until(() => listener.log().includes('ready'), { what: 'the other end listens' });
  const connector = spawn(from, 'connector', ['connect', host, port, source, ...does(!back)]);
  const [counting, sending] = back ? [connector, listener] : [listener, connector];
  for (const daemon of [counting, sending]) await daemon.ended();
  const [received, sent] = [counting, sending].map((daemon) => /^\{.*\}$/m.exec(daemon.log())?.[0]);
  if (received === undefined || sent === undefined) {
    throw new Error(`nothing arrived: ${connector.log()}${listener.log()}`);
  }
  const { octets, ms: took, cpuMs } = JSON.parse(received) as Bulk;
  return { octets, ms: took, cpuMs: cpuMs + (JSON.parse(sent) as Bulk).cpuMs };
}
