/**
 * From observed to desired in the fewest steps: what is in place is not touched, and no packet meets a state in
 * which neither the old nor the new holds. Sets are filled before the rules that use them, the rules of a family
 * change in one transaction, and what is no longer used goes last. Pure.
 */

import { FAMILIES, type Family } from '../lib/prefix.ts';
import { CHAIN_MASQUERADE } from '../routing/numbers.ts';
import { editChain } from './chains.ts';
import { isByMark } from './egress.ts';
import { editGate, type GateStep, takeOver, takesOver } from './gate.ts';
import { editPorts, type PortStep } from './port-steps.ts';
import { isOwnedName, isSayable, ownedByForm, setsOf } from './rules.ts';
import { editSet, isOtherKind, type SetStep } from './sets.ts';
import type { AddressSet, Chain, NatState, Rule, Tables } from './state.ts';

interface InChain {
  family: Family;
  table: string;
  chain: string;
}

export type RuleStep =
  | ({ type: 'new-chain' } & InChain)
  /** Deletes the first rule with this text. */
  | ({ type: 'delete-rule'; text: string } & InChain)
  /** `position` is 1-based; absent: at the end. The rule begins with these counters. */
  | ({ type: 'insert-rule'; position?: number; rule: Rule } & InChain)
  | ({ type: 'flush-chain' } & InChain)
  | ({ type: 'delete-chain' } & InChain);

export type NatStep = SetStep | RuleStep | PortStep | GateStep;

/** The order of tables in a transaction: the order in which packets traverse them. */
const TABLE_ORDER = ['raw', 'mangle', 'nat', 'filter', 'security'];

const texts = (chain: Chain | undefined): string[] => chain?.rules.map((rule) => rule.text) ?? [];

/** Our rules among those of others. */
function editForeignChain(
  at: InChain,
  rules: Rule[],
  want: string[],
  known: { previous: string[]; hadMasquerade: boolean; hasMasquerade: boolean },
): ReturnType<typeof editChain> {
  const wanted = new Set(want);
  let owned = new Set(known.previous);
  let after = rules;
  let hasMasquerade = known.hadMasquerade;
  for (;;) {
    const before = owned;
    const present = after.map((rule) => rule.text);
    owned = ownedByForm(at, present, { known: before, wanted, hasMasquerade });
    const edited = editChain(rules, want, owned);
    // When the jump moves down, more pairs are above it: they are ours then.
    if (after !== rules && [...owned].every((text) => before.has(text) || wanted.has(text))) return edited;
    after = edited.rules;
    hasMasquerade = known.hasMasquerade;
  }
}

/** The steps of one family's rules, and the tables as they are afterwards. */
function editTables(
  observed: Tables,
  desired: Tables,
  previous: Tables | undefined,
  family: Family,
): { steps: RuleStep[]; tables: Tables } {
  const steps: RuleStep[] = [];
  const tables: Tables = new Map();
  for (const table of TABLE_ORDER) {
    const there = observed.get(table) ?? new Map<string, Chain>();
    const wanted = desired.get(table) ?? new Map<string, Chain>();
    const after = new Map<string, Chain>();
    const created: RuleStep[] = [];
    const deleted: RuleStep[] = [];
    const inserted: RuleStep[] = [];
    const flushed: RuleStep[] = [];
    const removed: RuleStep[] = [];
    for (const chain of new Set([...there.keys(), ...wanted.keys()])) {
      const at: InChain = { family, table, chain };
      const old = there.get(chain);
      const ours = isOwnedName(chain);
      const want = [...new Set(texts(wanted.get(chain)))];
      if (ours && !wanted.has(chain)) {
        flushed.push({ type: 'flush-chain', ...at });
        removed.push({ type: 'delete-chain', ...at });
        continue;
      }
      if (ours && old === undefined) created.push({ type: 'new-chain', ...at });
      let rules = old?.rules ?? [];
      if (ours && rules.some((rule) => !isSayable(rule.text))) {
        created.push({ type: 'flush-chain', ...at });
        rules = [];
      }
      const { edits, rules: result } = ours
        ? editChain(rules, want, new Set(rules.map((rule) => rule.text)))
        : editForeignChain(at, rules, want, {
            previous: texts(previous?.get(table)?.get(chain)),
            hadMasquerade: there.has(CHAIN_MASQUERADE),
            hasMasquerade: wanted.has(CHAIN_MASQUERADE),
          });
      for (const edit of edits) {
        if (edit.type === 'delete') deleted.push({ type: 'delete-rule', text: edit.text, ...at });
        else inserted.push({ ...edit, type: 'insert-rule', ...at });
      }
      after.set(chain, { policy: old?.policy ?? wanted.get(chain)!.policy, rules: result });
    }
    if (after.size > 0) tables.set(table, after);
    steps.push(...created, ...deleted, ...inserted, ...flushed, ...removed);
  }
  return { steps, tables };
}

