/** Trying out what answers can be made to look like, and two models beside each other. */
import { Foreword } from 'foreword';
import { ask, figuresOf } from '../chat/actions.js';
import { changed, state } from '../state.js';
import { t } from '../strings.js';

/** Parses what the user wrote; says where it is no JSON. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(t.noJson(error.message));
  }
}

/** The fields of a request that the playground is about. */
function formOf({ kind, schema, tools }) {
  if (kind === 'tools') return { tools: parsed(tools), tool_choice: 'required' };
  return { response_format: { type: 'json_schema', json_schema: { name: 'answer', schema: parsed(schema) } } };
}

/** Lets the model answer in the form that was written down. */
export async function tryOut(prompt) {
  const { playground: lab, model, settings } = state;
  if (lab.running || !model) return;
  const controller = new AbortController();
  Object.assign(lab, { prompt, output: '', error: null, running: controller });
  changed();
  try {
    const { temperature, top_p, max_tokens } = settings;
    const request = { stream: true, temperature, top_p, max_tokens, ...formOf(lab) };
    // Calls of tools are a matter of chats; a model that was not made for those can fit a schema, too.
    const asChat = model.info.chat || lab.kind === 'tools';
    const stream = asChat ? model.chat.completions.create({ ...request, messages: [{ role: 'user', content: prompt }] }, { signal: controller.signal }) : model.completions.create({ ...request, prompt }, { signal: controller.signal });
    for await (const { choices } of await stream) {
      const { content, tool_calls: calls = [] } = choices[0]?.delta ?? {};
      lab.output += content ?? choices[0]?.text ?? '';
      // A call comes as its name, then its arguments in pieces.
      for (const { function: call } of calls) lab.output += `${call.name ? `${lab.output && '\n'}${call.name} ` : ''}${call.arguments ?? ''}`;
      changed();
    }
  } catch (error) {
    if (error.code !== 'cancelled') lab.error = t.error(error);
  }
  lab.running = null;
  changed();
}

/** Loads the second model of a comparison. */
export async function loadOther(source, label) {
  const { compare, settings } = state;
  leaveOther();
  const controller = new AbortController();
  Object.assign(compare, { label, loading: controller, error: null, part: 0 });
  changed();
  try {
    const { backend, threads, contextLength } = settings;
    const options = { backend, ...(threads && { threads }), contextLength, mirror: new URL('models/', document.baseURI), signal: controller.signal };
    const onProgress = ({ loadedBytes, totalBytes }) => {
      compare.part = totalBytes ? loadedBytes / totalBytes : 0;
      changed();
    };
    const other = await Foreword.load(source, { ...options, onProgress });
    if (compare.loading === controller) compare.other = other;
    else void other.dispose();
  } catch (error) {
    if (error.code !== 'cancelled') compare.error = t.error(error);
  }
  if (compare.loading === controller) compare.loading = null;
  changed();
}

/** Frees the second model's memory. */
export function leaveOther() {
  const { compare } = state;
  compare.loading?.abort();
  compare.running?.abort();
  void compare.other?.dispose();
  Object.assign(compare, { other: null, label: '', loading: null, answers: [] });
  changed();
}

/** Lets both models answer, one after the other: beside each other, they would take each other's processors. */
export async function compareOn(prompt) {
  const { compare, model, modelName, settings } = state;
  if (compare.running || !compare.other || !model || !prompt.trim()) return;
  const controller = (compare.running = new AbortController());
  compare.error = null;
  const both = [[model, modelName], [compare.other, compare.label]];
  compare.answers = both.map(() => ({ role: 'assistant', content: '' }));
  for (const [i, [each, name]] of both.entries()) {
    if (!controller.signal.aborted) await answerInto(compare.answers[i], each, name, prompt, settings, controller.signal);
  }
  compare.running = null;
  changed();
}

async function answerInto(reply, model, name, prompt, settings, signal) {
  try {
    for await (const chunk of await ask(model, [{ role: 'user', content: prompt }], settings, false, signal)) {
      const [choice] = chunk.choices;
      reply.content += choice?.delta?.content ?? choice?.text ?? '';
      if (chunk.usage) reply.figures = figuresOf(chunk, name);
      changed();
    }
  } catch (error) {
    if (error.code !== 'cancelled') state.compare.error = t.error(error);
  }
}
