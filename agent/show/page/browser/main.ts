/** The script of the page: asks the agent for its documents every two seconds while the page is visible, and draws them. */
import { h, render } from 'preact';
import type { SourcesDocument } from '../../../flows/translations.ts';
import type { TranslationsDocument } from '../../../flows/translations-query.ts';
import { overview } from '../../overview.ts';
import type { HistoryDocument } from '../../plots/recorder.ts';
import type { StatusDocument } from '../../status.ts';
import { AgentClient } from './agent-client.ts';
import { app, titleOf } from './app.ts';
import { type Actions, asksForNewest, type PageState, type Question, questionOf, RANGE_OF } from './state.ts';

/** Between two requests, ms. */
const PERIOD = 2000;
/** The longest time between two requests for the plots, s. */
const PLOT_PERIOD = 30;
/** Translations of an answer: the newest, or those of a search. */
const NEWEST = 30;
const FOUND = 200;

const agent = new AgentClient(fetch.bind(globalThis), Date.now);
const root = document.getElementById('page')!;
const state: PageState = { now: Date.now(), span: '3600', order: 'bytes', question: {} };
/** When the agent last answered, Unix ms by the clock here. */
let answeredAt: number | undefined;

function draw(): void {
  if (state.status !== undefined) document.title = titleOf(overview(state.status, state.now));
  document.documentElement.dataset.state = state.lost === undefined ? 'live' : 'away';
  render(h(app, { state, actions }), root);
}

/** When the plots were asked for, Unix ms by the clock here. */
let plottedAt = Number.NEGATIVE_INFINITY;

/** Asks for the plots of the chosen range, when they have changed or it is another one. */
async function refreshPlots(): Promise<void> {
  const range = RANGE_OF[state.span];
  const { history } = state;
  const fresh =
    history?.range === range && Date.now() - plottedAt < 1000 * Math.min(history.step, PLOT_PERIOD);
  if (fresh) return;
  plottedAt = Date.now();
  const found = await agent.get<HistoryDocument>(`data/history?range=${range}`);
  if (range === RANGE_OF[state.span]) state.history = found;
}

async function search(): Promise<void> {
  const { question } = state;
  try {
    // The newest are asked for again and again: only a search goes to the whole group.
    const scope = asksForNewest(question) ? { scope: 'local', limit: `${NEWEST}` } : { limit: `${FOUND}` };
    const query = new URLSearchParams({ ...question, ...scope });
    const found = await agent.get<TranslationsDocument>(`data/translations?${query}`);
    if (question !== state.question) return;
    state.translations = found;
    delete state.searchError;
  } catch (error) {
    if (question !== state.question) return;
    state.searchError = (error as Error).message;
  }
  draw();
}

async function refresh(): Promise<void> {
  try {
    const status = await agent.get<StatusDocument>('data/status');
    answeredAt = Date.now();
    state.status = status;
    state.now = agent.now();
    delete state.lost;
    await refreshPlots();
    draw();
    if (!status.translationLog) return;
    const [sources] = await Promise.all([
      agent.get<SourcesDocument>('data/sources'),
      // The answer to a search stays as it is.
      asksForNewest(state.question) ? search() : undefined,
    ]);
    state.sources = sources;
    draw();
  } catch {
    if (answeredAt !== undefined && Date.now() - answeredAt < 2 * PERIOD) return;
    const elapsed = answeredAt === undefined ? undefined : Date.now() - answeredAt;
    state.lost = { since: elapsed === undefined ? undefined : agent.now() - elapsed };
    draw();
  }
}

let timer: ReturnType<typeof setTimeout> | undefined;
let refreshing = false;

/** Refreshes now, and every `PERIOD` from now on while the page is visible. Never rejects. */
async function poll(): Promise<void> {
  if (refreshing) return;
  refreshing = true;
  clearTimeout(timer);
  if (!document.hidden) await refresh();
  refreshing = false;
  timer = setTimeout(poll, PERIOD);
}

function ask(question: Question): void {
  state.question = question;
  void search();
}

const actions: Actions = {
  chooseSpan(span) {
    state.span = span;
    state.point = undefined;
    draw();
    void poll();
  },
  choosePoint(point) {
    state.point = point;
    draw();
  },
  chooseOrder(order) {
    state.order = order;
    draw();
    void poll();
  },
  search: (fields) => ask(questionOf(fields)),
  showNewest: () => ask({}),
};

document.addEventListener('visibilitychange', () => void poll());
draw();
void poll();
