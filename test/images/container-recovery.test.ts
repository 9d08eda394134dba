/** Sessions that somebody took away from the image's containers: they come back, after a minute or with a restart. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { until } from '../support/netns.ts';
import { peerUp } from '../support/peers.ts';
import { initialised, supervisor } from './lab.ts';
import { allPeersUp, BFD_COMMAND, BFD_ENV, PROBE, TAKE_SESSIONS_AWAY } from './pod.ts';

const PEERS = [BFD_ENV.BFD_PEER_IPS];

t.test('variant B: sessions that somebody took away come back without a restart', async (t) => {
  const pod = await initialised(t, 'B');
  const frr = await pod.frr();
  const container = supervisor(pod);
  const status = () => {
    const { code, stdout } = container.exec(BFD_COMMAND.B[0], 'status');
    return code === 0 ? JSON.parse(stdout) : undefined;
  };
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready' });
  const { pid } = container;
  t.equal(container.exec(...TAKE_SESSIONS_AWAY).code, 0);
  await until(() => container.exec(...PROBE.status).stdout.startsWith('There are 0 sessions:'), {
    what: 'no session',
  });
  await until(() => container.exec(...PROBE.ready).code !== 0, { what: 'no longer ready' });
  await until(
    () => {
      const now = status();
      t.ok(now.Live, 'live all the time');
      return now.Sessions.some(
        (session: { Attempts: number; LastAction: string }) =>
          session.Attempts > 0 && session.LastAction === 'ReplayConfiguration',
      );
    },
    { what: 'the configuration is replayed', everyMs: 2000 },
  );
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'Up again' });
  await peerUp(frr);
  t.equal(container.pid, pid);
});

t.test('variant A: without sessions it is started again by its liveness probe', async (t) => {
  const pod = await initialised(t, 'A');
  const frr = await pod.frr();
  const container = pod.start({ command: BFD_COMMAND.A, memory: 50, cpu: 200 });
  const up = () => until(() => allPeersUp(container.exec(...PROBE.status).stdout, PEERS), { what: 'Up' });
  await up();
  t.equal(container.exec(...TAKE_SESSIONS_AWAY).code, 0);
  for (let failures = 0; failures < 3; failures++) {
    const { code, stderr } = container.exec(...PROBE.healthcheck);
    t.match({ code, stderr }, { code: 1, stderr: /^There are 0 sessions:/ });
  }
  container.restart();
  // Kubernetes: initialDelaySeconds 1, failureThreshold 1.
  await sleep(1000);
  t.equal(container.exec(...PROBE.prestart).code, 0);
  await up();
  await peerUp(frr);
});
