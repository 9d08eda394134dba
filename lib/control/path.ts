/** Where the control socket is, for those who serve it and for those who only call. */
import { join } from 'node:path';

export const socketPath = (stateDir: string): string => join(stateDir, 'control.sock');
