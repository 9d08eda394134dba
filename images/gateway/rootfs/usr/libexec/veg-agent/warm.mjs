// Fills Node's compile cache (NODE_COMPILE_CACHE): loads what the programs share, and starts none of them.
import { readdirSync } from 'node:fs';

const directory = '/opt/veg-agent/dist/agent';
for (const name of readdirSync(directory)) {
  if (name.startsWith('chunk-')) await import(`${directory}/${name}`);
}
