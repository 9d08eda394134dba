import t from 'tap';
import { parsePrefix } from '../../routing/prefix.ts';

t.equal(parsePrefix('10.1.2.3/8'), '10.0.0.0/8', 'clears host bits');
