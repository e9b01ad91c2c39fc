/** Every word that a user of the page reads, in English and German; nothing else holds any. */

/** `key: [English, German]`; functions where words surround values. */
export const STRINGS = {
  // The page.
  description: ['A language model in your browser: nothing leaves your device.', 'Ein Sprachmodell in Ihrem Browser: Nichts verlässt Ihr Gerät.'],
  noscript: ['Foreword runs a language model in this page, so it needs JavaScript.', 'Foreword lässt ein Sprachmodell in dieser Seite laufen und braucht dafür JavaScript.'],
  skip: ['Skip to the conversation', 'Zum Gespräch springen'],
  menu: ['Menu', 'Menü'],
  closeMenu: ['Close the menu', 'Menü schließen'],
  close: ['Close', 'Schließen'],
  cancel: ['Cancel', 'Abbrechen'],
  dismiss: ['Dismiss', 'Ausblenden'],
  undo: ['Undo', 'Rückgängig'],
  newVersion: ['There is a newer version of this page.', 'Es gibt eine neuere Version dieser Seite.'],
  reload: ['Reload', 'Neu laden'],
  copy: ['Copy', 'Kopieren'],
  copied: ['Copied', 'Kopiert'],
  remove: ['Delete', 'Löschen'],
  tryAgain: ['Try again', 'Noch einmal'],
  benchmark: ['Benchmark', 'Messung'],
  settings: ['Settings', 'Einstellungen'],
  documentation: ['Documentation', 'Dokumentation'],
  onDevice: ['Runs on your device. Nothing you write leaves it.', 'Läuft auf Ihrem Gerät. Nichts, was Sie schreiben, verlässt es.'],
  statistics: ['Statistics', 'Zahlen'],
  closeStatistics: ['Close the statistics', 'Zahlen schließen'],

  // Chats.
  chats: ['Chats', 'Chats'],
  newChat: ['New chat', 'Neuer Chat'],
  search: ['Search', 'Suchen'],
  searchChats: ['Search the chats', 'Chats durchsuchen'],
  noneFound: ['No chat has these words.', 'Kein Chat enthält diese Wörter.'],
  chatTitle: ['Title of the chat', 'Titel des Chats'],
  pinChat: [(title) => `Pin the chat ${title}`, (title) => `Chat ${title} anheften`],
  unpinChat: [(title) => `Unpin the chat ${title}`, (title) => `Chat ${title} lösen`],
  renameChat: [(title) => `Rename the chat ${title}`, (title) => `Chat ${title} umbenennen`],
  deleteChat: [(title) => `Delete the chat ${title}`, (title) => `Chat ${title} löschen`],
  chatDeleted: [(title) => `The chat “${title}” was deleted.`, (title) => `Der Chat „${title}“ wurde gelöscht.`],
  partedTitle: [(title) => `${title} (here)`, (title) => `${title} (hier)`],
  saveChat: ['Save the chat as Markdown', 'Chat als Markdown speichern'],
  chatFile: ['chat', 'Chat'],
  takenIn: [(n, all) => `${n} of ${all} chats were taken in.`, (n, all) => `${n} von ${all} Chats wurden übernommen.`],
  notImported: [(name, why) => `${name} cannot be imported: ${why}`, (name, why) => `${name} kann nicht eingelesen werden: ${why}`],
  noChatsInFile: ['it has no chats of this page', 'sie enthält keine Chats dieser Seite'],
  chatDamaged: [(n) => `chat ${n} is damaged`, (n) => `Chat ${n} ist beschädigt`],
  exportChats: ['Export', 'Sichern'],
  importChats: ['Import', 'Einlesen'],

  // Models.
  chooseAnother: ['Choose another model', 'Anderes Modell wählen'],
  chooseToGoOn: ['Choose a model to go on', 'Modell wählen, um weiterzuschreiben'],
  noModel: ['No model', 'Kein Modell'],
  threadCount: [(n) => `${n} ${n === 1 ? 'thread' : 'threads'}`, (n) => `${n} ${n === 1 ? 'Thread' : 'Threads'}`],
  welcome: [['A language model,', 'right in this page.'], ['Ein Sprachmodell,', 'direkt in dieser Seite.']],
  lead: ['Pick a model and start to chat. No account, no server, nothing to install.', 'Wählen Sie ein Modell und schreiben Sie los. Kein Konto, kein Server, nichts zu installieren.'],
  facts: [
    [['lock', 'Private', 'What you write never leaves this device.'], ['bolt', 'Fast', 'Kernels of its own, on all your cores.'], ['plane', 'Offline', 'One download, then no network at all.']],
    [['lock', 'Privat', 'Was Sie schreiben, verlässt dieses Gerät nie.'], ['bolt', 'Schnell', 'Eigene Rechenkerne, auf allen Prozessorkernen.'], ['plane', 'Offline', 'Ein Download, danach ganz ohne Netz.']],
  ],
  models: ['Models', 'Modelle'],
  families: ['Families of models', 'Modellfamilien'],
  all: ['All', 'Alle'],
  sizes: [['', 'Larger models, up to 1.2 GB', 'The largest, up to 2.5 GB'], ['', 'Größere Modelle, bis 1,2 GB', 'Die größten, bis 2,5 GB']],
  speedHere: [(n) => `About ${n} tokens a second here`, (n) => `Hier etwa ${n} Token in der Sekunde`],
  here: ['On this device', 'Auf diesem Gerät'],
  download: ['Download and start', 'Laden und starten'],
  deleteModel: [(title) => `Delete ${title} from this device`, (title) => `${title} von diesem Gerät löschen`],
  sureToDelete: [(name) => `Delete ${name} from this device? It has to be downloaded again then.`, (name) => `${name} von diesem Gerät löschen? Danach muss es neu geladen werden.`],
  elsewhere: ['Or a GGUF file from elsewhere', 'Oder eine GGUF-Datei von anderswo'],
  addressHint: ['https://… or hf:owner/repo/file.gguf', 'https://… oder hf:owner/repo/file.gguf'],
  load: ['Load', 'Laden'],
  fileChoice: [['… or ', 'choose a file', ' from this device (you can also drop it here)'], ['… oder ', 'eine Datei wählen', ' (Sie können sie auch hierher ziehen)']],
  alsoHere: ['Also on this device', 'Auch auf diesem Gerät'],
  partial: ['partial', 'unvollständig'],
  abouts: [
    {},
    {
      'smollm2-135m': 'Das kleinste: zum Umformulieren und Ausprobieren',
      'smollm2-360m': 'Umformulieren und kurze Zusammenfassungen, auf Englisch',
      'smollm2-1.7b': 'Chat und Schreiben, auf Englisch',
      'smollm3-3b': 'Denkt zuerst nach; sechs europäische Sprachen',
      'gemma3-270m': 'Klein und schnell; Grundlage für eigenes Training',
      'gemma3-1b': 'Chat und Schreiben, vor allem auf Englisch',
      'gemma3-4b': 'Chat, Schreiben und Übersetzen in vielen Sprachen',
      'qwen3-0.6b': 'Denkt zuerst nach; klein, in vielen Sprachen',
      'qwen3-1.7b': 'Denkt zuerst nach; Mathematik, Werkzeuge, viele Sprachen',
      'qwen3-4b': 'Die besten Antworten dieser Liste; Werkzeuge, Code, viele Sprachen',
      'qwen2.5-0.5b': 'Kurze Antworten und JSON, in vielen Sprachen',
      'qwen2.5-1.5b': 'Chat und JSON, in vielen Sprachen',
      'qwen2.5-coder-0.5b': 'Ergänzt Code, auch mittendrin',
      'qwen2.5-coder-1.5b': 'Kleine Programme, ergänzt Code',
      'llama3.2-1b': 'Zusammenfassen und Umschreiben, acht Sprachen',
      'llama3.2-3b': 'Chat und Schreiben, acht Sprachen',
      'granite4-350m': 'Ruft Werkzeuge auf, zieht Fakten aus Texten',
      'granite4-1b': 'Ruft Werkzeuge auf, antwortet aus gegebenen Texten',
      'granite4-micro': 'Ruft Werkzeuge auf, antwortet aus gegebenen Texten, Code',
      'phi4-mini': 'Mathematik, Werkzeuge, viele Sprachen',
      'ministral3-3b': 'Chat und Werkzeuge in vielen Sprachen',
      'deepseek-r1-1.5b': 'Denkt zuerst nach, ausführlich; Mathematik',
      'olmo2-1b': 'Chat; offen trainiert, mitsamt den Daten',
    },
  ],
  phases: [
    { waiting: 'Waiting for another tab, or for the network', starting: 'Starting', download: 'Downloading', verify: 'Checking the copy on this device', load: 'Loading into memory' },
    { waiting: 'Wartet auf einen anderen Tab oder das Netz', starting: 'Beginnt', download: 'Wird geladen', verify: 'Die Kopie auf diesem Gerät wird geprüft', load: 'Kommt in den Speicher' },
  ],
  openerFirst: ['A small model comes first. It answers while this one is downloaded.', 'Zuerst kommt ein kleines Modell. Es antwortet, solange dieses geladen wird.'],
  bytesOf: [(here, all) => (all ? `${here} of ${all}` : here), (here, all) => (all ? `${here} von ${all}` : here)],
  left: [(time) => `${time} left`, (time) => `noch ${time}`],
  coming: [
    { waiting: () => 'waits for the network', load: () => 'is nearly there', download: (percent, left) => `is on its way${percent}${left}` },
    { waiting: () => 'wartet auf das Netz', load: () => 'ist fast da', download: (percent, left) => `ist unterwegs${percent}${left}` },
  ],
  answersNow: ['answers;', 'antwortet;'],
  doWithout: [(label) => `Do without ${label}`, (label) => `Auf ${label} verzichten`],
  downloadOf: [(label) => `Download of ${label}`, (label) => `Download von ${label}`],
  notLoaded: [(label, why) => `${label} could not be loaded: ${why}`, (label, why) => `${label} konnte nicht geladen werden: ${why}`],
  endedLoading: [(label) => `The browser ended this page while ${label} was being loaded; memory may have been short.`, (label) => `Der Browser hat diese Seite beendet, während ${label} geladen wurde; vielleicht war der Speicher knapp.`],
  endedAnswering: [(label) => `The browser ended this page while ${label} was answering; memory may have been short.`, (label) => `Der Browser hat diese Seite beendet, während ${label} antwortete; vielleicht war der Speicher knapp.`],
  loadShorter: [(n) => `Load it with a context of ${n}`, (n) => `Mit einem Kontext von ${n} laden`],
  chooseSmaller: ['Choose a smaller model', 'Kleineres Modell wählen'],

  // Models of a server.
  theServer: ['the server', 'den Server'],
  onServer: [(host) => `Runs on ${host}.`, (host) => `Läuft auf ${host}.`],
  wantsKey: ['This server wants a key.', 'Dieser Server verlangt einen Schlüssel.'],
  onlyWithKey: ['The server answers only with a key.', 'Der Server antwortet nur mit einem Schlüssel.'],
  serverModels: ['Models of this server', 'Modelle dieses Servers'],
  goesTo: [(host) => `What you write goes to ${host}, and nowhere else.`, (host) => `Was Sie schreiben, geht an ${host} und sonst nirgendwohin.`],
  chat: ['Chat', 'Chat'],

  // A chat.
  conversation: ['Conversation', 'Gespräch'],
  you: ['You', 'Sie'],
  model: ['Model', 'Modell'],
  answering: ['The model is answering', 'Das Modell antwortet'],
  modelSays: [(text) => `The model says: ${text}`, (text) => `Das Modell sagt: ${text}`],
  forgotten: ['The model no longer reads what stands above.', 'Was darüber steht, liest das Modell nicht mehr.'],
  write: ['Write a message', 'Nachricht schreiben'],
  message: ['Message', 'Nachricht'],
  send: ['Send', 'Senden'],
  stop: ['Stop', 'Anhalten'],
  small: ['Small models make things up.', 'Kleine Modelle erfinden manches.'],
  keysHint: ['Enter sends, Shift+Enter starts a line, Escape stops.', 'Enter sendet, Umschalt+Enter beginnt eine Zeile, Escape hält an.'],
  whatToWrite: ['What shall we write?', 'Was wollen wir schreiben?'],
  ideas: [
    ['Write a short poem about the sea.', 'Explain photosynthesis to a child.', 'Give me three names for a bakery.', 'Write a Python function that reverses a string.'],
    ['Schreibe ein kurzes Gedicht über das Meer.', 'Erkläre einem Kind die Photosynthese.', 'Nenne mir drei Namen für eine Bäckerei.', 'Schreibe eine Python-Funktion, die einen Text umdreht.'],
  ],
  thinking: ['Thinking …', 'Denkt nach …'],
  thoughts: ['Thoughts', 'Gedanken'],
  reading: ['Reading', 'Liest'],
  edit: ['Edit', 'Ändern'],
  editMessage: ['Edit the message', 'Nachricht ändern'],
  again: ['Answer again', 'Neu antworten'],
  goOn: ['Continue', 'Weiter'],
  formerVersion: ['Former version', 'Frühere Fassung'],
  nextVersion: ['Next version', 'Spätere Fassung'],
  attach: ['Add text files', 'Textdateien anfügen'],
  detach: [(name) => `Take ${name} away`, (name) => `${name} entfernen`],
  fileOf: [(name, tokens) => `${name} · ${tokens} tokens`, (name, tokens) => `${name} · ${tokens} Token`],
  fileTooLarge: [(name, size) => `${name} is too large: ${size} MB. Take a part of it.`, (name, size) => `${name} ist zu groß: ${size} MB. Nehmen Sie einen Teil davon.`],
  fileTooLong: [
    (name, tokens, room) => `${name} is too long: ${tokens} tokens, and there is room for ${room}. Take a part of it, or a longer context in the settings.`,
    (name, tokens, room) => `${name} ist zu lang: ${tokens} Token, und Platz ist für ${room}. Nehmen Sie einen Teil davon oder in den Einstellungen einen längeren Kontext.`,
  ],
  noText: [(name) => `${name} is no text file.`, (name) => `${name} ist keine Textdatei.`],
  picture: ['picture', 'Bild'],
  figures: [
    ({ by, wait, speed, reused, predicted, guessed }) => {
      const why = [reused && `${reused} of the chat was known already`, predicted && 'the first word came from a prediction', guessed && `${guessed} of the words were guessed ahead, and checked`].filter(Boolean);
      return `${by}: first word after ${wait}, then ${speed} tokens a second${why.map((words) => `; ${words}`).join('')}.`;
    },
    ({ by, wait, speed, reused, predicted, guessed }) => {
      const why = [reused && `${reused} des Chats waren schon bekannt`, predicted && 'das erste Wort kam aus einer Vorhersage', guessed && `${guessed} der Wörter waren vorab geraten und dann geprüft`].filter(Boolean);
      return `${by}: erstes Wort nach ${wait}, dann ${speed} Token in der Sekunde${why.map((words) => `; ${words}`).join('')}.`;
    },
  ],

  // The playground and the comparison.
  playground: ['Playground', 'Spielwiese'],
  playgroundLead: ['The answer is made to fit a JSON schema, or to be a call of one of your tools.', 'Die Antwort hält sich an ein JSON-Schema oder ruft eines Ihrer Werkzeuge auf.'],
  form: ['Form of the answer', 'Form der Antwort'],
  forms: [{ schema: 'JSON schema', tools: 'Tools' }, { schema: 'JSON-Schema', tools: 'Werkzeuge' }],
  playgroundPrompt: ['Make up a person.', 'Erfinde eine Person.'],
  answer: ['Answer', 'Antwort'],
  noJson: [(why) => `This is no JSON: ${why}`, (why) => `Das ist kein JSON: ${why}`],
  compare: ['Compare', 'Vergleich'],
  compareLead: ['Two models answer the same question, one after the other, so that neither slows the other down.', 'Zwei Modelle beantworten dieselbe Frage, nacheinander, damit keines das andere bremst.'],
  secondModel: ['Second model, of those on this device', 'Zweites Modell, von denen auf diesem Gerät'],
  unload: ['Unload', 'Entladen'],

  // Measuring.
  benchLead: ['Reads 512 tokens and writes 64, three times; the medians count.', 'Liest 512 Token und schreibt 64, dreimal; es zählen die Mediane.'],
  run: ['Run', 'Starten'],
  running: ['Running …', 'Läuft …'],
  runningHint: ['This takes some seconds; the page stays usable.', 'Das dauert einige Sekunden; die Seite bleibt benutzbar.'],
  copyMarkdown: ['Copy as Markdown', 'Als Markdown kopieren'],
  benchColumns: [
    ['model', 'backend', 'threads', 'prefill tok/s', 'decode tok/s', 'first token', 'load'],
    ['Modell', 'Rechenwerk', 'Threads', 'Lesen Tok/s', 'Schreiben Tok/s', 'erstes Token', 'Laden'],
  ],
  benchOf: [(read, written) => `${read} tokens of prompt, ${written} of answer`, (read, written) => `${read} Token Eingabe, ${written} Token Antwort`],
  prefill: ['Prefill', 'Lesen'],
  decode: ['Decode', 'Schreiben'],
  firstToken: ['First token', 'Erstes Token'],
  loadTime: ['Load', 'Laden'],
  threads: ['Threads', 'Threads'],
  backend: ['Backend', 'Rechenwerk'],
  perSecond: ['tokens/s', 'Token/s'],
  perSecondShort: ['tok/s', 'Tok/s'],
  tokens: ['tokens', 'Token'],
  kernels: ['Time on the GPU, by kernel', 'Zeit auf der GPU, nach Rechenkern'],
  shareOf: [(kernel) => `Share of ${kernel}`, (kernel) => `Anteil von ${kernel}`],
  each: [(time) => `${time} each`, (time) => `je ${time}`],
  sampled: ['Sampled: some steps have been measured since the model was loaded.', 'Stichprobe: Seit dem Laden des Modells wurden einige Schritte gemessen.'],
  prompt: ['Prompt', 'Eingabe'],
  promptParts: [(reused, predicted) => `${reused} reused${predicted ? `, ${predicted} predicted` : ''}`, (reused, predicted) => `${reused} bekannt${predicted ? `, ${predicted} vorhergesagt` : ''}`],
  tokensASecond: ['Tokens a second', 'Token in der Sekunde'],
  memory: ['Memory, MiB', 'Speicher, MiB'],
  weights: ['Weights', 'Gewichte'],
  cache: ['KV cache', 'KV-Cache'],
  work: ['Work', 'Arbeitsspeicher'],
  why: ['Why', 'Warum'],
  notIsolated: [' (page is not isolated)', ' (die Seite ist nicht isoliert)'],
  context: ['Context', 'Kontext'],
  loadedIn: ['Loaded in', 'Geladen in'],
  longPrompt: ['First word of a long prompt', 'Erstes Wort nach langer Eingabe'],
  waitFor: [(ms, tokens) => `${ms} ms for ${tokens} tokens`, (ms, tokens) => `${ms} ms für ${tokens} Token`],
  readExactly: ['Read exactly', 'Genau gelesen'],
  predictedFirst: ['Predicted first', 'Erst vorhergesagt'],
  guessedTitle: ['Guessed words: last answer (all answers)', 'Geratene Wörter: letzte Antwort (alle)'],
  perForward: ['Tokens a forward', 'Token je Durchlauf'],
  guesses: ['Guesses', 'Geraten'],
  right: ['Right', 'Richtig'],

  // Settings.
  system: ['System message', 'Systemnachricht'],
  answers: ['Answers', 'Antworten'],
  presets: [{ precise: 'Precise', balanced: 'Balanced', inventive: 'Inventive' }, { precise: 'Genau', balanced: 'Ausgewogen', inventive: 'Einfallsreich' }],
  temperature: ['Temperature', 'Temperatur'],
  topP: ['Top p', 'Top p'],
  longest: ['Longest answer', 'Längste Antwort'],
  forNext: ['For the next model that is loaded.', 'Gilt für das nächste Modell, das geladen wird.'],
  auto: ['auto', 'automatisch'],
  backends: [{ auto: 'Auto', webgpu: 'WebGPU', cpu: 'CPU' }, { auto: 'Automatisch', webgpu: 'WebGPU', cpu: 'CPU' }],
  early: ['First word early', 'Erstes Wort früh'],
  earlyHint: ['Long prompts are predicted at first, and read exactly behind the first words.', 'Lange Eingaben werden zuerst vorhergesagt und hinter den ersten Wörtern genau gelesen.'],
  showGuesses: ['Show guessed words', 'Geratene Wörter zeigen'],
  showGuessesHint: ['Words that were guessed ahead, and that the model agreed with, have a colour of their own.', 'Wörter, die vorab geraten wurden und denen das Modell zustimmte, haben eine eigene Farbe.'],
  appearance: ['Appearance', 'Aussehen'],
  themes: [{ auto: 'Auto', light: 'Light', dark: 'Dark' }, { auto: 'Automatisch', light: 'Hell', dark: 'Dunkel' }],
  language: ['Language', 'Sprache'],
  languages: [{ auto: 'Auto', en: 'English', de: 'Deutsch' }, { auto: 'Automatisch', en: 'English', de: 'Deutsch' }],
  shortcuts: ['Keyboard shortcuts', 'Tastenkürzel'],
  shortcutNames: [
    { search: 'Search the chats', startNew: 'New chat', togglePanel: 'Statistics', editLast: 'Edit the last message, from an empty field', escape: 'Stop, or leave what is open' },
    { search: 'Chats durchsuchen', startNew: 'Neuer Chat', togglePanel: 'Zahlen', editLast: 'Letzte Nachricht ändern, aus leerem Feld', escape: 'Anhalten, oder Offenes verlassen' },
  ],
  keys: [(keys) => keys, (keys) => keys.replace('Ctrl', 'Strg').replace('Shift', 'Umschalt')],

  // What the package says of errors is in English; elsewhere its code comes first, in words.
  error: [
    ({ message }) => message,
    ({ code, message }) => {
      const words = {
        bad_file: 'Die Datei ist kein brauchbares Modell.',
        unsupported: 'Das wird nicht unterstützt.',
        download_failed: 'Der Download ist gescheitert.',
        storage_failed: 'Der Speicher des Browsers hat versagt.',
        invalid_request: 'Die Anfrage ist so nicht möglich.',
        context_length_exceeded: 'Der Chat ist länger als der Kontext des Modells.',
        out_of_memory: 'Der Arbeitsspeicher reicht nicht.',
        device_lost: 'Die GPU ist verloren gegangen.',
        not_found: 'Unter dieser Adresse ist keine Datei.',
        offline: 'Es gibt kein Netz.',
        checksum_mismatch: 'Die Datei ist beschädigt angekommen.',
        quota_exceeded: 'Der Browser hat für diese Seite keinen Platz mehr.',
        unsupported_browser: 'Dieser Browser kann das nicht.',
        worker_lost: 'Der Browser hat das Modell beendet.',
      }[code];
      return words ? `${words} (${message})` : message;
    },
  ],
};

const LANGUAGES = ['en', 'de'];

/** The page's language, and its words by their keys. */
export let language;
export let t;

/** Takes a language, or with `auto` the browser's where the page has it. */
export function speak(wanted) {
  const ofBrowser = globalThis.navigator?.languages?.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => LANGUAGES.includes(tag));
  const now = LANGUAGES.includes(wanted) ? wanted : (ofBrowser ?? LANGUAGES[0]);
  if (now === language) return;
  language = now;
  const at = LANGUAGES.indexOf(now);
  t = Object.fromEntries(Object.entries(STRINGS).map(([key, words]) => [key, words[at]]));
}
speak('auto');

/** A number as the language writes it. */
export const number = (value, digits = 0) => value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: value >= 10_000 });
