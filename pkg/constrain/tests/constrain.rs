//! Answers of a real model fit what they have to look like, whatever is drawn and guessed; masks along guesses are those behind
//! accepted tokens; bad schemas and grammars are errors that say where.

mod calls;
mod suite;

use foreword::backend::cpu::Cpu;
use foreword::engine::{Done, Engine, Event, FinishReason, Request};
use foreword::gguf::Gguf;
use foreword::gguf::source::{FileSource, Source as File};
use foreword::model::ModelOptions;
use foreword::sample::{Constraint, Params, Rule};
use foreword::speculate::draft::{Layers, Ngram};
use foreword::speculate::{Mode, Shape};
use foreword::tokenizer::Tokenizer;
use foreword_constrain::{Grammar, Source, Vocabulary, compiler};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of a model, in `$FOREWORD_CACHE` or the command line's cache.
fn model_path(file: &str) -> PathBuf {
    let default = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/foreword"));
    let folders = std::env::var_os("FOREWORD_CACHE").map(PathBuf::from).into_iter().chain(default);
    let found = folders.map(|folder| folder.join(file)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} is not there; run ./test, which fetches it"))
}

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

fn sources(path: &Path) -> Vec<Box<dyn File>> {
    vec![Box::new(FileSource::open(path).expect("a model file"))]
}

/// SmolLM2, or the file `$FOREWORD_MODEL` of the cache.
fn engine() -> Engine {
    let file = std::env::var("FOREWORD_MODEL").unwrap_or_else(|_| SMOLLM2.into());
    let options = ModelOptions { context_length: Some(512), cache_tokens: Some(8192), ..ModelOptions::default() };
    let (cpu, files) = (Box::new(Cpu::new(2)), sources(&model_path(&file)));
    pollster::block_on(Engine::load(files, cpu, &options, || 0.0, &mut |_| {})).expect("a sound model")
}

fn tokenizer(path: &Path) -> Tokenizer {
    let gguf = pollster::block_on(Gguf::read(&mut sources(path))).expect("a sound header");
    Tokenizer::from_gguf(&gguf.metadata).expect("a sound tokenizer")
}

fn vocabulary(file: &str) -> Vocabulary {
    let tokenizer = Arc::new(tokenizer(&model_path(file)));
    let tokens = (0..tokenizer.n_vocab() as u32).map(|id| tokenizer.token_bytes(id).into_owned()).collect();
    let own = Arc::clone(&tokenizer);
    let tokenize = Box::new(move |text: &str| own.encode(text, false));
    Vocabulary::new(tokens, |id| tokenizer.is_control(id), tokenizer.end_of_generation(), tokenize)
        .expect("a vocabulary")
}

/// Those of the repository, or those in the folder `$FOREWORD_SCHEMAS`.
fn schemas() -> Vec<Value> {
    let Some(folder) = std::env::var_os("FOREWORD_SCHEMAS") else {
        return include_str!("../../../tests/data/schemas.jsonl")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
    };
    let files = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    let text = |path| std::fs::read_to_string(path).expect("a text");
    files.filter_map(|path| serde_json::from_str(&text(path)).ok()).collect()
}

/// Says why a text does not fit; another implementation of JSON Schema than the one that made the grammar.
fn misfit(schema: &Value, text: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return Some(error.to_string()),
    };
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.enable_format_assertions();
    compiler.add_resource("memory:schema", schema.clone()).expect("a resource");
    let index = compiler.compile("memory:schema", &mut schemas).expect("a sound schema");
    let error = schemas.validate(&value, index).err()?.to_string();
    let faults = error.lines().filter_map(|line| line.trim_start().strip_prefix("- at "));
    (!faults.clone().all(is_multiple)).then_some(error)
}

/// Whether a fault is that of dividing floats: 17.22 is a multiple of 0.01, and `17.22 / 0.01` no whole number.
fn is_multiple(fault: &str) -> bool {
    let numbers = fault.split_once(": ").and_then(|(_, said)| said.split_once(" is not multipleOf "));
    let Some((value, of)) = numbers else { return false };
    let billionths = |number: &str| (number.parse::<f64>().expect("a number") * 1e9).round() as i64;
    billionths(value) % billionths(of) == 0
}

