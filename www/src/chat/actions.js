/** What the user can do with chats. */
import { busy, idle } from '../crash.js';
import { focus, measure, setError, undoable } from '../shell/actions.js';
import { plots } from '../shell/plots.js';
import { changed, drop, newChat, save, state } from '../state.js';
import { t } from '../strings.js';
import { textOf } from './files.js';
import { keep, recall, tidy } from './sessions.js';
import { addVersion, dropVersion, showVersion } from './versions.js';

/** Sends a message with the files that were chosen, and lets the model answer. */
export async function send(text) {
  const { files } = state;
  if (!(text.trim() || files.length) || state.answering || !state.model) return;
  state.files = [];
  state.chat.messages.push({ role: 'user', content: text.trim(), ...(files.length && { files }) });
  await answer();
}

/** Asks with other words in place of a message of the user's; the former ones stay, with all that followed, as a version. */
export async function edit(index, text) {
  const { messages } = state.chat;
  const { files } = messages[index];
  if (!(text.trim() || files) || state.answering || !state.model) return;
  state.editing = -1;
  addVersion(messages, index, { role: 'user', content: text.trim(), ...(files && { files }) });
  await answer();
}

/** Answers the last question once more; the former answer stays as a version. */
export async function regenerate() {
  if (state.answering || !state.model) return;
  await answer({ again: state.chat.messages.at(-1)?.role === 'assistant' });
}

/** Shows another version of a message, and what followed it. */
export async function turnTo(index, place) {
  const { chat } = state;
  if (state.answering) return;
  state.editing = -1;
  showVersion(chat.messages, index, place);
  changed();
  await save(chat, { inPlace: true });
}

/** Opens a message of the user's for changes. */
export function startEditing(index) {
  state.editing = index;
  changed();
  focus('.editing textarea');
}

export function stop() {
  state.answering?.abort();
}

/** The stream of an answer, or of what follows the last message where it `continues`. */
export function ask(model, history, settings, continues, signal) {
  const { temperature, top_p, max_tokens, early } = settings;
  const text = asText(model, history, settings);
  const request = { stream: true, temperature, top_p, max_tokens, ...text, ...(early && model.info.sidecar && { prefill: 'progressive' }) };
  if (!text.messages) return model.completions.create(request, { signal });
  return model.chat.completions.create({ ...request, overflow: 'shift', ...(continues && { continue_final_message: true }) }, { signal });
}

/** What a model reads of a history: messages, or one text where it was not made for chats and only continues it. */
function asText(model, history, { system }) {
  if (!model.info.chat) return { prompt: inOne(history) };
  return { messages: system.trim() ? [{ role: 'system', content: system }, ...history] : history };
}

const inOne = (history) => history.map((m) => m.content).join('\n');

const historyOf = (messages) => messages.map((m) => ({ role: m.role, content: textOf(m) }));

/** A question and its answer. */
const TURN = 2;

/** The first message of a history that fits into the context. Of chats the core leaves turns out itself; what a model that was not made for chats reads is one text. */
async function firstThatFits(model, history) {
  let first = 0;
  if (model.info.chat) return first;
  while (first + TURN < history.length && (await model.countTokens({ prompt: inOne(history.slice(first)) })) >= model.info.contextLength) first += TURN;
  return first;
}

/** Lets the model answer: `again`, beside the last answer, or by going on with one that has `begun`. */
function answer(how = {}) {
  return (state.ending = write(how));
}

/** Goes on with the last answer, which had become as long as one may. */
export function goOn() {
  if (state.answering || !state.model) return;
  return answer({ begun: state.chat.messages.at(-1) });
}

