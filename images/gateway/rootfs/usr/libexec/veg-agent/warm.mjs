// Fills Node's compile cache (NODE_COMPILE_CACHE): imports what the programs load, without starting one. Programs have plain
// names; parts have a digest at the end.
import { readdirSync } from 'node:fs';

const directory = '/opt/veg-agent/dist/agent';
for (const name of readdirSync(directory)) {
  if (
    /^(?:agent-fork|chunk|early-listener|env|execa|libc|log|options|priority|process|sealed-start|signals|supervisor)-\w+\.js$/.test(
      name,
    )
  ) {
    await import(`${directory}/${name}`);
  }
}