fn of_schema(schema: &Value) -> Constraint {
    Constraint::Schema { schema: schema.clone(), strict: true }
}

/// Text and end of each answer.
fn answers(engine: &mut Engine, requests: Vec<Request>) -> Vec<(String, Done)> {
    let ids: Vec<_> = requests.into_iter().map(|request| engine.submit(request).expect("a request")).collect();
    let (mut texts, mut ends) = (vec![String::new(); ids.len()], vec![None; ids.len()]);
    let at = |id| ids.iter().position(|other| *other == id).expect("a request");
    let mut events = Vec::new();
    while !engine.is_idle() {
        pollster::block_on(engine.step(&mut events)).expect("a step");
        for event in events.drain(..) {
            match event {
                Event::Token(id, token) => texts[at(id)].push_str(&token.text),
                Event::Done(id, done) => {
                    texts[at(id)].push_str(&done.text);
                    ends[at(id)] = Some(done);
                }
                Event::Failed(id, error) => panic!("request {}: {error}", at(id)),
            }
        }
    }
    texts.into_iter().zip(ends.into_iter().map(|end| end.expect("an end"))).collect()
}

fn request(engine: &Engine, rule: Box<dyn Rule>, temperature: f32, seed: u64) -> Request {
    let params = Params { temperature, seed, ..Params::default() };
    let prompt = engine.prompt("Some JSON:\n", false);
    Request { prompt, params, rules: vec![rule], max_tokens: Some(200), stop_at_repetition: true, ..Request::default() }
}

#[test]
fn random_answers_fit_their_schemas_with_and_without_guesses() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let schemas = schemas();
    let rules: Vec<(&Value, Box<dyn Rule>)> =
        schemas.iter().map(|schema| (schema, compiler.compile(&of_schema(schema)).expect("a grammar"))).collect();
    // `FOREWORD_ROUNDS=10`: so many answers for each schema, all of them also with guesses.
    let rounds = std::env::var("FOREWORD_ROUNDS").ok().map(|n| n.parse::<u64>().expect("a number"));
    for guesses in [false, true] {
        if guesses {
            let layers = Layers::new(engine.model(), 4).expect("layers");
            engine.speculate(Box::new(layers), Mode::Fixed(Shape::Beam { width: 2, depth: 2 })).expect("a mode");
        }
        // Trees of guesses take long where the model is slow.
        let rules: Vec<_> = rules.iter().step_by(if guesses && rounds.is_none() { 3 } else { 1 }).collect();
        let asked = (0..rounds.unwrap_or(1)).flat_map(|round| rules.iter().map(move |rule| (round, rule)));
        let seed = |round| 1 + 2 * round + u64::from(guesses);
        let rules: Vec<_> = asked.clone().map(|(_, rule)| *rule).collect();
        let requests = asked.map(|(round, (_, rule))| request(&engine, rule.clone(), 1.0, seed(round))).collect();
        let (mut whole, mut forced, mut accepted) = (0, 0, 0);
        for ((schema, _), (text, done)) in rules.iter().zip(answers(&mut engine, requests)) {
            (forced, accepted) = (forced + done.usage.forced_tokens, accepted + done.usage.accepted_tokens);
            if matches!(done.reason, FinishReason::Stop | FinishReason::Concluded) {
                whole += 1;
                assert_eq!(misfit(schema, &text), None, "{text} for {schema}");
            } else {
                println!("{:?}: {text} for {schema}", done.reason);
            }
        }
        println!("with guesses: {guesses}; {} answers, {whole} came to an end, and all of these fit", rules.len());
        assert!(whole * 10 >= rules.len() * 9, "only {whole} of {} answers came to an end", rules.len());
        assert!(forced > 100, "only {forced} tokens were forced");
        assert_eq!(accepted > 0, guesses);
    }
}