async function write({ again = false, begun }) {
  const { model, chat, settings } = state;
  const controller = (state.answering = new AbortController());
  const history = historyOf(chat.messages.slice(0, again ? -1 : undefined));
  const reply = begun ?? { role: 'assistant', content: '', guessed: [] };
  delete reply.finish;
  chat.updated = Date.now();
  // A reload in the middle of the answer must lose neither the question nor the former answer.
  await save(chat);
  if (again) addVersion(chat.messages, chat.messages.length - 1, reply);
  else if (!begun) chat.messages.push(reply);
  if (!state.coming && typeof state.source === 'string') busy({ what: 'answer', source: state.source, label: state.modelName, contextLength: settings.contextLength });
  setError(null);
  state.announced = '';
  changed();
  try {
    await recall(model, chat);
    const first = await firstThatFits(model, history);
    for await (const chunk of await ask(model, history.slice(first), settings, Boolean(begun), controller.signal)) {
      const [choice] = chunk.choices;
      if (choice?.delta?.reasoning_content) reply.thoughts = `${reply.thoughts ?? ''}${choice.delta.reasoning_content}`;
      if (choice?.finish_reason) reply.finish = choice.finish_reason;
      add(reply, choice?.delta?.content ?? choice?.text ?? '', choice?.accepted);
      plots.token();
      if (chunk.usage) {
        noteUsage(chunk.usage);
        chat.from = first + (chunk.usage.prompt_tokens_details.dropped_messages ?? 0);
        reply.figures = figuresOf(chunk, state.coming ? model.info.name : state.modelName);
      }
      changed();
    }
  } catch (error) {
    if (error.code !== 'cancelled') setError(t.error(error), error.code === 'context_length_exceeded' ? null : { label: t.tryAgain, act: regenerate });
    if (['worker_lost', 'out_of_memory', 'internal'].includes(error.code)) {
      state.model = null;
      void model.dispose().catch(() => {});
    }
  } finally {
    if (reply.content) keep(model, chat, asText(model, historyOf(chat.messages.slice(chat.from)), settings));
    else if (!reply.thoughts) dropVersion(chat.messages, chat.messages.indexOf(reply));
    if (state.answering === controller) state.answering = null;
    if (!state.coming) idle();
    state.announced = reply.content && t.modelSays(reply.content);
    // A chat that was deleted meanwhile stays so.
    if (!chat.deleted) await save(chat);
    void measure();
    changed();
  }
}

/** Goes on with an answer; `guessed` are the stretches of its text that accepted guesses wrote. */
function add(reply, text, accepted) {
  const from = reply.content.length;
  reply.content += text;
  if (!accepted) return;
  const last = reply.guessed.at(-1);
  if (last?.[1] === from) last[1] = reply.content.length;
  else reply.guessed.push([from, reply.content.length]);
}

/** What is said under an answer: who wrote it, how fast, and what made it fast. */
export function figuresOf({ usage }, by) {
  const { prompt_tokens: read, prompt_tokens_details: prompt, completion_tokens: written, completion_tokens_details: details, timings } = usage;
  return {
    by,
    ms: timings.ttft_ms,
    speed: timings.decode_tok_s,
    read,
    reused: prompt.cached_tokens,
    predicted: prompt.predicted_tokens ?? 0,
    written,
    guessed: details.accepted_prediction_tokens,
  };
}

/** From so many tokens to read on, the wait for the first word is kept for comparison. */
const LONG = 128;

function noteUsage(usage) {
  state.usage = usage;
  const { cached_tokens, predicted_tokens } = usage.prompt_tokens_details;
  const tokens = usage.prompt_tokens - cached_tokens;
  if (tokens >= LONG) state.waits[predicted_tokens ? 'predicted' : 'exact'] = { tokens, ms: usage.timings.ttft_ms };
}

export function open(chat) {
  stop();
  state.chat = chat;
  state.view = 'chat';
  state.menu = false;
  changed();
}

export function startNew() {
  stop();
  newChat();
  state.view = 'chat';
  state.menu = false;
  changed();
  focus('#prompt');
}

/** Opens the user's last message for changes; `false` where there is none. */
export function editLast() {
  const last = state.chat.messages.findLastIndex(({ role }) => role === 'user');
  if (last < 0 || state.answering || !state.model) return false;
  startEditing(last);
}

/** Opens a chat's title for changes. */
export function startRenaming(chat) {
  state.renaming = chat;
  changed();
  focus('.renaming input');
}

export async function rename(chat, title) {
  state.renaming = null;
  if (title.trim()) chat.title = title.trim();
  changed();
  await save(chat, { inPlace: true });
}

/** Keeps a chat at the top of the list, or no longer. */
export async function pin(chat) {
  chat.pinned = !chat.pinned;
  changed();
  await save(chat, { inPlace: true });
}

export async function remove(chat) {
  const open = state.chat.id === chat.id;
  chat.deleted = true;
  if (open) {
    stop();
    newChat();
  }
  await drop(chat);
  void tidy();
  undoable(t.chatDeleted(chat.title), async () => {
    delete chat.deleted;
    chat.revision = 0;
    await save(chat);
    if (open) state.chat = chat;
  });
}
