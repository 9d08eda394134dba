/** What the page shows, and what a person can do on it. Pure. */
import type { SourcesDocument } from '../../../flows/translations.ts';
import type { TranslationsDocument } from '../../../flows/translations-query.ts';
import type { HistoryDocument } from '../../plots/recorder.ts';
import type { Range } from '../../plots/series.ts';
import type { StatusDocument } from '../../status.ts';

export interface PageState {
  status?: StatusDocument;
  /** Of the range that `span` names, or of the one before while it loads. */
  history?: HistoryDocument;
  sources?: SourcesDocument;
  translations?: TranslationsDocument;
  /** The agent's clock at its last answer, Unix milliseconds. */
  now: number;
  /** The agent does not answer, since when by its clock; undefined: it never did. */
  lost?: { since: number | undefined };
  /** Seconds of the timelines and plots. */
  span: '300' | '3600' | '86400';
  /** Which value of the plots is read; undefined: the newest. */
  point?: number | undefined;
  order: 'bytes' | 'connections';
  /** The parameters of the search; none: the newest translations. */
  question: Question;
  /** Why there is no answer to it. */
  searchError?: string;
}

export type Question = Readonly<Record<string, string>>;

/** The fields of the search as they were typed. */
export interface SearchFields {
  external: string;
  internal: string;
  /** UTC without a zone, on the full minute without seconds; or empty. */
  at: string;
}

export interface Actions {
  chooseSpan(span: PageState['span']): void;
  choosePoint(point: PageState['point']): void;
  chooseOrder(order: PageState['order']): void;
  search(fields: SearchFields): void;
  showNewest(): void;
}

/** The range of the plots, by the seconds of the timelines. */
export const RANGE_OF: Readonly<Record<PageState['span'], Range>> = { 300: '5m', 3600: '1h', 86400: '1d' };

/** The search that the fields ask for. */
export function questionOf({ external, internal, at }: SearchFields): Question {
  const moment = at === '' ? '' : `${at.length === 16 ? `${at}:00` : at.slice(0, 19)}Z`;
  const parts = Object.entries({ external: external.trim(), internal: internal.trim(), at: moment });
  return Object.fromEntries(parts.filter(([, text]) => text !== ''));
}

export const asksForNewest = (question: Question): boolean => Object.keys(question).length === 0;
