export default {
  mode: 'production',
  entry: './main.js',
  // `main.js` awaits at its top, as modules may.
  output: { filename: 'main.js', publicPath: 'auto', module: true },
  experiments: { outputModule: true },
};
