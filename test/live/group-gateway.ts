/**
 * What group-forwarding.test.ts runs in a gateway: reads an `Input` on stdin, makes NAT, routing and proxies as it says, and
 * prints the steps that it took and those that are left.
 */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { exec } from '../../lib/exec.ts';
import { NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { FAMILIES } from '../../lib/prefix.ts';
import { desiredNat, type NatIntent } from '../../nat/desired.ts';
import { diffNat } from '../../nat/diff.ts';
import { createNatKernel } from '../../nat/kernel.ts';
import { createPortKernel } from '../../nat/port-kernel.ts';
import { commandLines } from '../../nat/render.ts';
import { desiredRouting, type RoutingIntent } from '../../routing/desired.ts';
import { diffRouting } from '../../routing/diff.ts';
import { createRoutingKernel } from '../../routing/kernel.ts';
import { diffProxies, type ProxyNeighbour } from '../../routing/proxies.ts';
import { renderStep } from '../../routing/render.ts';

export interface Input {
  nat: NatIntent;
  routing: RoutingIntent;
  proxies: ProxyNeighbour[];
}

export interface Outcome {
  steps: string[];
  left: string[];
}

if (import.meta.main) {
  const { nat, routing, proxies } = JSON.parse(readFileSync(0, 'utf8')) as Input;
  const netfilter = new NetlinkSocket(Protocol.NETFILTER);
  const ports = createPortKernel(() => netfilter);
  const natKernel = createNatKernel({ exec, readFile: (path) => readFile(path, 'utf8'), ports });
  const routingKernel = createRoutingKernel(new NetlinkSocket(Protocol.ROUTE));
  const reconcile = async (): Promise<string[]> => {
    const natSteps = diffNat(
      await natKernel.observe({ families: FAMILIES, ports: FAMILIES }),
      desiredNat(nat),
    );
    const observed = await routingKernel.observe();
    const routingSteps = [
      ...diffRouting(observed, desiredRouting(routing)),
      ...diffProxies(observed, proxies),
    ];
    await natKernel.apply(natSteps);
    const [failure] = await routingKernel.apply(routingSteps);
    if (failure !== undefined) throw failure;
    return [...commandLines(natSteps), ...routingSteps.map(renderStep)];
  };
  const outcome: Outcome = { steps: await reconcile(), left: await reconcile() };
  console.log(JSON.stringify(outcome));
}
