// The package's own client, Foreword.connect, over a server at FOREWORD_URL. The package has to be built.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Foreword } from '../../../pkg/dist/index.js';

const CHAT = { messages: [{ role: 'user', content: 'Name three fruits.' }], temperature: 0, max_tokens: 12 };

test('Foreword.connect', async () => {
  const baseURL = `${process.env.FOREWORD_URL}/v1`;
  await assert.rejects(Foreword.connect({ baseURL, apiKey: 'wrong' }), (error) => error.code === 'invalid_request' && /no key/.test(error.message));
  const model = await Foreword.connect({ baseURL, apiKey: 'secret' });
  const whole = await model.chat.completions.create(CHAT);
  let text = '';
  for await (const { choices } of await model.chat.completions.create({ ...CHAT, stream: true })) text += choices[0].delta.content ?? '';
  assert.equal(text, whole.choices[0].message.content);
  const { data } = await model.embeddings.create({ model: 'bert', input: ['a', 'b'] });
  assert.equal(data.length, 2);
  await assert.rejects(model.chat.completions.create({ ...CHAT, messages: [{ role: 'user', content: 'word '.repeat(4000) }] }), (error) => error.code === 'context_length_exceeded');
  await assert.rejects(model.rerank({ query: 'a', documents: ['b'] }), (error) => error.code === 'invalid_request');
});
