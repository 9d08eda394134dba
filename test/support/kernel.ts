/** What a namespace's kernel holds of routing and NAT, as canonical text that two moments can be compared by. */
import type { Namespace } from './netns.ts';

export type Backend = 'nft' | 'legacy';

const SEPARATOR = '--';

/** iptables-save's output as `table line`, without counters and without tables and chains that do nothing. */
function rulesOf(save: string): string[] {
  const lines: string[] = [];
  let table = '';
  for (const line of save.split('\n')) {
    if (line.startsWith('*')) table = line.slice(1);
    else if (line.startsWith('-')) lines.push(`${table} ${line.trimEnd()}`);
    else if (line.startsWith(':') && !/^:\S+ ACCEPT /.test(line)) {
      lines.push(`${table} ${line.replace(/ \[\d+:\d+\]$/, '')}`);
    }
  }
  return lines;
}

/**
 * Rules, routes, NAT of both families and ipsets, a line each. Routes stand without their protocol: a route
 * that the CNI made and one that the agent made in its place are the same route.
 */
export function kernelState(ns: Namespace, backend: Backend = 'nft'): string[] {
  const commands = [
    'ip -4 rule show',
    'ip -6 rule show',
    'ip -4 route show table all',
    'ip -6 route show table all',
    `iptables-${backend}-save`,
    `ip6tables-${backend}-save`,
    'ipset save -sorted',
  ];
  const { stdout, stderr, code } = ns.run('sh', ['-ec', commands.join(`; echo ${SEPARATOR}; `)]);
  if (code !== 0) throw new Error(`cannot read the kernel: ${stderr}`);
  const [rules4 = '', rules6 = '', routes4 = '', routes6 = '', nat4 = '', nat6 = '', sets = ''] =
    stdout.split(`${SEPARATOR}\n`);
  const lines = (text: string, prefix: string) =>
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => `${prefix} ${line.trim().replace(/\s+/g, ' ')}`);
  const routes = (text: string, prefix: string) =>
    lines(text, prefix)
      .map((line) => line.replace(/( via .*) proto \S+/, '$1').replace(/ expires \S+/, ''))
      .sort();
  return [
    ...lines(rules4, 'rule'),
    ...lines(rules6, 'rule6'),
    ...routes(routes4, 'route'),
    ...routes(routes6, 'route6'),
    ...rulesOf(nat4).map((line) => `iptables ${line}`),
    ...rulesOf(nat6).map((line) => `ip6tables ${line}`),
    ...lines(sets, 'set').map((line) => line.replace(/ initval \S+/, '')),
  ];
}

/** The blocks of a family that the nat rules forward unchanged, sources and destinations alike, sorted. */
export function forwardedBlocks(ns: Namespace, family: 4 | 6): string[] {
  const rules = ns.sh(`${family === 4 ? 'iptables' : 'ip6tables'} -t nat -S POSTROUTING`);
  const set = `VEG-FORWARD-${family}`;
  const find = (direction: '-s' | '-d', match: 'src' | 'dst') => {
    const literal = [...rules.matchAll(new RegExp(`^-A POSTROUTING ${direction} (\\S+) -j RETURN$`, 'gm'))];
    const bySet = rules.includes(`-m set --match-set ${set} ${match} -j RETURN`)
      ? [...ns.sh(`ipset save ${set}`).matchAll(/^add \S+ (\S+)/gm)]
      : [];
    return [...literal, ...bySet].map(([, block]) => block!).sort();
  };
  const sources = find('-s', 'src');
  const destinations = find('-d', 'dst');
  if (sources.join() !== destinations.join()) return [...sources, 'but destinations', ...destinations];
  return sources;
}
