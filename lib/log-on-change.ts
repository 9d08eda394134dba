/**
 * For a condition that is checked again and again: log it when it appears or changes, and once when it ends. Pure.
 *
 *     } catch (error) {
 *       if (failures.isNew(error.message)) log.warn({ err: error }, 'cannot listen, retrying');
 *     }
 *     if (failures.ended()) log.info('listening again');
 */
export class LogOnChange {
  readonly #current = new Map<string, string>();

  /** Notes that the condition holds. True unless it held with this text before. `key`: which of several. */
  isNew(text: string, key = ''): boolean {
    if (this.#current.get(key) === text) return false;
    this.#current.set(key, text);
    return true;
  }

  /** Notes that the condition does not hold. True when it held before. */
  ended(key = ''): boolean {
    return this.#current.delete(key);
  }
}
