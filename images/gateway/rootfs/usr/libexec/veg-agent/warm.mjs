// Fills Node's compile cache (NODE_COMPILE_CACHE): imports what the programs share, without starting one.
import { readdirSync } from 'node:fs';

const directory = '/opt/veg-agent/dist/agent';
for (const name of readdirSync(directory)) {
  if (name.startsWith('chunk-')) await import(`${directory}/${name}`);
}
