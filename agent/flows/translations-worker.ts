/** The thread of the translation log (translations.ts starts it): its messages, and nothing else. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { TranslationLog } from './translation-log.ts';
import type { Found, FromWorker, Sources, ToWorker, WorkerOptions } from './translations-messages.ts';

function serve(port: MessagePort, { directory }: WorkerOptions): void {
  const post = (message: FromWorker): void => port.postMessage(message);
  const answer = (id: number, value: Found | Sources): void => post({ type: 'answer', id, answer: value });
  const logFailure = ({ message: reason }: Error): void =>
    post({ type: 'log', level: 'error', message: 'a lookup of translations failed', fields: { reason } });
  const onMessage = (log: TranslationLog, message: ToWorker): void => {
    switch (message.type) {
      case 'settings':
        log.configure(message.settings);
        break;
      case 'find':
        log
          .find(message.lookup)
          .then((found) => answer(message.id, found))
          .catch(logFailure);
        break;
      case 'sources':
        answer(message.id, log.sources());
        break;
      case 'written':
        log.written(message.records);
        break;
      case 'stop':
        log.stop();
        port.close();
        break;
      default:
        message satisfies never;
    }
  };
  port.once('message', ({ settings }: ToWorker & { type: 'settings' }) => {
    const log = new TranslationLog({ directory, post }, settings);
    port.on('message', (message: ToWorker) => onMessage(log, message));
  });
}

if (parentPort !== null) serve(parentPort, workerData as WorkerOptions);