/** The family that a set of ours serves: the one in its name, if it has one. */
const familyOfSet = ({ name, family }: AddressSet): Family =>
  name.endsWith('-4') ? 4 : name.endsWith('-6') ? 6 : family;

/**
 * The steps of one family's sets: those that come first, those that change marks in a set in use, those that take
 * marks away there, and those that come last.
 */
function editSets(
  observed: NatState['sets'],
  desired: NatState['sets'],
  family: Family,
): { before: SetStep[]; marks: SetStep[]; staleMarks: SetStep[]; after: SetStep[] } {
  const before: SetStep[] = [];
  const marks: SetStep[] = [];
  const staleMarks: SetStep[] = [];
  const after: SetStep[] = [];
  const taken = new Set(observed.keys());
  for (const set of desired.values()) {
    if (set.family !== family) continue;
    const there = observed.get(set.name);
    const edit = editSet(there, set, taken);
    const inUse = set.marked && there !== undefined;
    (inUse ? marks : before).push(...edit.before);
    (inUse ? staleMarks : after).push(...edit.after);
  }
  for (const set of observed.values()) {
    if (familyOfSet(set) === family && !desired.has(set.name)) {
      after.push({ type: 'destroy-set', family, set: set.name });
    }
  }
  return { before, marks, staleMarks, after };
}

/** A state without some sets and the rules that use them. */
function without(state: NatState, names: ReadonlySet<string>, family: Family): NatState {
  const tables: Tables = new Map();
  for (const [table, chains] of state.tables[family]) {
    const rest = [...chains].map(([name, { policy, rules }]): [string, Chain] => [
      name,
      { policy, rules: rules.filter((rule) => !setsOf(rule.text).some((set) => names.has(set))) },
    ]);
    tables.set(table, new Map(rest));
  }
  const sets = new Map([...state.sets].filter(([name]) => !names.has(name)));
  return { tables: { ...state.tables, [family]: tables }, sets };
}

