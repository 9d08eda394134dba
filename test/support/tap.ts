/** What live tests share of tap. */
import type { Test } from 'tap';
import { Scope } from './netns.ts';

/** A scope that goes with the test; of a test that failed, what the daemons said is printed. */
export function scopeOf(t: Test): Scope {
  const scope = new Scope();
  t.teardown(() => {
    if (!t.passing()) t.comment(scope.logs());
    scope.dispose();
  });
  return scope;
}