/// Hides what a rule forces.
#[derive(Clone, Debug)]
struct Unforced(Box<dyn Rule>);

impl Rule for Unforced {
    fn effect(&self, ahead: usize) -> foreword::sample::Effect {
        self.0.effect(ahead)
    }
    fn adjust(&self, ahead: &[u32], logits: &mut foreword::sample::LogitsMut<'_>) {
        self.0.adjust(ahead, logits);
    }
    fn read(&mut self, prompt: &[u32]) {
        self.0.read(prompt);
    }
    fn accept(&mut self, token: u32) {
        self.0.accept(token);
    }
    fn conclude(&mut self) -> bool {
        self.0.conclude()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn greedy_answers_are_the_same_without_forcing_and_take_more_forwards() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let rules: Vec<Box<dyn Rule>> =
        schemas().iter().step_by(3).map(|schema| compiler.compile(&of_schema(schema)).expect("a grammar")).collect();
    let plain = rules.iter().map(|rule| request(&engine, Box::new(Unforced(rule.clone())), 0.0, 0)).collect();
    let plain = answers(&mut engine, plain);
    for drafter in [false, true] {
        if drafter {
            engine.speculate(Box::new(Ngram), Mode::Auto).expect("a mode");
        }
        let requests = rules.iter().map(|rule| request(&engine, rule.clone(), 0.0, 0)).collect();
        let (mut with, mut without) = (0, 0);
        for ((text, done), (wanted, slow)) in answers(&mut engine, requests).iter().zip(&plain) {
            assert_eq!((text, done.reason), (wanted, slow.reason));
            (with, without) = (with + done.usage.forwards, without + slow.usage.forwards);
        }
        assert!(with * 4 < without * 3, "{with} forwards instead of {without}");
    }
}

/// Uniform numbers; see PCG.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }
}

fn allowed(mask: &[u32]) -> Vec<u32> {
    (0..mask.len() as u32 * 32).filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect()
}

/// A token that may come next; mostly a longer one, so that texts come to an end.
fn some(grammar: &mut Grammar, ahead: &[u32], r: &mut Random) -> Option<u32> {
    let tokens = allowed(&grammar.mask(ahead));
    (!tokens.is_empty()).then(|| tokens[r.below(tokens.len())])
}

#[test]
fn masks_along_guesses_are_those_behind_accepted_tokens_and_forced_tokens_are_the_only_ones() {
    let vocabulary = vocabulary(SMOLLM2);
    let mut r = Random(3);
    let (mut compared, mut n_forced) = (0, 0);
    for schema in schemas() {
        let mut grammar = vocabulary.compile(&Source::Schema { schema, strict: true }).expect("a grammar");
        for _ in 0..12 {
            let mut path: Vec<u32> = Vec::new();
            let mut masks = vec![grammar.mask(&[])];
            while path.len() < 4 {
                let Some(token) = some(&mut grammar, &path, &mut r) else { break };
                path.push(token);
                masks.push(grammar.mask(&path));
            }
            let mut copy = grammar.clone();
            for (token, mask) in path.iter().zip(&masks) {
                let forced = copy.forced();
                if let Some(first) = forced.first() {
                    let only = allowed(mask);
                    assert!(
                        only == [*first] || *first == vocabulary.end() && only.contains(first),
                        "{forced:?}, {only:?}"
                    );
                    n_forced += forced.len();
                }
                assert_eq!(copy.mask(&[]), *mask);
                copy.accept(*token);
                compared += 1;
            }
            assert_eq!(copy.failure(), None);
            if let Some(token) = path.first() {
                grammar.accept(*token);
            }
        }
    }
    assert!(compared > 1000 && n_forced > 300, "{compared} compared, {n_forced} forced");
}

