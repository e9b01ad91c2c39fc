// What tests of WebGPU share.

/** A model of random weights: what becomes of a device does not depend on the model, and this one is read and its answer written at once. */
export const TINY = '/models/llama.gguf';

/** Has a text gone on with, `turns` times: one without near-ties, and short, as a software GPU writes a few tokens a second. */
export const ask = async (Foreword, { backend, url = '/smol.gguf', turns = 1, ...options }) => {
  const phases = [];
  const model = await Foreword.load(url, { cache: false, contextLength: 256, ...options, ...(backend && { backend }), onProgress: ({ phase }) => phases.push(phase) });
  phases.length = 0;
  let prompt = '1, 2, 3, 4,';
  const texts = [];
  const infos = [model.info];
  for (let i = 0; i < turns; i++) {
    let text = '';
    try {
      const stream = await model.completions.create({ prompt, temperature: 0, max_tokens: 6, stream: true });
      for await (const chunk of stream) text += chunk.choices[0].text;
    } catch (error) {
      text = { code: error.code, message: error.message };
    }
    texts.push(text);
    infos.push(model.info);
    prompt += text.code ? '' : text;
  }
  const stats = await model.stats();
  await model.dispose();
  return { infos, texts, stats, again: [...new Set(phases)] };
};

/** A GPU with 64 MiB. */
export const SMALL = `
  let taken = 0;
  const create = GPUDevice.prototype.createBuffer;
  GPUDevice.prototype.createBuffer = function (wish) { taken += wish.size; return create.call(this, wish); };
  const pop = GPUDevice.prototype.popErrorScope;
  GPUDevice.prototype.popErrorScope = async function () { return (await pop.call(this)) ?? (taken > 64 << 20 ? new GPUOutOfMemoryError('') : null); };`;
