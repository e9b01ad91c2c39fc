// node main.js MODEL.gguf
// deno run --allow-all main.js MODEL.gguf
// bun main.js MODEL.gguf
import { Foreword } from 'foreword';

const model = await Foreword.load(process.argv[2]);
const messages = [{ role: 'user', content: 'Name three fruits.' }];
for await (const chunk of await model.chat.completions.create({ messages, stream: true, temperature: 0 })) {
  process.stdout.write(chunk.choices[0].delta.content ?? '');
}
await model.dispose();
