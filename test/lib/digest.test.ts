import t from 'tap';
import { digest } from '../../lib/digest.ts';

const long = 'x'.repeat(100_000);

t.equal(digest(long), digest('x'.repeat(100_000)), 'equal texts have equal digests');
t.not(digest(long), digest(`${long.slice(1)}y`), 'others have others, long ones');
t.not(digest('a'), digest('b'), 'and short ones');
t.not(digest(digest(long)), digest(long), 'the digest of a long text is no text of its own');
t.ok(digest(long).length < 100, 'that of a long text is short');
