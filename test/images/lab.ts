/** A gateway pod in the lab's namespaces, up to the end of its init container. */
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Scope } from '../support/netns.ts';
import { type BfdPeer, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, type Topology, topology } from '../support/topology.ts';
import { CAPABILITIES, Container, type ContainerSpec } from './container.ts';
import { BFD_COMMAND, BFD_ENV, DUAL, INIT_ENV, initCommand, type Variant } from './pod.ts';

export interface Pod extends Topology {
  scope: Scope;
  /** Its volumes: host path by path in its containers. */
  volumes: Readonly<Record<string, string>>;
  start(spec: Partial<ContainerSpec> & Pick<ContainerSpec, 'command'>): Container;
  /** A peer for each of the pod's addresses. */
  frr(): Promise<BfdPeer>;
}

/** The environments of its containers. */
interface Environment {
  init: Record<string, string>;
  bfd: Record<string, string>;
}

/** A pod of the variant whose init container has run. */
export async function initialised(
  t: Test,
  variant: Variant,
  env: Environment = { init: INIT_ENV, bfd: BFD_ENV },
): Promise<Pod> {
  const scope = scopeOf(t);
  const net = topology(scope, { cniRoutes: true });
  const base = scope.directory('volumes');
  const volume = (name: string): string => {
    const directory = join(base, name);
    mkdirSync(directory);
    chmodSync(directory, 0o777);
    return directory;
  };
  const volumes: Record<string, string> = { '/usr/local/sbin': volume('sbin') };
  if (variant === 'B') volumes['/var/run/kube-ovn/bfdd-supervisor'] = volume('state');
  const families = env.bfd === DUAL.bfd ? ([4, 6] as const) : ([4] as const);
  const sessions = families.map((f) => ({ local: ADDRESS.bfdPort[f], remote: ADDRESS.gatewayInternal[f] }));
  const pod: Pod = {
    ...net,
    scope,
    volumes,
    start(spec) {
      const security = { capabilities: CAPABILITIES.bfd };
      const container = Container.start(scope, net.gateway, { security, volumes, env: env.bfd, ...spec });
      t.teardown(() => {
        if (!t.passing()) t.comment(container.log().slice(-5000));
        container.remove();
      });
      return container;
    },
    frr: () => startFrr(scope, net.router, { sessions }),
  };
  const init = pod.start({ command: initCommand(variant), env: env.init, security: 'privileged' });
  const { code, log } = await init.ended();
  t.equal(code, 0, `the init container: ${log}`);
  return pod;
}

/** The container of variant B, with the limits of 1.15.23 and later. */
export const supervisor = (pod: Pod): Container =>
  pod.start({ command: BFD_COMMAND.B, memory: 64, cpu: 300 });
