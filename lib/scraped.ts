/** Metrics whose values are kept elsewhere, by the kernel or another process, and read at each scrape. */
import { Counter, Gauge, type Registry } from 'prom-client';

export interface Sample {
  labels?: Record<string, string | number>;
  value: number;
}

export interface ScrapedMetric {
  type: 'counter' | 'gauge';
  name: string;
  help: string;
  labels?: string[];
  /** The samples now; none: the metric has no series in this scrape. */
  read(): Iterable<Sample> | Promise<Iterable<Sample>>;
}

/** The sample of a metric without labels; none where the value is unknown. */
export const single = (value: number | undefined): Sample[] => (value === undefined ? [] : [{ value }]);

/**
 * Registers a metric. Samples with the same labels are added up. A counter whose source restarts at 0 goes back, so its
 * source must not.
 */
export function addScraped(registry: Registry, { type, name, help, labels = [], read }: ScrapedMetric): void {
  new (type === 'gauge' ? Gauge : Counter)({
    name,
    help,
    labelNames: labels,
    registers: [registry],
    async collect() {
      const samples = await read();
      this.reset();
      // prom-client begins a metric without labels at 0.
      if (labels.length === 0) this.remove();
      for (const { labels = {}, value } of samples) this.inc(labels, value);
    },
  });
}
