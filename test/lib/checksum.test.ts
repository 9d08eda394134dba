import t from 'tap';
import { checksum } from '../../lib/checksum.ts';

t.test('the checksum is that of RFC 1071', async (t) => {
  // The example of RFC 1071 3: the sum of these words is ddf2.
  t.equal(checksum(Buffer.from('0001f203f4f5f6f7', 'hex')), 0xffff ^ 0xddf2);
  t.equal(checksum(Buffer.from('0001f203', 'hex'), Buffer.from('f4f5f6f7', 'hex')), 0xffff ^ 0xddf2);
  t.equal(checksum(Buffer.from('ff', 'hex')), 0x00ff, 'an odd length is padded with zero');
  t.equal(checksum(Buffer.from('fffe0001', 'hex')), 0, 'a message with a valid checksum sums up to 0');
});