#[test]
fn lark_and_regular_expressions_are_kept_to() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let lark = "start: word (\" \" word){2} \".\"\nword: /[a-z]{1,8}/";
    let cases = [
        (Constraint::Regex("[0-9]{4}-[0-9]{2}-[0-9]{2}".into()), r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
        (Constraint::Lark(lark.into()), r"^[a-z]{1,8}( [a-z]{1,8}){2}\.$"),
    ];
    for (constraint, wanted) in cases {
        let rule = compiler.compile(&constraint).expect("a grammar");
        let requests = (0..20).map(|seed| request(&engine, rule.clone(), 1.5, seed)).collect();
        for (text, done) in answers(&mut engine, requests) {
            assert_eq!(done.reason, FinishReason::Stop, "{text:?}");
            assert_eq!(misfit(&json!({"pattern": wanted}), &json!(text).to_string()), None, "{text:?}");
        }
    }
}

#[test]
fn an_answer_that_is_cut_ends_for_its_length() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let rule = compiler.compile(&of_schema(&schemas()[6])).expect("a grammar");
    for max_tokens in [1, 2, 3, 7] {
        let request = Request { max_tokens: Some(max_tokens), ..request(&engine, rule.clone(), 1.0, 5) };
        let (_, done) = answers(&mut engine, vec![request]).remove(0);
        assert_eq!((done.reason, done.usage.completion_tokens), (FinishReason::Length, max_tokens));
    }
}

/// What a grammar allows behind a text, as the first bytes of tokens.
fn first_bytes(vocabulary: &Vocabulary, tokenizer: &Tokenizer, schema: Value, text: &str, circles: usize) -> Vec<u8> {
    let mut grammar = vocabulary.compile(&Source::Schema { schema, strict: true }).expect("a grammar");
    tokenizer.encode(text, false).into_iter().for_each(|token| grammar.accept(token));
    (0..circles).for_each(|_| grammar.conclude());
    assert_eq!(grammar.failure(), None, "{text}");
    let mut bytes: Vec<u8> =
        allowed(&grammar.mask(&[])).iter().map(|t| *tokenizer.token_bytes(*t).first().unwrap_or(&0)).collect();
    bytes.sort_unstable();
    bytes.dedup();
    bytes
}

#[test]
fn what_goes_in_circles_comes_to_an_end() {
    let (vocabulary, tokenizer) = (vocabulary(SMOLLM2), tokenizer(&model_path(SMOLLM2)));
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let object = json!({"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "number"}, "b": {"type": "string", "minLength": 3}},
        "required": ["a", "n", "b"], "additionalProperties": false});
    let nested = json!({"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"});
    let digits = "3".repeat(40);
    for (schema, text, circles, wanted) in [
        // The string ends; behind it the answer is as free as before.
        (&strings, "[\"a b", 1, &b"\""[..]),
        (&strings, "[\"a b", 2, b"\""),
        (&strings, "[\"a b\"", 0, b",]"),
        (&strings, "[\"a b\"", 1, b"]"),
        (&strings, "[\"a b\"", 2, b"]"),
        (&object, "{\"a\": \"b", 1, b"\""),
        (&object, "{\"a\": \"b\", \"n\": 3", 2, b","),
        (&nested, "[[[]", 2, b"]"),
        (&nested, "[", 2, b"]"),
        // What the schema asks for is still there.
        (&object, "{\"a\": \"b\", \"n\": 3, \"b\": \"abc", 1, b"\""),
        (&json!({"type": "integer"}), "12", 2, b"<"),
        // A number comes to an end by itself.
        (&object, &format!("{{\"a\": \"b\", \"n\": 0.{digits}"), 0, b",Ee"),
        (&strings, "[\"a\\", 1, b"\"\\bfnrtu"),
        (&json!({"type": "string", "format": "time"}), &format!("\"12:00:00.{digits}"), 0, b"+-Zz"),
    ] {
        let found = first_bytes(&vocabulary, &tokenizer, schema.clone(), text, circles);
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(shown(&found), shown(wanted), "{text} after {circles}");
    }
}