function diffFamily(
  observed: NatState,
  desired: NatState,
  previous: NatState | undefined,
  family: Family,
): NatStep[] {
  const otherKind = [...desired.sets.values()]
    .filter((set) => set.family === family && isOtherKind(observed.sets.get(set.name), set))
    .map((set) => set.name);
  if (otherKind.length > 0) {
    // A set of another type in the place of ours cannot be swapped, and not be destroyed while a rule uses it.
    const names = new Set(otherKind);
    const bare = without(desired, names, family);
    const { tables } = editTables(
      observed.tables[family],
      bare.tables[family],
      previous?.tables[family],
      family,
    );
    const between: NatState = {
      tables: { ...observed.tables, [family]: tables },
      sets: new Map(
        [...observed.sets].filter(([name, set]) => bare.sets.has(name) || familyOfSet(set) !== family),
      ),
    };
    for (const set of bare.sets.values()) if (set.family === family) between.sets.set(set.name, set);
    return [
      ...diffFamily(observed, bare, previous, family),
      ...diffFamily(between, desired, previous, family),
    ];
  }
  const sets = editSets(observed.sets, desired.sets, family);
  const edit = (from: Tables, to: Tables) => editTables(from, to, previous?.tables[family], family);
  const there = observed.tables[family];
  const wanted = desired.tables[family];
  const { steps } = edit(there, wanted);
  if (sets.marks.length + sets.staleMarks.length === 0 || steps.length === 0) {
    return [...sets.before, ...sets.marks, ...steps, ...sets.staleMarks, ...sets.after];
  }
  // Marks lead to rules, and rules and sets cannot change together. So what marks lead to is there before the
  // marks are; then what gives marks changes; then old marks go, and at last what they led to.
  const grown = edit(
    there,
    withOld(wanted, there, () => true),
  );
  const turned = edit(grown.tables, withOld(wanted, there, isByMark));
  return [
    ...sets.before,
    ...grown.steps,
    ...sets.marks,
    ...turned.steps,
    ...sets.staleMarks,
    ...edit(turned.tables, wanted).steps,
    ...sets.after,
  ];
}

/**
 * The wanted tables with some of our chains as they are now: those reached by marks hold the rules of both, any
 * other only what it holds now.
 */
function withOld(wanted: Tables, there: Tables, keeps: (chain: string) => boolean): Tables {
  const tables: Tables = new Map([...wanted].map(([name, table]) => [name, new Map(table)]));
  for (const [name, table] of there) {
    const target = tables.get(name) ?? new Map<string, Chain>();
    for (const [chain, old] of table) {
      if (!isOwnedName(chain) || !keeps(chain) || old.rules.some(({ text }) => !isSayable(text))) continue;
      tables.set(name, target);
      const rules = isByMark(chain) ? [...(target.get(chain)?.rules ?? []), ...old.rules] : old.rules;
      target.set(chain, { ...old, rules });
    }
  }
  return tables;
}

/**
 * The steps of rules, sets and gate. From the chain VEG-NEW to a gate the family gets to its policy with the chain; then both
 * are there, and then the gate alone. The other way round the gate goes last.
 */
function diffRules(
  observed: NatState,
  desired: NatState,
  previous: NatState | undefined,
  family: Family,
): NatStep[] {
  const [there, wanted] = [observed.gates?.[family], desired.gates?.[family]];
  const tables = observed.tables[family];
  if (wanted?.source === undefined || !takesOver(wanted, tables.get('mangle'))) {
    const { before, after } = editGate(there, wanted, tables.get('nat'), family);
    return [...before, ...diffFamily(observed, desired, previous, family), ...after];
  }
  const last = previous?.tables[family];
  const chained = new Map(desired.tables[family]).set('mangle', wanted.source.instead);
  const between = { ...desired, tables: { ...desired.tables, [family]: chained } };
  const edited = editTables(tables, chained, last, family).tables;
  return [
    ...diffFamily(observed, between, previous, family),
    ...takeOver(there, wanted),
    ...editTables(edited, desired.tables[family], last, family).steps,
  ];
}

/**
 * The steps from observed to desired, IPv4 first; empty when nothing is to do. Removes what is ours (`rules.ts`)
 * and not desired, and never touches or reorders what is not.
 * @param previous what was applied last: makes rules ours that only their text would not (half of a pair whose
 *   other half was deleted by hand)
 */
export const diffNat = (observed: NatState, desired: NatState, previous?: NatState): NatStep[] =>
  FAMILIES.flatMap((family) => {
    // Marks lead to port blocks as to rules: the new are there before them, the old go after them.
    const { before, after } = editPorts(observed.ports?.[family], desired.ports?.[family], family);
    return [...before, ...diffRules(observed, desired, previous, family), ...after];
  });
