import t from 'tap';
import { address } from '../../lib/prefix.ts';
import { RTPROT_VEG_AGENT } from '../../routing/numbers.ts';
import { formatProxy, parseProxy, proxyDump } from '../../routing/parse.ts';
import { diffProxies, type ProxyNeighbour } from '../../routing/proxies.ts';
import { renderStep } from '../../routing/render.ts';

const SHARED: ProxyNeighbour = { family: 4, address: address('172.17.0.50'), dev: 'net1' };
const SHARED_6: ProxyNeighbour = { family: 6, address: address('fd00:172:17::50'), dev: 'net1' };
const OURS = { protocol: RTPROT_VEG_AGENT };
const nameOf = (ifindex: number) => (ifindex === 3 ? 'net1' : undefined);

t.test('what is missing is added, what is ours and no longer wanted is removed', async (t) => {
  const steps = diffProxies({ proxies: [{ ...SHARED, ...OURS }] }, [SHARED_6]);
  t.strictSame(steps.map(renderStep), [
    'ip neigh del proxy 172.17.0.50 dev net1',
    `ip -6 neigh add proxy fd00:172:17::50 dev net1 proto ${RTPROT_VEG_AGENT}`,
  ]);
  t.strictSame(diffProxies({ proxies: [{ ...SHARED, ...OURS }] }, [SHARED]), []);
  t.strictSame(diffProxies({}, []), []);
});

t.test('a foreign entry satisfies the agent, and stays', async (t) => {
  t.strictSame(diffProxies({ proxies: [{ ...SHARED, protocol: 0 }] }, [SHARED]), []);
  t.strictSame(diffProxies({ proxies: [{ ...SHARED, protocol: 0 }] }, []), []);
  const elsewhere = { ...SHARED, dev: 'eth0', protocol: 0 };
  t.equal(diffProxies({ proxies: [elsewhere] }, [SHARED]).length, 1, 'on another link it does not');
});

t.test('an entry goes into the kernel and comes back, in both families', async (t) => {
  for (const proxy of [SHARED, SHARED_6]) {
    const bytes = Buffer.from(formatProxy(proxy, 3));
    t.strictSame(parseProxy(bytes, nameOf), { ...proxy, ...OURS });
    t.equal(parseProxy(Buffer.from(formatProxy(proxy, 9)), nameOf)?.dev, 'if9', 'a link without a name');
  }
});

t.test('neighbours, other families and entries without an address are no proxies', async (t) => {
  const bytes = Buffer.from(formatProxy(SHARED, 3));
  const neighbour = Buffer.from(bytes);
  neighbour.writeUInt8(0, 10);
  t.equal(parseProxy(neighbour, nameOf), undefined);
  const bridge = Buffer.from(bytes);
  bridge.writeUInt8(7, 0);
  t.equal(parseProxy(bridge, nameOf), undefined);
  t.equal(parseProxy(Buffer.from(proxyDump(4)), nameOf), undefined);
});