#[test]
fn multiples_are_those_of_decimal_numbers() {
    let (vocabulary, tokenizer) = (vocabulary(SMOLLM2), tokenizer(&model_path(SMOLLM2)));
    let schema = json!({"type": "number", "multipleOf": 0.01});
    let grammar = vocabulary.compile(&Source::Schema { schema: schema.clone(), strict: true }).expect("a grammar");
    for (text, fits) in [("17.22", true), ("0.29", true), ("17.225", false), ("0.001", false)] {
        assert_eq!(suite::takes(&grammar, &tokenizer, vocabulary.end(), text), fits, "{text}");
        assert_eq!(misfit(&schema, text).is_none(), fits, "{text}");
    }
}

#[test]
fn formats_are_those_of_their_rfcs() {
    let (vocabulary, tokenizer) = (vocabulary(SMOLLM2), tokenizer(&model_path(SMOLLM2)));
    let end = vocabulary.end();
    let name = |n: usize| "a".repeat(n);
    let long = |n: usize| [name(61), name(61), name(61), name(n - 3 * 62)].join(".");
    let texts = [
        ("date", "2024-02-29".into(), "2021-02-29".into()),
        ("date", "2000-02-29".into(), "1900-02-29".into()),
        ("date", "2021-12-31".into(), "2021-11-31".into()),
        ("date", "0004-02-28".into(), "0000-00-00".into()),
        ("date-time", "2024-02-29T23:59:59.5Z".into(), "2023-02-29T23:59:59Z".into()),
        ("date-time", "2016-02-28t00:00:00+01:00".into(), "2016-12-31T22:59:60Z".into()),
        ("time", "12:34:59-23:59".into(), "12:34:60Z".into()),
        ("email", format!("{}@b.c", name(64)), format!("{}@b.c", name(65))),
        ("email", format!("a@{}.c", name(63)), format!("a@{}.c", name(64))),
        ("email", format!("a@{}", long(240)), format!("{}@{}", name(64), long(200))),
        ("email", "a@[127.0.0.1]".into(), "a@b@c".into()),
        ("hostname", long(240), format!("{}.{}", long(240), name(20))),
    ];
    for (format, good, bad) in texts {
        // Beside a pattern, in a list, and under a name that is a keyword elsewhere.
        let schemas = [
            json!({"type": "string", "format": format}),
            json!({"type": "string", "format": format, "pattern": "."}),
            json!({"anyOf": [{"type": ["string", "null"], "format": format}]}),
        ];
        for schema in schemas {
            let grammar = vocabulary.compile(&Source::Schema { schema: schema.clone(), strict: true });
            let grammar = grammar.unwrap_or_else(|e| panic!("{schema}: {e}"));
            for (text, fits) in [(&good, true), (&bad, false)] {
                let text = json!(text).to_string();
                assert_eq!(misfit(&schema, &text).is_none(), fits, "{text} for {schema}, by the validator");
                assert_eq!(suite::takes(&grammar, &tokenizer, end, &text), fits, "{text} for {schema}");
            }
        }
    }
    // Values that look like schemas are left alone.
    let value = json!({"format": "date"});
    let schema = json!({"type": "object", "properties": {"const": {"const": value}}, "required": ["const"], "additionalProperties": false});
    let grammar = vocabulary.compile(&Source::Schema { schema, strict: true }).expect("a grammar");
    assert!(suite::takes(&grammar, &tokenizer, end, "{\"const\": {\"format\": \"date\"}}"));
}

/// Says a text where it may.
#[derive(Clone, Debug)]
struct Says {
    text: Vec<u32>,
    /// Its last token comes again and again, else all of it.
    once: bool,
    said: usize,
}

impl Says {
    fn once(text: Vec<u32>) -> Self {
        Says { text, once: true, said: 0 }
    }
}

