/** What `spec.fastPath` rules out, and what it is without effect for (docs/design/0013). Pure. */
import type { Policy, PolicyWarning } from './model.ts';
import type { Path } from './parse.ts';

/** What reports an error at a field. */
interface Failing {
  fail(path: Path, message: string, at?: 'key' | 'value'): void;
}

/** Reports what the fast path would break. */
export function checkFastPath(document: Failing, policy: Policy): void {
  const { fastPath, translationLog, bandwidth, addressLimits = [], group } = policy;
  if (!fastPath) return;
  const fail = (message: string): void => document.fail(['spec', 'fastPath'], message, 'key');
  if (translationLog === undefined) {
    fail(
      'needs spec.translationLog.enabled: true; only connection tracking counts packets of the fast path, and the log reads it',
    );
  }
  if (bandwidth !== undefined) {
    fail('cannot be used with spec.bandwidth, which packets of the fast path do not wait for; remove one');
  }
  if (addressLimits.length > 0) {
    const names = addressLimits.map(({ name }) => name).join(', ');
    fail(`cannot be used with the bandwidth limit of an EIP (${names}); remove one, or limit a policy`);
  }
  if (group !== undefined) {
    fail(
      'cannot be used with spec.group: the kernel reports neither state nor timeout of connections in the fast path, and members could not take them over; remove one',
    );
  }
}

/** Warns about policies whose connections stay out of it. */
export const fastPathWarnings = ({ fastPath, rules }: Policy): PolicyWarning[] =>
  rules.flatMap(({ name, bandwidth }) =>
    fastPath && bandwidth
      ? [
          {
            message: `policy ${name} has a bandwidth limit: its connections do not use the fast path`,
            about: { policy: name, path: ['bandwidth'] },
          },
        ]
      : [],
  );
