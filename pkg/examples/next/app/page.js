'use client';

import { useEffect, useState } from 'react';

async function* answer(source, messages, signal) {
  // In the browser only: the server that renders the page has no use for a model.
  const { Foreword } = await import('foreword');
  const model = await Foreword.load(source, { signal });
  try {
    const stream = await model.chat.completions.create({ messages, stream: true, temperature: 0 }, { signal });
    for await (const chunk of stream) yield chunk.choices[0].delta.content ?? '';
  } finally {
    await model.dispose();
  }
}

export default function Page() {
  const [text, setText] = useState('');
  useEffect(() => {
    // React mounts twice while developing: what the first one began is cancelled.
    const controller = new AbortController();
    (async () => {
      const source = new URLSearchParams(location.search).get('model') ?? 'smollm2-135m';
      const messages = [{ role: 'user', content: 'Name three fruits.' }];
      for await (const piece of answer(source, messages, controller.signal)) setText((before) => before + piece);
    })().catch((error) => error.code !== 'cancelled' && setText(error.message));
    return () => controller.abort();
  }, []);
  return <output>{text}</output>;
}
