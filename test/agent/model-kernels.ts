/**
 * A pod with a model of its kernel, for tests of reconciling: links, addresses, routes and rules (test/routing/model.ts),
 * iptables and ipset (test/nat/model.ts), sysctls. It records what the agent applies, refuses what it is told to, and is
 * changed by others with the command lines that a person would type.
 */
import type { KernelEvent } from '../../agent/events.ts';
import type { OpenKernels } from '../../agent/kernels.ts';
import type { SysctlStep } from '../../agent/pod/sysctl.ts';
import type { Kernels } from '../../agent/reconcile/observation.ts';
import { type Address, address, familyOf, type Prefix, parsePrefix, prefix } from '../../lib/prefix.ts';
import type { NatStep } from '../../nat/diff.ts';
import { NatError, type NatErrorKind } from '../../nat/errors.ts';
import { createFastPathKernel } from '../../nat/fast-path/kernel.ts';
import type { ObservedNat } from '../../nat/kernel.ts';
import { commandLines, isRuleStep } from '../../nat/render.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { RoutingError } from '../../routing/kernel.ts';
import type { LinkStep } from '../../routing/links.ts';
import { METRIC_VEG_AGENT } from '../../routing/numbers.ts';
import { isAnnouncement } from '../../routing/ownership.ts';
import { renderRule, renderStep } from '../../routing/render.ts';
import type { InterfaceAddress, Link, Route } from '../../routing/state.ts';
import { createCounterModel } from '../nat/counters/model.ts';
import { NftablesModel } from '../nat/fast-path/model.ts';
import { carryOut, Model } from '../nat/model.ts';
import { ModelKernel } from '../routing/model.ts';

/** Lines that hold `text` are refused: `reason` is an errno for `ip` and `sysctl`, a `NatErrorKind` for iptables. */
interface Refusal {
  text: string;
  reason: string;
}

const TABLES: Record<string, number> = { main: 254, default: 253 };
const tableOf = (line: string): number => {
  const name = /(?:table|lookup) (\S+)/.exec(line)?.[1] ?? 'main';
  return TABLES[name] ?? Number(name);
};

/** Steps as the kernel gets them: the rules in one transaction, the sets in one. */
function transactions(steps: readonly NatStep[]): NatStep[][] {
  const found: NatStep[][] = [];
  for (const step of steps) {
    const last = found.at(-1);
    const joins =
      last !== undefined && last[0]!.family === step.family && isRuleStep(last[0]!) === isRuleStep(step);
    if (joins) last.push(step);
    else found.push([step]);
  }
  return found;
}

export class PodModel {
  readonly nat = new Model();
  readonly routing = new ModelKernel();
  links: Link[] = [];
  addresses: InterfaceAddress[] = [];
  readonly sysctls = new Map<string, string>();
  /** Addresses that another host uses, with its Ethernet address. */
  readonly conflicts = new Map<Address, string>();
  /** Why the tables of a family cannot be listed. */
  readonly unlistable = new Map<4 | 6, NatError>();
  readonly counters = createCounterModel();
  readonly nftables = new NftablesModel();
  readonly #fastPath = createFastPathKernel(() => this.nftables);
  refusals: Refusal[] = [];
  /** The lines that were applied, those that were refused with the reason. */
  applied: string[] = [];

  /** Adds an interface that is up, with its addresses. */
  addInterface(name: string, addresses: readonly string[]): void {
    const index = 2 + this.links.length;
    const mac = `02:00:00:00:00:${index.toString(16).padStart(2, '0')}`;
    this.links.push({ ...{ index, name, mac, mtu: 1500 }, up: true, carrier: true });
    for (const text of addresses) this.#addAddress(name, text);
  }

