/**
 * The script of the page. It runs in the browser: `page.ts` puts the text of `client` into the page, so it may use
 * what it is given and what a browser has, and nothing else of this file or another.
 *
 * Everything comes from the agent's JSON and goes into the page as text or as the value of a harmless attribute;
 * nothing is ever read as markup. What is there already stays and is only changed, so that nothing jumps and a
 * selection lasts.
 */

import type { SourcesDocument } from '../../flows/translations.ts';
import type { TranslationRecord, TranslationsDocument } from '../../flows/translations-query.ts';
import type { StatusDocument } from '../status.ts';
import type { Page, PageElement, PageNode } from './dom.ts';

/** What the script is given besides the document. */
export interface Tools {
  scaled(value: number, unit?: string): string;
  duration(seconds: number): string;
  endpoint(address: string, port: number | undefined): string;
  policyLabel(name: string): string;
  /** Diagnostics of RFC 5880 in words. */
  diagnostics: readonly string[];
}

export function client(document: Page, tools: Tools): void {
  const { scaled, duration, endpoint, policyLabel, diagnostics } = tools;
  /** Between two looks, ms, and how long one may take. */
  const PERIOD = 2000;
  const TIMEOUT = 8000;
  const RECENT = 30;
  const FOUND = 200;
  const SHOWN_CHANGES = 12;
  const SHOWN_SOURCES = 10;

  // Elements -----------------------------------------------------------------------------------------------

  interface Description {
    tag: string;
    attributes: Record<string, string>;
    children: Child[];
  }
  type Child = string | Description;

  const h = (tag: string, attributes: Record<string, string> = {}, ...children: Child[]): Description => ({
    ...{ tag, attributes, children },
  });
  const byId = (id: string) => document.getElementById(id)!;
  const isSvg = (tag: string): boolean => tag === 'svg' || tag === 'rect';

  /** Makes the children of an element be these. */
  function fill(parent: PageElement, children: Child[]): void {
    for (const [i, child] of children.entries()) {
      const old: PageNode | undefined = parent.childNodes[i];
      const put = (fresh: PageNode) => {
        if (old === undefined) parent.append(fresh);
        else parent.replaceChild(fresh, old);
      };
      if (typeof child === 'string') {
        if (old?.nodeType !== 3) put(document.createTextNode(child));
        else if (old.nodeValue !== child) old.nodeValue = child;
        continue;
      }
      const { tag, attributes } = child;
      let element = old as PageElement;
      if (old?.localName !== tag) {
        element = isSvg(tag)
          ? document.createElementNS('http://www.w3.org/2000/svg', tag)
          : document.createElement(tag);
        put(element);
      }
      for (const { name } of [...element.attributes]) {
        if (!(name in attributes)) element.removeAttribute(name);
      }
      for (const [name, value] of Object.entries(attributes)) {
        if (element.getAttribute(name) !== value) element.setAttribute(name, value);
      }
      fill(element, child.children);
    }
    for (let i = parent.childNodes.length; i > children.length; i--) {
      parent.removeChild(parent.childNodes[i - 1]!);
    }
  }

  const show = (id: string, ...children: Child[]): void => fill(byId(id), children);
  /** A cell with the heading that it has where a table is too wide. */
  const cell = (label: string, className: string, ...children: Child[]): Description =>
    h('td', { 'data-label': label, class: className, role: 'cell' }, ...children);
  const row = (...cells: Description[]): Description => h('tr', { role: 'row' }, ...cells);
  const faint = (text: string): Description => h('span', { class: 'faint' }, text);

  /** A state by shape and word, not by colour alone. */
  const badge = (kind: 'good' | 'bad' | 'warn' | 'idle', text: string): Description =>
    h('span', { class: `badge ${kind}` }, text);

  // Words --------------------------------------------------------------------------------------------------

  /** The agent's clock, Unix ms: the ages that are shown are by it. */
  let now = Date.now();

  const ago = (time: number): string => duration((now - time) / 1000);
  const iso = (time: number): string => new Date(time).toISOString();
  /** The time of day in UTC, as in the log; with the day unless it is today. */
  const clock = (time: number): string => {
    const [day = '', rest = ''] = iso(time).split('T');
    return `${day === iso(now).slice(0, 10) ? '' : `${day} `}${rest.slice(0, 8)}`;
  };
  const at = (time: number): Description => h('time', { datetime: iso(time), title: iso(time) }, clock(time));
  const whole = (count: number): string => count.toLocaleString('en');
  /** Counts that may grow large. */
  const counted = (count: number): string => (count < 1e6 ? whole(count) : scaled(count));
  const plural = (count: number, what: string): string => `${whole(count)} ${what}${count === 1 ? '' : 's'}`;

  // Health -------------------------------------------------------------------------------------------------

  const tile = (title: string, state: Description, ...details: string[]): Description =>
    h('li', {}, h('h3', {}, title), state, ...details.map((text) => h('p', {}, text)));

  function health(status: StatusDocument): void {
    const { ready, draining, policy, kernel, uplink, bfd, conntrack } = status;
    const word = ready ? 'Ready' : draining ? 'Draining' : 'Not ready';
    const name = policy.name ?? 'veg-agent';
    document.title = `${ready ? '' : '⚠ '}${name} · ${word}`;
    show('name', name);
    show('state', badge(ready ? 'good' : draining ? 'warn' : 'bad', word));
    const where = [status.pod, status.node].filter((text) => text !== null).join(' on ');
    const about = [where, `veg-agent ${status.version}`, `up ${duration(status.uptimeSeconds)}`];
    show('about', about.filter(Boolean).join(' · '));
    byId('why').hidden = status.reasons.length === 0;
    show('reasons', ...status.reasons.map((reason) => h('li', {}, reason)));

    const last = kernel.lastReconcile;
    const repaired = Object.values(kernel.driftRepaired).reduce((sum, count) => sum + count, 0);
    const states = [...new Set(kernel.families.map(({ state }) => state))].map((state) => {
      const alike = kernel.families.filter((family) => family.state === state);
      return `${alike.map(({ family }) => `IPv${family}`).join(' and ')} ${state}`;
    });
    const ups = uplink?.families.filter(({ state }) => state === 'up') ?? [];
    const families = uplink?.families ?? [];
    const sessions = bfd.sessions.filter(({ state }) => state === 'Up').length;
    const used = conntrack === null ? 0 : (100 * conntrack.entries) / (conntrack.limit || Infinity);
    show(
      'tiles',
      tile(
        'Policy',
        policy.valid ? badge('good', 'Valid') : badge('bad', 'Invalid'),
        `generation ${policy.generation}`,
        policy.lastChange === null ? 'none in force' : `changed ${ago(Date.parse(policy.lastChange))} ago`,
      ),
      tile(
        'Kernel',
        kernel.inSync ? badge('good', 'In sync') : badge('bad', 'Not in sync'),
        states.join(', '),
        last === null ? 'not reconciled yet' : `checked ${ago(Date.parse(last.at))} ago`,
        repaired === 0 ? 'no drift repaired' : `${plural(repaired, 'repair')} of drift`,
      ),
      tile(
        'Uplink',
        families.length === 0
          ? badge('idle', 'Not watched')
          : ups.length === families.length
            ? badge('good', 'Up')
            : badge(ups.length > 0 ? 'warn' : 'bad', ups.length > 0 ? 'Partly up' : 'Down'),
        ...families.map(({ family, gateway, state }) => `IPv${family} ${state}, ${gateway}`),
      ),
      tile(
        'BFD',
        !bfd.enabled
          ? badge('idle', 'Not used')
          : badge(
              sessions === 0 ? 'bad' : sessions < bfd.sessions.length ? 'warn' : 'good',
              `${sessions} Up`,
            ),
        `of ${plural(bfd.sessions.length, 'session')}`,
      ),
      tile(
        'Connections',
        conntrack === null
          ? badge('idle', 'Not known')
          : badge(used < 80 ? 'good' : used < 90 ? 'warn' : 'bad', whole(conntrack.entries)),
        conntrack === null || conntrack.limit === 0
          ? 'in the tracking table'
          : `${used < 1 && used > 0 ? 'under 1' : Math.round(used)} % of ${whole(conntrack.limit)}`,
      ),
    );
    const notes = [...policy.warnings, ...kernel.notes, ...(uplink?.notes ?? [])];
    byId('notes').hidden = notes.length === 0;
    show('notes', ...notes.map((note) => h('li', {}, note)));
  }

  // Sessions -----------------------------------------------------------------------------------------------

  type Session = StatusDocument['bfd']['sessions'][number];
  const KINDS = { Up: 'good', Init: 'warn', Down: 'bad', AdminDown: 'idle' } as const;
  /** How high the strip stands in each state. */
  const HEIGHTS = { Up: 16, Init: 10, Down: 5, AdminDown: 5 } as const;
  const WIDTH = 1000;
  /** So that a short Down is seen. */
  const LEAST = 4;

  /** The states of a session from `from` to now, as a strip. */
  function strip({ history, remote }: Session, from: number): Description {
    const x = (time: number) => ((Math.max(time, from) - from) / (now - from)) * WIDTH;
    const parts = history
      .map((change, i) => ({ state: change.to, start: change.at, end: history[i + 1]?.at ?? now }))
      .filter(({ end }) => end >= from)
      // What is not Up lies above, and the end of a Down that is drawn wider too.
      .sort((a, b) => Number(b.state === 'Up') - Number(a.state === 'Up'));
    const words = parts
      .toSorted((a, b) => a.start - b.start)
      .map(({ state, start, end }) => `${state} ${duration((end - Math.max(start, from)) / 1000)}`);
    return h(
      'svg',
      {
        class: 'strip',
        viewBox: `0 0 ${WIDTH} 16`,
        preserveAspectRatio: 'none',
        role: 'img',
        'aria-label': `${remote}: ${words.slice(-8).join(', then ')}`,
      },
      ...parts.flatMap(({ state, start, end }) => {
        const width = Math.max(LEAST, x(end) - x(start));
        const left = Math.min(x(start), WIDTH - width);
        const place = { x: left.toFixed(1), width: width.toFixed(1) };
        const height = HEIGHTS[state];
        return [
          ...(state === 'Up' ? [] : [h('rect', { ...place, class: 'gap', y: '0', height: '16' })]),
          h('rect', { ...place, class: KINDS[state], y: `${16 - height}`, height: `${height}` }),
        ];
      }),
    );
  }

  function sessions({ bfd }: StatusDocument): void {
    byId('no-bfd').hidden = bfd.sessions.length > 0;
    show('no-bfd', bfd.enabled ? 'No session yet.' : 'The policy uses no BFD.');
    byId('bfd').hidden = bfd.sessions.length === 0;
    const from = now - 1000 * Number(byId('span').value);
    show(
      'sessions',
      ...bfd.sessions.map((session) => {
        const { local, remote, state, since, transmitInterval, detectionTime } = session;
        const timers =
          state === 'Up' ? `${transmitInterval / 1000} ms, detected in ${detectionTime / 1000} ms` : '–';
        return row(
          cell('State', 'fit', badge(KINDS[state], state), faint(` ${ago(since)}`)),
          cell('Peer', 'address', remote, faint(` from ${local}`)),
          cell('Packets every', 'timers', timers),
          cell('Timeline', 'wide', strip(session, from)),
        );
      }),
    );
    const changes = bfd.sessions
      .flatMap(({ remote, history }) => history.map((change) => ({ remote, ...change })))
      .sort((a, b) => b.at - a.at);
    show(
      'changes',
      ...changes
        .slice(0, SHOWN_CHANGES)
        .map(({ remote, at: time, from: before, to, diagnostic }) =>
          h(
            'li',
            {},
            at(time),
            h('span', { class: 'address' }, remote),
            h('span', {}, before === null ? 'was ' : `${before} → `, badge(KINDS[to], to)),
            h(
              'span',
              { class: 'faint' },
              diagnostic === 0 ? '' : (diagnostics[diagnostic] ?? `${diagnostic}`),
            ),
          ),
        ),
    );
  }

  // Policies and sources ---------------------------------------------------------------------------------------

  function policies({ policies: all, translationLog }: StatusDocument): void {
    byId('no-log').hidden = translationLog;
    show(
      'policies',
      ...all.map(({ name, snat, configured, ipBlocks, blocks, traffic }) => {
        const rates = traffic?.rates;
        const rate = (value: number | undefined, unit?: string) =>
          value === undefined ? '–' : scaled(value, unit);
        const more = blocks > ipBlocks.length ? ` and ${whole(blocks - ipBlocks.length)} more` : '';
        const sources = configured
          ? `${ipBlocks.join(', ') || 'any source'}${more}`
          : name === ''
            ? 'probes, metrics'
            : 'what no policy names';
        return row(
          cell(
            'Policy',
            'who',
            h('strong', {}, policyLabel(name)),
            faint(snat ? ' translated' : ' forwarded'),
            h('small', { class: 'address' }, sources),
          ),
          cell('New/s', 'number', rate(rates?.connections)),
          cell('Packets/s out', 'number', rate(rates?.packets.out)),
          cell('Packets/s in', 'number', rate(rates?.packets.in)),
          cell('Bytes/s out', 'number', rate(rates?.bytes.out, 'B')),
          cell('Bytes/s in', 'number', rate(rates?.bytes.in, 'B')),
          cell('Open', 'number', traffic === null ? '–' : whole(traffic.open)),
          cell('Connections', 'number', traffic === null ? '–' : counted(traffic.connections)),
          cell('Sent', 'number', traffic === null ? '–' : scaled(traffic.bytes.out, 'B')),
          cell('Received', 'number', traffic === null ? '–' : scaled(traffic.bytes.in, 'B')),
        );
      }),
    );
  }

  function topSources({ sources, total }: SourcesDocument): void {
    const byFlows = byId('order').value === 'connections';
    const octets = ({ bytes }: SourcesDocument['sources'][number]) => bytes.out + bytes.in;
    const ranked = sources.toSorted((a, b) =>
      byFlows ? b.connections - a.connections : octets(b) - octets(a),
    );
    show(
      'sources',
      ...ranked
        .slice(0, SHOWN_SOURCES)
        .map(({ address, connections, bytes }) =>
          row(
            cell('Source', 'address', address),
            cell('Open', 'number', whole(connections)),
            cell('Sent', 'number', scaled(bytes.out, 'B')),
            cell('Received', 'number', scaled(bytes.in, 'B')),
          ),
        ),
    );
    show('source-count', total === 0 ? 'No connection is open.' : `of ${plural(total, 'source')}`);
  }

  // Translations ---------------------------------------------------------------------------------------------

  function flowRow(flow: TranslationRecord): Description {
    const { original, translated, counters, protocol, protocolNumber, verdict, endTime } = flow;
    const from = endpoint(original.sourceIP, original.sourcePort ?? original.icmpID);
    const seen = endpoint(translated.sourceIP, translated.sourcePort ?? translated.icmpID);
    const to = endpoint(original.destinationIP, original.destinationPort);
    const reached = endpoint(translated.destinationIP, translated.destinationPort);
    return row(
      cell('Began', 'fit', at(Date.parse(flow.startTime))),
      cell('Lasted', 'fit', endTime === undefined ? 'open' : duration(flow.duration)),
      cell('Protocol', 'fit', protocol === 'other' ? String(protocolNumber) : protocol),
      cell('From', 'address', from),
      cell('Seen as', 'address', verdict === 'forwarded' ? 'itself' : seen),
      cell('To', 'address', to === reached ? to : `${to} → ${reached}`),
      cell('Policy', 'policy', policyLabel(flow.policy)),
      cell('Sent', 'number', counters === undefined ? '–' : scaled(counters.originalBytes, 'B')),
      cell('Received', 'number', counters === undefined ? '–' : scaled(counters.replyBytes, 'B')),
    );
  }

  /** The question that is shown the answer of; empty: the newest. */
  let question = new URLSearchParams();

  function found({ translations, more, gaps, computed = [] }: TranslationsDocument): void {
    show('flows', ...translations.map(flowRow));
    const count = plural(translations.length, 'translation');
    const asked = question.size > 0;
    const most = more ? ', the newest; there are more' : '';
    const missing = gaps.map(({ from, to }) => `Between ${from} and ${to} some may be missing.`);
    const owners = computed.map(
      ({ policy, sourceIP, externalIP, ports, since, until }) =>
        `By its port block: ${externalIP} ports ${ports.start}-${ports.end} are those of ${sourceIP} (${policyLabel(policy)}), since ${since}${until === undefined ? '' : ` until ${until}`}.`,
    );
    const head = asked ? `${count} found${most}.` : `The newest ${count}.`;
    show('found', [head, ...owners, ...missing].join(' '));
  }

  function ask(): void {
    const time = byId('at').value;
    // The field has no zone and, on the full minute, no seconds.
    const moment = time === '' ? '' : `${time.length === 16 ? `${time}:00` : time.slice(0, 19)}Z`;
    const parts = { external: byId('external').value, internal: byId('internal').value, at: moment };
    question = new URLSearchParams();
    for (const [name, value] of Object.entries(parts)) {
      if (value.trim() !== '') question.set(name, value.trim());
    }
    void search();
  }

  async function search(): Promise<void> {
    const asked = question;
    const limit = asked.size > 0 ? FOUND : RECENT;
    try {
      const answer = await get(`data/translations?${new URLSearchParams([...asked, ['limit', `${limit}`]])}`);
      if (asked === question) found(answer as TranslationsDocument);
    } catch (error) {
      if (asked !== question) return;
      show('flows');
      show('found', (error as Error).message);
    }
  }

  // Looking ----------------------------------------------------------------------------------------------------

  /** A document of the agent. Throws with what it says instead. */
  async function get(path: string): Promise<unknown> {
    const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
    if (!response.ok) throw new Error((await response.text()).trim());
    const date = Date.parse(response.headers.get('date') ?? '');
    // Its resolution is a second: within one, the clock here goes on.
    if (!Number.isNaN(date) && Math.abs(date + skew - Date.now()) > 1500) skew = Date.now() - date;
    now = Date.now() - skew;
    return response.json();
  }
  /** The clock here less the agent's, ms. */
  let skew = 0;
  /** When the agent answered last; Unix ms by the clock here. */
  let heard = 0;
  let status: StatusDocument | undefined;

  function draw(): void {
    if (status === undefined) return;
    health(status);
    sessions(status);
    policies(status);
    for (const id of ['source-part', 'translation-part']) byId(id).hidden = !status.translationLog;
  }

  async function look(): Promise<void> {
    try {
      status = (await get('data/status')) as StatusDocument;
      heard = Date.now();
      draw();
      document.documentElement.setAttribute('data-state', 'live');
      show('live', `${clock(now)} UTC`);
      if (!status.translationLog) return;
      await Promise.all([
        get('data/sources').then((sources) => topSources(sources as SourcesDocument)),
        // An answer stays as it is; what is new is shown as it comes.
        question.size === 0 ? search() : undefined,
      ]);
    } catch {
      if (Date.now() - heard < PERIOD * 2) return;
      document.documentElement.setAttribute('data-state', 'away');
      const since = heard === 0 ? '' : ` since ${iso(heard - skew).slice(11, 19)} UTC`;
      show('live', badge('bad', `No answer${since}`));
    }
  }

  let timer: ReturnType<typeof setTimeout> | undefined;
  let looking = false;
  /** Looks now and from now on, while the page can be seen. */
  async function again(): Promise<void> {
    if (looking) return;
    looking = true;
    clearTimeout(timer);
    if (!document.hidden) await look();
    looking = false;
    timer = setTimeout(again, PERIOD);
  }

  byId('search').addEventListener('submit', (event) => {
    event.preventDefault();
    ask();
  });
  byId('search').addEventListener('reset', () => {
    question = new URLSearchParams();
    void search();
  });
  byId('span').addEventListener('change', draw);
  byId('order').addEventListener('change', () => void again());
  document.addEventListener('visibilitychange', () => void again());
  void again();
}
