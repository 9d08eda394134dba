/** The path of the control socket, for its server and its clients. */
import { join } from 'node:path';

export const socketPath = (stateDir: string): string => join(stateDir, 'control.sock');
