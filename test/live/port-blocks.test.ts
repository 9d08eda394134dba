// Port blocks with the whole agent: the server sees each source in its block, and a full block is one source's.
import t from 'tap';
import type { TranslationsDocument } from '../../agent/flows/translations-query.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS } from '../support/topology.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';
import { blockOf, burst, EGRESS, lab, MOVED, OTHER, SIZE } from './port-lab.ts';

t.test('each source has its ports, before and after an edit, and can be told without a log', async (t) => {
  const { client, server, policy, start } = lab(scopeOf(t));
  let agent = start();
  await agent.synced();
  await startEchoServer(server);
  const hosts = [4, 6].map((family) => ADDRESS.server[family as 4 | 6]);
  const traffic = await Traffic.open(
    client,
    hosts.flatMap((host) => [`tcp:${host}`, `udp:${host}`]),
  );
  const familyOf = (path: string): 4 | 6 => (path.includes('fd00') ? 6 : 4);
  for (const { path, seen } of await traffic.report()) t.ok(blockOf(familyOf(path), 9).includes(seen), path);

  for (const family of [4, 6] as const) {
    const seen = burst(client, family, OTHER[family], 3 * SIZE);
    t.same(
      seen.toSorted(),
      blockOf(family, 10).toSorted(),
      `IPv${family}: a full block, and the rest dropped`,
    );
    const more = burst(client, family, ADDRESS.client[family], SIZE - 1);
    t.equal(more.length, SIZE - 1, 'the other source goes on');
    t.ok(more.every((one) => blockOf(family, 9).includes(one)));
  }

  const at = new Date().toISOString();
  const lookup = async (external: string, time: string) => {
    const query = new URLSearchParams({ external, proto: 'tcp', at: time });
    const { body } = await agent.ask('GET', `/v1/translations?${query}`);
    const { computed = [] } = JSON.parse(body) as TranslationsDocument;
    return computed.map(({ sourceIP, until: end }) => `${sourceIP}${end === undefined ? '' : ' then'}`);
  };
  const { code, stdout } = agent.cli('translations', '--external', `${EGRESS[4]}:1097`, '--at', at);
  t.equal(code, 0);
  t.match(stdout, /^10\.17\.0\.9 +172\.17\.0\.50 1096-1103 +tenants +since \S+$/m);
  t.same(await lookup(`${EGRESS[4]}:1097`, at), [ADDRESS.client[4]]);
  t.same(await lookup(`[${EGRESS[6]}]:1097`, at), [ADDRESS.client[6]]);
  t.same(await lookup(`${EGRESS[4]}:1023`, at), [], 'nobody has a port below 1024');
  t.match(agent.cli('translations', '--external', `${EGRESS[4]}:1023`), {
    ...{ code: 6, stdout: /^none found: there is no translation log .*, only port blocks were searched\n$/ },
  });

  policy.set(MOVED);
  await until(
    async () =>
      (await traffic.report())
        .filter(({ path }) => path.startsWith('udp:'))
        .every(({ path, seen }) => blockOf(familyOf(path), 1).includes(seen)),
    { what: 'UDP has the ports of the new block' },
  );
  for (const family of [4, 6] as const) {
    t.same(burst(client, family, OTHER[family], SIZE).toSorted(), blockOf(family, 2).toSorted());
  }
  t.same(await lookup(`${EGRESS[4]}:1033`, new Date().toISOString()), [ADDRESS.client[4]]);
  t.same(await lookup(`${EGRESS[4]}:1097`, at), [`${ADDRESS.client[4]} then`], 'before the edit');
  await agent.stop();
  agent = start();
  await agent.synced();
  t.same(await lookup(`${EGRESS[4]}:1097`, at), [`${ADDRESS.client[4]} then`], 'a restart forgets nothing');

  for (const { path, seen, broken } of await traffic.close()) {
    if (!path.startsWith('tcp:')) continue;
    t.equal(broken, undefined, path);
    t.ok(blockOf(familyOf(path), 9).includes(seen), 'an established connection keeps its port');
  }
});
