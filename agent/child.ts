/**
 * The entry of the agent process: signals that come while the rest loads wait for it. Its parent drains and says
 * when to end, so SIGTERM and SIGINT, which a terminal sends to both, do nothing here.
 */
import '../lib/signals.ts';

await import('./process.ts');
