import t from 'tap';
import { parseJson } from '../../lib/json.ts';

const parse = (text: string, maxValues: number) => parseJson(Buffer.from(text), maxValues);

t.test('values are counted before they cost memory', async (t) => {
  t.same(parse('{"a":[1,2,3],"b":"x,[{,"}', 6), { a: [1, 2, 3], b: 'x,[{,' });
  t.throws(() => parse('{"a":[1,2,3],"b":"x,[{,"}', 4), /more than 4 values/);
  t.same(parse('"a\\",[[["', 0), 'a",[[[', 'a quotation mark in a string does not end it');
  t.same(parse('["\\\\",","]', 2), ['\\', ',']);
  t.throws(() => parse('['.repeat(1 << 20), 1000), /more than 1000 values/);
});

t.test('what is damaged is an exception', async (t) => {
  for (const text of ['', '{', '"', '"\\', '[1,]', '\0', 'nul']) t.throws(() => parse(text, 10));
});
