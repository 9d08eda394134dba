/**
 * A small model of iptables and ipset: takes the text that the restore programs take, answers with the text that
 * the save programs print, and refuses what they refuse. Checked against the real ones in test/live/nat.test.ts.
 */

import { FAMILIES, type Family } from '../../lib/prefix.ts';
import type { NatStep, RuleStep } from '../../nat/diff.ts';
import { type Gate, type GateStep, type GateTable, gateTable } from '../../nat/gate.ts';
import { sumOf } from '../../nat/nftables.ts';
import { parseSets, parseTables } from '../../nat/parse.ts';
import type { PortStep } from '../../nat/port-steps.ts';
import { isGateStep, isRuleStep, isSetStep, rulesInput, setsInput } from '../../nat/render.ts';
import type { SetStep } from '../../nat/sets.ts';
import type { NatState, Rule, Tables } from '../../nat/state.ts';

interface ModelSet {
  header: string;
  /** Each with what follows it in `ipset save`. */
  elements: Map<string, string>;
}

export class Model {
  tables: { 4: Tables; 6: Tables };
  sets = new Map<string, ModelSet>();
  ports: NonNullable<NatState['ports']> = {};
  gates: NonNullable<NatState['gates']> = {};
  /** What the gates have been made from. */
  readonly madeFrom: Partial<Record<Family, Gate>> = {};

  constructor() {
    const builtIn = (...chains: string[]) => new Map(chains.map((c) => [c, { policy: 'ACCEPT', rules: [] }]));
    const fresh = (): Tables =>
      new Map([
        ['raw', builtIn('PREROUTING', 'OUTPUT')],
        ['mangle', builtIn('PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING')],
        ['nat', builtIn('PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING')],
      ]);
    this.tables = { 4: fresh(), 6: fresh() };
  }

  /** The rules of a chain, to be changed at will. */
  rules(family: Family, table: string, chain: string): Rule[] {
    const found = this.tables[family].get(table)?.get(chain)?.rules;
    if (found === undefined) throw new Error(`no chain ${chain} in ${table}`);
    return found;
  }