  /** What reads and writes the model in place of the kernel. */
  get kernels(): Kernels & Pick<OpenKernels, 'routing'> & { fingerprint(): string } {
    return {
      routing: {
        observe: async () =>
          structuredClone({
            ...{ links: this.links, addresses: this.addresses },
            ...{ routes: this.routing.routes, rules: this.routing.rules },
          }),
        apply: async (steps) => steps.flatMap((step) => this.#applyRouting(step)),
        applyAtOnce: (steps) => steps.flatMap((step) => this.#applyRouting(step)),
      },
      nat: {
        observe: async () => this.#observeNat(),
        apply: async (steps) => this.#applyNat(steps),
        counts: async () => [],
        missingHook: async () => undefined,
        gateLack: () => undefined,
      },
      counters: this.counters,
      fastPath: this.#fastPath,
      sysctls: {
        observe: async (wanted) => ({
          steps: wanted
            .filter(({ path, value }) => this.sysctls.get(path) !== value)
            .map((one) => ({ ...one, line: `sysctl -w ${one.path}=${one.value}` })),
          ...{ problems: {}, notes: [] },
        }),
        apply: async (steps) => this.#applySysctls(steps),
        fingerprint: () => '',
        planCleanup: async () => [],
      },
      shaping: {
        observe: () => ({ qdiscs: [], classes: new Map() }),
        apply: async () => [],
      },
      claims: {
        probe: (links) => new Set([...links.keys()].filter((one) => !this.conflicts.has(one))),
        conflicts: () => [...this.conflicts].map(([one, holder]) => ({ address: one, holder })),
        isFree: (one) => !this.conflicts.has(one),
        ...{ notes: () => [], settled: async () => {}, setAssigned: () => {} },
        ...{ assigned: () => {}, refused: () => {}, removed: () => {} },
      },
      neighbours: { permanent: () => [], remove: () => {} },
      facts: async () => ({
        ...structuredClone({ links: this.links, addresses: this.addresses }),
        ...{ connected: [], routes: [], podIPs: [], services: [], networks: [] },
        ...{ names: [], missing: [], notes: [] },
        announced: this.routing.routes.filter(isAnnouncement).map(({ destination }) => destination),
      }),
      // What no event announces: the elements of sets, and sysctls.
      fingerprint: () => JSON.stringify([this.nat.saveSets(), ...this.sysctls]),
    };
  }

  /** Another program runs a command. Returns the event that the kernel announces, if any. */
  run(line: string): KernelEvent | undefined {
    const [program = '', ...rest] = line.split(' ');
    const what = `nf_tables changed by ${program} (pid 4711)`;
    if (program === 'iptables' || program === 'ip6tables') {
      const [, table = 'nat', rule = ''] = /^\S+ -t (\S+) (.*)$/.exec(line) ?? [];
      this.nat.restoreRules(program === 'iptables' ? 4 : 6, `*${table}\n${rule}\nCOMMIT\n`);
      return { object: 'netfilter', portid: 4711, what };
    }
    if (program === 'ipset') this.nat.restoreSets(`${rest.join(' ')}\n`);
    else if (program === 'sysctl') {
      const [path = '', value = ''] = rest.at(-1)!.split('=');
      this.sysctls.set(path, value);
    } else if (program === 'ip') return { portid: 4711, what: line, ...this.#runIp(line) };
    else throw new Error(`${line}: not understood`);
    return undefined;
  }

  #runIp(line: string): Pick<KernelEvent, 'object'> {
    const [, object = '', verb = '', rest = ''] = /^ip (?:-6 )?(\S+) (\S+) (.*)$/.exec(line) ?? [];
    if (object === 'link') {
      this.#setLink(verb, rest);
      return { object: 'link' };
    }
    if (object === 'addr') {
      const [, text = '', dev = ''] = /^(\S+) dev (\S+)/.exec(rest) ?? [];
      if (verb === 'add') this.#addAddress(dev, text);
      else this.addresses = this.addresses.filter((one) => `${one.address}/${one.prefixLength}` !== text);
      return { object: 'address' };
    }
    if (object === 'rule') this.#changeRule(verb, rest);
    else if (object === 'route') this.#changeRoute(verb, rest);
    else throw new Error(`${line}: not understood`);
    return { object: object as 'route' | 'rule' };
  }

  #setLink(verb: string, rest: string): void {
    const [name = '', state] = rest.split(' ').filter((word) => word !== 'dev');
    const at = this.links.findIndex((link) => link.name === name);
    if (verb === 'del') this.#removeLink(name);
    else if (state === 'nomaster') this.#moveLink(name, undefined);
    else if (verb === 'add') this.addInterface(name, []);
    else Object.assign(this.links[at]!, { up: state === 'up', carrier: state === 'up' });
    // The kernel removes the routes of a link that goes down.
    if (state === 'down') this.routing.routes = this.routing.routes.filter(({ dev }) => dev !== name);
  }

  #removeLink(name: string): void {
    const at = this.links.findIndex((link) => link.name === name);
    const [gone] = this.links.splice(at, 1);
    this.addresses = this.addresses.filter(({ ifindex }) => ifindex !== gone?.index);
    this.routing.routes = this.routing.routes.filter(({ dev }) => dev !== name);
    for (const link of this.links) if (link.master === gone?.index) this.#moveLink(link.name, undefined);
  }

