import { Foreword } from 'foreword';

const output = document.querySelector('output');
const source = new URLSearchParams(location.search).get('model') ?? 'smollm2-135m';

const model = await Foreword.load(source, { onProgress: ({ phase }) => (output.textContent = `${phase} …`) });
output.textContent = '';
const messages = [{ role: 'user', content: 'Name three fruits.' }];
for await (const chunk of await model.chat.completions.create({ messages, stream: true, temperature: 0 })) {
  output.append(chunk.choices[0].delta.content ?? '');
}