  #inUse(set: string): boolean {
    return [4, 6].some((family) =>
      [...this.tables[family as Family].values()].some((table) =>
        [...table.values()].some((c) =>
          c.rules.some((r) => / --(?:match|map)-set (\S+)/.exec(r.text)?.[1] === set),
        ),
      ),
    );
  }

  /** `iptables-restore --noflush`: all of a table or nothing. */
  restoreRules(family: Family, input: string): void {
    const work = structuredClone(this.tables[family]);
    let table = '';
    for (const line of input.split('\n').filter(Boolean)) {
      if (line === 'COMMIT') continue;
      if (line.startsWith('*')) {
        table = line.slice(1);
        continue;
      }
      const chains = work.get(table)!;
      const [, option, name = '', rest = ''] = /^(-[A-Z]) (\S+)(?: (.*))?$/.exec(line)!;
      const chain = chains.get(name);
      if (option === '-N') {
        if (chain !== undefined) throw new Error(`${line}: exists`);
        chains.set(name, { policy: '-', rules: [] });
        continue;
      }
      if (chain === undefined) throw new Error(`${line}: no chain`);
      const counters = / -c (\d+) (\d+)$/.exec(rest);
      const [packets, bytes] = counters === null ? [0, 0] : [Number(counters[1]), Number(counters[2])];
      const text = counters === null ? rest : rest.slice(0, counters.index);
      const checked = (rule: Rule): Rule => {
        const bare = rule.text.replaceAll(/"[^"]*"/g, '""');
        const target = /-[jg] (VEG-\S+)/.exec(bare)?.[1];
        if (target !== undefined && !chains.has(target)) throw new Error(`${line}: no target`);
        const set = /--(?:match|map)-set (\S+)/.exec(bare)?.[1];
        if (set !== undefined && !this.sets.has(set)) throw new Error(`${line}: no set`);
        return rule;
      };
      if (option === '-A') chain.rules.push(checked({ text, packets, bytes }));
      else if (option === '-I') {
        const [, position, body] = /^(\d+) (.*)$/s.exec(text)!;
        if (Number(position) > chain.rules.length + 1) throw new Error(`${line}: index too big`);
        chain.rules.splice(Number(position) - 1, 0, checked({ text: body!, packets, bytes }));
      } else if (option === '-D') {
        const at = chain.rules.findIndex((rule) => rule.text === text);
        if (at < 0) throw new Error(`${line}: no such rule`);
        chain.rules.splice(at, 1);
      } else if (option === '-F') chain.rules = [];
      else if (option === '-X') {
        const used = [...chains.values()].some((c) =>
          c.rules.some((r) => /-[jg] (\S+)$/.exec(r.text)?.[1] === name),
        );
        if (used || chain.rules.length > 0) throw new Error(`${line}: not empty or in use`);
        chains.delete(name);
      } else throw new Error(`${line}: not understood`);
    }
    this.tables[family] = work;
  }

  /** `ipset -exist restore`; `after` is called behind each command. */
  restoreSets(input: string, after: () => void = () => {}): void {
    for (const line of input.split('\n').filter(Boolean)) {
      const [verb, name = '', ...rest] = line.split(' ');
      const set = this.sets.get(name);
      if (verb === 'create') {
        if (set === undefined) this.sets.set(name, { header: rest.join(' '), elements: new Map() });
      } else if (set === undefined) throw new Error(`${line}: no set`);
      else if (verb === 'add') {
        const maxelem = Number(/maxelem (\d+)/.exec(set.header)?.[1]);
        if (set.elements.size >= maxelem) throw new Error(`${line}: full`);
        if (rest[0]!.endsWith('/0')) throw new Error(`${line}: CIDR invalid`);
        set.elements.set(
          rest[0]!,
          rest
            .slice(1)
            .map((word) => ` ${word}`)
            .join(''),
        );
      } else if (verb === 'del') set.elements.delete(rest[0]!);
      else if (verb === 'swap') {
        const other = this.sets.get(rest[0]!);
        const kind = (text: string): string => /^(\S+ family \S+)/.exec(text)![1]!;
        if (other === undefined || kind(other.header) !== kind(set.header))
          throw new Error(`${line}: no match`);
        this.sets.set(name, other);
        this.sets.set(rest[0]!, set);
      } else if (verb === 'destroy') {
        if (this.#inUse(name)) throw new Error(`${line}: in use`);
        this.sets.delete(name);
      } else throw new Error(`${line}: not understood`);
      after();
    }
  }

  /** What port-kernel.ts does, and refuses what nf_tables refuses. */
  changePorts(step: PortStep): void {
    const { family } = step;
    const there = this.ports[family];
    if (step.type === 'create-port-table') {
      if ((there !== undefined) !== step.replace) throw new Error('the table is there, or is not');
      const { hasSlices } = step;
      this.ports[family] = { intact: true, hasSlices, policies: new Map(), slices: new Map() };
    } else if (there === undefined) throw new Error('no table');
    else if (step.type === 'add-slices') {
      if (there.hasSlices) throw new Error('the map of slices is there');
      there.hasSlices = true;
    } else if (step.type === 'delete-port-table') delete this.ports[family];
    else if (step.type === 'delete-port-blocks') there.policies.delete(step.mark);
    else if (step.type === 'delete-slice') there.slices.delete(step.mark);
    else if (step.type === 'write-slice') {
      if (there.slices.has(step.mark) !== step.replace) throw new Error('the slice is there, or is not');
      there.slices.set(step.mark, step.slice);
    } else there.policies.set(step.mark, { ...sumOf(step.blocks, family), blocks: step.blocks });
  }

  /** `iptables-save -c`. */
  saveRules(family: Family): string {
    return [...this.tables[family]]
      .flatMap(([name, chains]) => [
        `*${name}`,
        ...[...chains].map(([chain, { policy }]) => `:${chain} ${policy} [0:0]`),
        ...[...chains].flatMap(([chain, { rules }]) =>
          rules.map((r) => `[${r.packets}:${r.bytes}] -A ${chain} ${r.text}`),
        ),
        'COMMIT',
        '',
      ])
      .join('\n');
  }

  /** `ipset save`. */
  saveSets(): string {
    return [...this.sets]
      .flatMap(([name, { header, elements }]) => [
        `create ${name} ${header}\n`,
        ...[...elements].map(([element, options]) => `add ${name} ${element}${options}\n`),
      ])
      .join('');
  }

  /** What gate-kernel.ts does, and refuses what nf_tables refuses. */
  changeGate(step: GateStep): void {
    const { family } = step;
    const there = this.gates[family];
    if (step.type === 'delete-gate') {
      if (there === undefined) throw new Error('no table');
      delete this.gates[family];
      delete this.madeFrom[family];
      return;
    }
    if (textOf(step.there) !== textOf(there)) throw new Error('another table');
    this.gates[family] = bare(gateTable(step.gate));
    this.madeFrom[family] = step.gate;
  }

  /** What kernel.ts would observe. */
  observe(): NatState {
    return {
      tables: { 4: parseTables(this.saveRules(4), 4), 6: parseTables(this.saveRules(6), 6) },
      sets: parseSets(this.saveSets()),
      ports: structuredClone(this.ports),
      gates: { ...this.gates },
    };
  }
}