impl Rule for Says {
    fn effect(&self, _ahead: usize) -> foreword::sample::Effect {
        foreword::sample::Effect::Any
    }
    fn adjust(&self, ahead: &[u32], logits: &mut foreword::sample::LogitsMut<'_>) {
        let (at, n) = (self.said + ahead.len(), self.text.len());
        let token = self.text[if self.once { at.min(n - 1) } else { at % n }];
        logits.get_mut(token).into_iter().for_each(|logit| *logit += 1e4);
    }
    // It says it in the answer.
    fn read(&mut self, _prompt: &[u32]) {}
    fn accept(&mut self, _token: u32) {
        self.said += 1;
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn an_answer_that_goes_in_circles_within_its_form_ends_so_that_it_fits() {
    let mut engine = engine();
    let compiler = compiler(Arc::clone(engine.tokenizer()));
    let run = " one two three four five six seven eight nine ten eleven twelve";
    let says = Says { text: engine.tokenizer().encode(run, false), once: false, said: 0 };
    let text = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": ["yes", "no"]}},
        "required": ["a", "b"], "additionalProperties": false});
    for (schema, why) in [
        (text, FinishReason::Concluded),
        (json!({"type": "array", "items": {"type": "string"}, "minItems": 3}), FinishReason::Concluded),
    ] {
        let rule = compiler.compile(&of_schema(&schema)).expect("a grammar");
        let mut request = request(&engine, rule, 0.0, 1);
        request.rules.insert(0, Box::new(says.clone()));
        let (text, done) = answers(&mut engine, vec![request]).remove(0);
        assert_eq!((done.reason, misfit(&schema, &text)), (why, None), "{text}");
        assert!(text.matches("twelve").count() < 13, "{text}");
    }
}

