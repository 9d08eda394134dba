import { Registry } from 'prom-client';
import t from 'tap';
import { addScraped, type Sample, single } from '../../lib/scraped.ts';

/** The samples of a scrape of one metric, without comments. */
async function scrape(type: 'counter' | 'gauge', labels: string[], read: () => Sample[] | Promise<Sample[]>) {
  const registry = new Registry();
  addScraped(registry, { type, name: 'a_metric', help: 'Help.', labels, read });
  return async () =>
    (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
}

for (const type of ['counter', 'gauge'] as const) {
  t.test(`a ${type} has the samples of its source at each scrape, and no other`, async (t) => {
    let samples: Sample[] = [{ labels: { object: 'rule' }, value: 2 }];
    const lines = await scrape(type, ['object'], () => samples);
    t.strictSame(await lines(), ['a_metric{object="rule"} 2']);
    t.strictSame(await lines(), ['a_metric{object="rule"} 2'], 'nothing is counted twice');
    samples = [...samples, { labels: { object: 'rule' }, value: 3 }];
    t.strictSame(await lines(), ['a_metric{object="rule"} 5'], 'samples with the same labels are added up');
    samples = [{ labels: { object: 'chain' }, value: 0 }];
    t.strictSame(await lines(), ['a_metric{object="chain"} 0']);
  });

  t.test(`a ${type} without labels is absent where its value is unknown, not 0`, async (t) => {
    let value: number | undefined = 0;
    const lines = await scrape(type, [], async () => single(value));
    t.strictSame(await lines(), ['a_metric 0']);
    value = undefined;
    t.strictSame(await lines(), []);
    value = 7;
    t.strictSame(await lines(), ['a_metric 7']);
  });
}
