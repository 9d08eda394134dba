/**
 * bfdd-control's words and replies against transcripts: of OpenBFDD 0.5.4, changed where ours is meant to differ
 * (sessions by id, no trailing blanks, `multi` beyond 255 refused).
 */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { BfddControl } from '../../bfd/bfdd-control.ts';
import { parse, type SessionView, splitWords, statusReply, versionReply } from '../../bfd/control-text.ts';
import { Engine } from '../../bfd/engine.ts';
import { silentLog } from './silent.ts';

/** Commands and replies of a transcript. */
function transcript(name: string): { words: string[]; reply: string }[] {
  const text = readFileSync(new URL(`../fixtures/${name}`, import.meta.url), 'utf8');
  const [, ...parts] = text.split(/^\$ bfdd-control/m);
  return parts.map((part) => {
    const end = part.indexOf('\n');
    return { words: splitWords(part.slice(0, end)), reply: part.slice(end + 1).trimEnd() };
  });
}

t.test('replies and parse errors are those of the transcript', async (t) => {
  const engine = new Engine({ logger: silentLog, newSession: { requiredMinRx: 1 } });
  t.teardown(() => engine.abandon());
  const control = new BfddControl(engine, '0.5.4');
  for (const [local, remote] of [
    ['10.99.0.1', '10.99.0.2'],
    ['fd99::1', 'fd99::2'],
  ]) {
    t.match(control.execute(['connect', 'local', local!, 'remote', remote!]), { ok: true });
  }
  for (const { words, reply } of transcript('bfdd-control-replies.txt')) {
    t.equal(control.execute(words).text, reply, words.join(' '));
  }
});

/** The session of the transcript's status listings. */
const view = (id: number, local: string, remote: string, discriminator: number): SessionView => ({
  id,
  local,
  remote,
  role: 'passive',
  state: 'Up',
  diagnostic: 0,
  forced: false,
  suspended: false,
  remoteState: 'Up',
  remoteDiagnostic: 0,
  localDiscriminator: discriminator,
  remoteDiscriminator: discriminator,
  times: [
    { state: 'Up', duration: 3154 },
    { state: 'Down', duration: 1 },
  ],
  transmitInterval: 100_000,
  detectionTime: 500_000,
  detectMult: 5,
  desiredMinTx: { advertised: 100_000, effective: 100_000, configured: 100_000 },
  requiredMinRx: { advertised: 100_000, effective: 100_000 },
  remoteDetectMult: 5,
  remoteDesiredMinTx: 100_000,
  remoteRequiredMinRx: 100_000,
});
const VIEWS = [view(1, '10.99.0.1', '10.99.0.2', 1252118308), view(2, 'fd99::1', 'fd99::2', 1211121296)];

/** The reply to a status command about these sessions. */
function status(words: string, views: SessionView[]): string {
  const command = parse(splitWords(words));
  if (command.command !== 'status') throw new Error(`no status command: ${words}`);
  return statusReply(views, command.style, command.select.by === 'all');
}

for (const { words, reply } of transcript('bfdd-control-status.txt')) {
  t.test(words.join(' '), async (t) => {
    const ours = status(words.join(' '), VIEWS).replaceAll(/\d\d:\d\d:\d\d\.\d{3}/g, 'hh:mm:ss.mmm');
    t.equal(ours, reply);
  });
}

t.test('status alone is the contract’s example, byte for byte', async (t) => {
  const one = { ...VIEWS[0]!, local: '10.16.0.103', remote: '10.255.255.255' };
  t.equal(
    status('status', [one]),
    'There are 1 sessions:\nSession 1\n id=1 local=10.16.0.103 (p) remote=10.255.255.255 state=Up',
  );
  t.equal(status('status', []), 'There are 0 sessions:');
  t.equal(status('STATUS', [one]), status('status all', [one]));
});

t.test('a single session has no heading', async (t) => {
  t.equal(status('status 1', [VIEWS[0]!]), ' id=1\n local=10.99.0.1 (p)\n remote=10.99.0.2\n state=Up');
  t.equal(status('status 2 compact', [VIEWS[1]!]), ' id=2 local=fd99::1 (p) remote=fd99::2 state=Up');
});

t.test('the plain state at level 1, what keeps it there from level 2', async (t) => {
  const forced = { ...VIEWS[0]!, state: 'AdminDown' as const, diagnostic: 7, forced: true };
  t.match(status('status', [forced]), / state=AdminDown$/);
  t.match(
    status('status 1 level 2 compact', [forced]),
    / LocalState=AdminDown<Forced: Administratively Down> /,
  );
  const suspended = { ...VIEWS[0]!, suspended: true, diagnostic: 3, state: 'Down' as const };
  t.match(status('status', [suspended]), / state=Down <Suspended>$/);
  t.match(status('status 1 level 2 compact brief', [suspended]), / LocalState=Down<Suspended: 3> /);
});

t.test('intervals that are not in force yet, or not what is configured, are noted', async (t) => {
  const view = {
    ...VIEWS[0]!,
    desiredMinTx: { advertised: 1_000_000, effective: 1_000_000, configured: 100_000 },
    requiredMinRx: { advertised: 50_000, effective: 100_000 },
  };
  const text = status('status 1 level 4', [view]);
  t.match(text, 'LocalDesiredMinTx=1,000,000 us (def 100,000 us)\n');
  t.match(text, 'LocalRequiredMinRx=100,000 us (pending 50,000 us)\n');
  const raised = { ...view, desiredMinTx: { advertised: 300_000, effective: 100_000, configured: 300_000 } };
  t.match(status('status 1 level 4', [raised]), 'LocalDesiredMinTx=100,000 us (pending 300,000 us)\n');
});

t.test('version prints ours in the same shape', async (t) => {
  t.equal(versionReply('1.2.3'), 'bfdd-control v1.2.3\nbfdd-beacon v1.2.3');
});

t.test('words are separated by blanks, line ends and NULs', async (t) => {
  t.strictSame(splitWords(' session 1\0set\nmulti\t5 '), ['session', '1', 'set', 'multi', '5']);
});