#[test]
fn bad_schemas_and_grammars_are_errors_that_say_where() {
    let vocabulary = vocabulary(SMOLLM2);
    let schema = |schema: Value| Source::Schema { schema, strict: true };
    let wide: Value =
        (0..40).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect::<serde_json::Map<_, _>>().into();
    let options =
        |k: usize| (0..10).map(|i| json!({"properties": {format!("{k}_{i}"): {"const": i}}})).collect::<Value>();
    let product: Value = (0..10).map(|k| json!({"anyOf": options(k)})).collect();
    let many = json!({"allOf": product});
    let cases = [
        (schema(json!({"properties": {"a": {"type": "objct"}}})), "/properties/a/type"),
        (schema(json!({"properties": {"a": {"items": {"not": {}}}}})), "/properties/a/items/not"),
        (schema(json!({"$defs": {"x": {"pattern": "(", "type": "string"}}, "$ref": "#/$defs/x"})), "/$defs/x"),
        (schema(json!({"type": "integer", "minimum": 5, "maximum": 3})), ""),
        (schema(json!({"$ref": "#/$defs/nowhere"})), "nowhere"),
        (schema(json!({"$ref": "#"})), ""),
        (schema(json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})), ""),
        (schema(json!({"properties": wide, "minProperties": 17, "maxProperties": 20})), ""),
        (schema(many.clone()), "alternatives"),
        (
            schema(
                json!({"properties": {"a": {"type": {"ääääääääääääääääääääääääääääääääääääääääääääääääääääääää": 1}}}}),
            ),
            "/properties/a/type",
        ),
        (schema(json!(false)), ""),
        (schema(json!(5)), ""),
        (schema(json!({"enum": ["x".repeat(1 << 20)]})), "bytes"),
        (Source::Regex("(".into()), ""),
        (Source::Regex(r"(?=a)b".into()), ""),
        (Source::Regex("[^\\s\\S]".into()), ""),
        (Source::Lark("start: nothing".into()), "nothing"),
        (Source::Lark("start: \"a".into()), ""),
        (Source::Lark("start: start".into()), ""),
        (Source::Lark(String::new()), ""),
        (Source::Lark(format!("start: %json {many}")), "alternatives"),
        (Source::Lark("start: %json {".into()), ""),
    ];
    for (source, told) in cases {
        let shown = format!("{source:?}").chars().take(200).collect::<String>();
        match vocabulary.compile(&source) {
            Ok(_) => panic!("{shown} was compiled"),
            Err(error) => {
                println!("{shown}\n    {error}");
                assert!(error.contains(told) && !error.contains("panic"), "{shown}: {error}");
            }
        }
    }
    let wide =
        |n: usize| -> Value { (0..n).map(|i| (format!("p{i}"), json!({"type": "integer", "minimum": i}))).collect() };
    // What no model could write, too deep, too many, and what explodes.
    let alone =
        |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let chain = |n: usize| (0..n).map(|i| format!("a{i}: a{}\n", i + 1)).collect::<String>();
    let mut refs: Value =
        (0..20_000).map(|i| (format!("a{i}"), json!({"$ref": format!("#/$defs/a{}", i + 1)}))).collect();
    refs["a20000"] = json!({"type": "null"});
    for (source, told) in [
        (Source::Lark(format!("start: {}", alone("(", "\"a\"", ")", 100_000))), "nested 100000 deep"),
        (Source::Lark(format!("start: a0\n{}a50000: \"x\"", chain(50_000))), "50002 rules"),
        (schema(json!({"properties": wide(15_000), "additionalProperties": false})), "15000 properties"),
        (Source::Regex(alone("(", "a", ")", 100_000)), ""),
        (Source::Lark("start: /(?=a)/".into()), ""),
    ] {
        let error = vocabulary.compile(&source).err().expect("an error");
        println!("{error}");
        assert!(error.contains(told) && error.len() < 1000, "{error}");
    }
    // These are compiled, or say why not; nothing hangs, nothing breaks.
    for source in [
        schema(json!({"properties": wide(1000), "additionalProperties": false})),
        schema(json!({"enum": (0..60_000).map(|i| format!("value {i}")).collect::<Vec<_>>()})),
        schema(json!({"$defs": refs, "$ref": "#/$defs/a0"})),
        schema(json!({"type": "string", "pattern": "^(a|b)*a(a|b){40}$"})),
        schema(json!({"type": "string", "pattern": "^(a?){200}a{200}$", "minLength": 100})),
        schema(json!({"type": "array", "items": {"type": "array", "maxItems": 1000}, "minItems": 1000})),
        Source::Lark(format!("start: a0\n{}a5000: \"x\"", chain(5000))),
        Source::Lark(format!("start: {}", alone("(", "\"a\"", ")", 400))),
        Source::Regex("(a|b|ab)*c|".repeat(2000) + "(x+x+)+y{5000}.{3000}z"),
        Source::Regex("(.*a){30}".into()),
        Source::Regex(alone("(", "a", ")*", 150)),
    ] {
        let began = std::time::Instant::now();
        let outcome = vocabulary.compile(&source).map(|mut grammar| {
            for _ in 0..8 {
                let allowed = allowed(&grammar.mask(&[]));
                allowed.last().into_iter().for_each(|token| grammar.accept(*token));
            }
            grammar.failure()
        });
        println!("{:?} {} {outcome:?}", began.elapsed(), format!("{source:?}").chars().take(80).collect::<String>());
    }
    // What is no keyword says nothing.
    vocabulary.compile(&schema(json!({"type": "null", "x-mine": {"a": 1}, "deprecated": true}))).expect("a grammar");
    // Counts are kept as such, however large what they stand for.
    vocabulary.compile(&Source::Regex("((a{1,1000}){1,1000}){1,1000}".into())).expect("a grammar");
    // What no grammar can promise is passed over where nobody is strict about it.
    let lenient = Source::Schema { schema: json!({"properties": {"a": {"not": {}}}}), strict: false };
    vocabulary.compile(&lenient).expect("a grammar");
}

#[test]
fn grammars_are_compiled_for_vocabularies_of_pieces() {
    let vocabulary = vocabulary(GEMMA3);
    let schema = json!({"type": "object", "properties": {"name": {"const": "x y"}}, "required": ["name"], "additionalProperties": false});
    let grammar = vocabulary.compile(&Source::Schema { schema, strict: true }).expect("a grammar");
    let tokenizer = tokenizer(&model_path(GEMMA3));
    let mut forced = grammar.clone().forced();
    let end = forced.pop().expect("an end");
    assert!(tokenizer.end_of_generation().contains(&end));
    assert_eq!(forced, tokenizer.encode(r#"{"name": "x y"}"#, false));
    assert_eq!(tokenizer.decode(&forced), r#"{"name": "x y"}"#);
}
