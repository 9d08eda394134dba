/**
 * Loads the TypeScript of the project as kernels.ts has left it without types, in dist/.stripped. Node strips types by
 * WebAssembly, which crashes in one of ten processes in machines that QEMU emulates (V8: nodejs/node#64500 and its like), and takes
 * most of the time in which a small test starts there. Nothing of the product is TypeScript where it runs, nor WebAssembly.
 */
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';

const root = new URL('../../', import.meta.url);

registerHooks({
  load(url, context, next) {
    if (!url.startsWith(root.href) || !url.endsWith('.ts')) return next(url, context);
    const stripped = new URL(`dist/.stripped/${url.slice(root.href.length)}`, root);
    return { format: 'module', source: readFileSync(stripped), shortCircuit: true };
  },
});