  /** An interface that enters or leaves a VRF loses its routes. */
  #moveLink(name: string, master: string | undefined): void {
    const link = this.links.find((one) => one.name === name)!;
    if (master === undefined) delete link.master;
    else link.master = this.links.find((one) => one.name === master)!.index;
    this.routing.routes = this.routing.routes.filter(({ dev }) => dev !== name);
  }

  #applyLink(step: LinkStep): void {
    if (step.kind === 'delLink') {
      this.#removeLink(step.link.name);
      return;
    }
    const { name, device, master, mtu } = step.link;
    if (device !== undefined) {
      const index = 1 + Math.max(...this.links.map((link) => link.index));
      this.links.push({
        ...{ index, name, device, mac: '', mtu: 1500, up: true, carrier: true, group: 178 },
      });
    }
    if (master !== undefined) this.#moveLink(name, master);
    const link = this.links.find((one) => one.name === name)!;
    Object.assign(link, { mtu: mtu ?? link.mtu, up: true });
  }

  #addAddress(dev: string, text: string): void {
    const [one = '', length = ''] = text.split('/');
    const link = this.links.find(({ name }) => name === dev);
    if (link === undefined) throw new Error(`there is no interface ${dev}`);
    this.addresses.push({
      ...{ family: familyOf(address(one)), ifindex: link.index, address: address(one) },
      ...{ prefixLength: Number(length), scope: 0, flags: 0 },
    });
  }

  #changeRule(verb: string, rest: string): void {
    if (verb === 'del') {
      const { rules } = this.routing;
      const at = rules.findIndex((rule) => renderRule(rule).startsWith(rest));
      if (at < 0) throw new Error(`there is no rule ${rest}`);
      rules.splice(at, 1);
      return;
    }
    const from = /from (\S+)/.exec(rest)?.[1];
    this.routing.apply([
      {
        kind: 'addRule',
        rule: {
          ...{ family: 4, priority: Number(/priority (\d+)/.exec(rest)?.[1]), table: tableOf(rest) },
          ...(from !== undefined && { from: prefix(from) }),
          foreign: false,
        },
      },
    ]);
  }

  #changeRoute(verb: string, rest: string): void {
    const { routes } = this.routing;
    const [, destination = ''] = /^(\S+)/.exec(rest) ?? [];
    const to: Prefix =
      destination === 'default'
        ? prefix('0.0.0.0/0')
        : (parsePrefix(destination) ?? prefix(`${destination}/32`));
    if (verb === 'del') {
      const at = routes.findIndex((one) => one.destination === to && one.table === tableOf(rest));
      if (at < 0) throw new Error(`there is no route ${rest}`);
      routes.splice(at, 1);
      return;
    }
    const via = /via (\S+)/.exec(rest)?.[1];
    const route: Route = {
      ...{ family: familyOf(to), table: tableOf(rest), destination: to },
      ...(via !== undefined && { gateway: address(via) }),
      ...{
        dev: /dev (\S+)/.exec(rest)?.[1] ?? '',
        protocol: 3,
        scope: 0,
        type: 1,
        metric: 0,
        foreign: false,
      },
    };
    this.routing.apply([{ kind: 'addRoute', route }]);
  }

  #refusal(line: string): string | undefined {
    return this.refusals.find(({ text }) => line.includes(text))?.reason;
  }

  #applyRouting(step: RoutingStep): RoutingError[] {
    const line = renderStep(step);
    const reason = this.#refusal(line);
    this.applied.push(reason === undefined ? line : `${line} → ${reason}`);
    if (reason !== undefined) return [new RoutingError(step, reason, reason)];
    if (step.kind === 'addAddress') {
      this.#addAddress(step.address.dev, `${step.address.address}/${step.address.family === 4 ? 32 : 128}`);
      Object.assign(this.addresses.at(-1)!, { scope: 253, metric: METRIC_VEG_AGENT });
    } else if (step.kind === 'delAddress') {
      this.addresses = this.addresses.filter((one) => one.address !== step.address.address);
    } else if ('link' in step) this.#applyLink(step);
    else this.routing.apply([step]);
    return [];
  }

  #observeNat(): ObservedNat {
    return {
      ...structuredClone(this.nat.observe()),
      backend: { 4: 'nft', 6: 'nft' },
      failed: Object.fromEntries(this.unlistable),
      unreadable: { 4: new Map(), 6: new Map() },
    };
  }

  #applyNat(steps: readonly NatStep[]): void {
    for (const batch of transactions(steps)) {
      const lines = commandLines(batch);
      const reason = lines.map((line) => this.#refusal(line)).find(Boolean);
      if (reason !== undefined) {
        this.applied.push(`${lines.length} iptables or ipset command(s) → ${reason}`);
        throw new NatError(reason as NatErrorKind, reason);
      }
      this.applied.push(...lines);
      carryOut(this.nat, batch);
    }
  }

  #applySysctls(steps: readonly SysctlStep[]): void {
    for (const { path, value, line } of steps) {
      const reason = this.#refusal(line);
      this.applied.push(reason === undefined ? line : `${line} → ${reason}`);
      if (reason !== undefined) throw Object.assign(new Error(reason), { code: reason });
      this.sysctls.set(path, value);
    }
  }
}