/** A gate as it is observed. */
const bare = ({ hooked, rules }: GateTable): GateTable => ({
  hooked,
  rules: new Map([...rules].sort(([a], [b]) => (a < b ? -1 : 1))),
});

const textOf = (table: GateTable | undefined): string =>
  table === undefined ? 'none' : JSON.stringify([table.hooked, ...bare(table).rules]);

/** Random numbers from a seed (mulberry32): `random()` in [0, 1), `random.below(n)` an integer in [0, n). */
export function seeded(seed: number): { (): number; below(n: number): number } {
  let state = seed;
  const random = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Object.assign(random, { below: (n: number) => Math.floor(random() * n) });
}

const kindOf = (step: NatStep): string =>
  isRuleStep(step) ? 'rules' : isSetStep(step) ? 'sets' : isGateStep(step) ? step.type : 'ports';

/** Carries steps out on the model, as kernel.ts does it; `after` is called between what is not one transaction. */
export function carryOut(model: Model, steps: readonly NatStep[], after: () => void = () => {}): void {
  for (const family of FAMILIES) {
    const own = steps.filter((step) => step.family === family);
    for (let i = 0; i < own.length; ) {
      const kind = kindOf(own[i]!);
      const end = own.findIndex((step, k) => k > i && kindOf(step) !== kind);
      const batch = own.slice(i, end < 0 ? undefined : end);
      if (kind === 'rules') model.restoreRules(family, rulesInput(batch as RuleStep[]));
      else if (kind === 'sets') model.restoreSets(setsInput(batch as SetStep[]), after);
      else if (isGateStep(batch[0]!)) model.changeGate(batch[0]);
      else for (const step of batch) model.changePorts(step as PortStep);
      after();
      i += batch.length;
    }
  }
}

/** Rules that `disturb` makes and that are not ours. */
export const isForeign = (text: string): boolean =>
  text.startsWith('-s 198.51.') || text.startsWith('-s 2001:db8:');

const foreign = (family: Family, n: number): string =>
  `-s ${family === 4 ? `198.51.${n >> 8}.${n & 255}/32` : `2001:db8:${(n + 1).toString(16)}::1/128`} -j ACCEPT`;
const stale = (family: Family, n: number): string =>
  family === 4 ? `10.200.${n}.0/24` : `fd01:${n + 1}::/32`;

/** Random damage to what is ours, and random life of what is not. */
export function disturb(model: Model, random: ReturnType<typeof seeded>, family: Family): void {
  const table = model.tables[family].get(['raw', 'mangle', 'nat', 'nat'][random.below(4)]!)!;
  const chains = [...table.keys()];
  const name = chains[random.below(chains.length)]!;
  const { rules } = table.get(name)!;
  const at = random.below(rules.length + 1);
  const counted = (text: string) => ({ text, packets: random.below(1000), bytes: random.below(99_999) });
  switch (random.below(10)) {
    case 0:
      rules.splice(at, 1 + random.below(3));
      break;
    case 1:
      if (rules.length > 0) rules.splice(at, 0, { ...rules[random.below(rules.length)]! });
      break;
    case 2:
      rules.push(...rules.splice(at, 1));
      break;
    case 3:
      rules.reverse();
      break;
    case 4:
      rules.length = 0;
      break;
    case 5: {
      const block = stale(family, random.below(60));
      if (name === 'POSTROUTING') {
        rules.unshift(counted(`-d ${block} -j RETURN`), counted(`-s ${block} -j RETURN`));
      }
      break;
    }
    case 6:
      table.set('VEG-STALE', { policy: '-', rules: [counted('-j ACCEPT')] });
      if (name !== 'VEG-STALE') rules.splice(at, 0, counted('-p tcp -j VEG-STALE'));
      break;
    case 7:
      for (const [name, set] of model.sets) {
        if (!name.endsWith(`-${family}`)) continue;
        for (const element of [...set.elements.keys()].slice(0, random.below(9)))
          set.elements.delete(element);
        set.elements.set(stale(family, 99), '');
      }
      break;
    default:
      rules.splice(at, 0, counted(foreign(family, random.below(65536))));
  }
}
