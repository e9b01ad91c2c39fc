//! Files to an engine.

use crate::args::{GuessArgs, LoadArgs, PrefillModeArgs, SampleArgs};
use crate::{store, term};
use foreword::backend;
use foreword::chat::ChatTemplate;
use foreword::engine::Engine;
use foreword::gguf::Gguf;
use foreword::gguf::source::{FileSource, Source};
use foreword::model::{Model, ModelOptions};
use foreword::predict::Prefill;
use foreword::sample::Params;
use foreword::speculate::draft::{Drafter, Layers, Ngram, SecondModel};
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call.
pub(crate) fn clock() -> f64 {
    START.elapsed().as_secs_f64() * 1e3
}

/// The model's chat template, which may ask for the date.
pub(crate) fn chat_template(engine: &Engine) -> Result<ChatTemplate> {
    let mut template = ChatTemplate::from_gguf(&engine.gguf().metadata, engine.tokenizer())?;
    template.set_clock(|| SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64() * 1e3));
    Ok(template)
}

/// The files of a model: the one that was named, or all pieces when it is `…-00001-of-00003.gguf`.
pub(crate) fn sources(path: &Path) -> Result<Vec<Box<dyn Source>>> {
    pieces(path).iter().map(|p| Ok(Box::new(FileSource::open(p)?) as Box<dyn Source>)).collect()
}

/// The names of all pieces.
pub(crate) fn pieces(path: &Path) -> Vec<PathBuf> {
    let one = || vec![path.to_path_buf()];
    let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".gguf")) else {
        return one();
    };
    let Some((front, count)) = name.rsplit_once("-of-") else { return one() };
    let Some((stem, _)) = front.rsplit_once('-') else { return one() };
    match count.parse::<usize>() {
        Ok(n) if (2..=9999).contains(&n) && count.len() == 5 => {
            (1..=n).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count}.gguf"))).collect()
        }
        _ => one(),
    }
}

/// The header of a model.
pub(crate) fn header(model: &str) -> Result<Gguf> {
    let path = store::find(model)?;
    pollster::block_on(Gguf::read(&mut sources(&path)?)).map_err(|e| e.at(path.display()))
}

/// Loads a model.
pub(crate) fn engine(model: &str, args: &LoadArgs) -> Result<Engine> {
    let path = store::find(model)?;
    let options = ModelOptions {
        context_length: args.context,
        cache_type: args.cache_type.into(),
        cache_tokens: args.cache_tokens,
        ..ModelOptions::default()
    };
    let backend = pollster::block_on(backend::open(args.backend, threads(args.threads)?, args.profile, clock))?;
    let sources = sources(&path)?;
    pollster::block_on(Engine::load(sources, backend, &options, clock, &mut |_| {})).map_err(|e| e.at(path.display()))
}

/// Sets up guessing.
pub(crate) fn speculate(engine: &mut Engine, model: &str, args: &GuessArgs, load: &LoadArgs) -> Result<()> {
    if args.speculate == "off" {
        return Ok(());
    }
    let mode = args.speculate.parse()?;
    let drafter = drafter(engine, model, &args.draft, load)?;
    engine.speculate(drafter, mode)
}

/// Sets up reading by prediction.
pub(crate) fn prefill(engine: &mut Engine, model: &str, args: &PrefillModeArgs) -> Result<()> {
    if args.prefill != Prefill::Exact || args.sidecar.is_some() {
        match args.sidecar.clone().map_or_else(|| store::sidecar(model), |path| Ok(Some(path)))? {
            Some(path) => add_sidecar(engine, &path)?,
            None if args.prefill == Prefill::Auto => {
                term::note("there is no sidecar of this model; prompts are read exactly")
            }
            None => {}
        }
    }
    engine.set_prefill(args.prefill)
}

/// Adds the sidecar in `path`, or the one that is found.
pub(crate) fn need_sidecar(engine: &mut Engine, model: &str, path: Option<&Path>) -> Result<()> {
    let found = path.map_or_else(|| store::sidecar(model), |path| Ok(Some(path.to_path_buf())))?;
    let none = || Error::invalid_request(format!("there is no sidecar of {model}; name one with --sidecar"));
    add_sidecar(engine, &found.ok_or_else(none)?)
}

/// Adds the sidecar in a file.
pub(crate) fn add_sidecar(engine: &mut Engine, path: &Path) -> Result<()> {
    let same = pollster::block_on(engine.add_sidecar(sources(path)?)).map_err(|e| e.at(path.display()))?;
    if !same {
        term::note(&format!(
            "{} was made for another quantization of this model; first words may be a little worse",
            path.display()
        ));
    }
    Ok(())
}

/// The drafter of a name: `ngram`, `layers:K`, `sidecar` or a model.
pub(crate) fn drafter(engine: &mut Engine, model: &str, name: &str, load: &LoadArgs) -> Result<Box<dyn Drafter>> {
    if name == "ngram" {
        return Ok(Box::new(Ngram));
    }
    if name == "sidecar" {
        if engine.model().trunk().is_none() {
            need_sidecar(engine, model, None)?;
        }
        return Ok(Box::new(Layers::of_sidecar(engine.model())?));
    }
    if let Some(n) = name.strip_prefix("layers:") {
        let n = n.parse().map_err(|e| Error::invalid_request(format!("--draft {name}: {e}")))?;
        return Ok(Box::new(Layers::new(engine.model(), n)?));
    }
    let (gguf, path) = (header(name)?, store::find(name)?);
    let tokenizer = Tokenizer::from_gguf(&gguf.metadata).map_err(|e| e.at(path.display()))?;
    let options = ModelOptions {
        context_length: Some(engine.model().context_length()),
        cache_type: load.cache_type.into(),
        // Its sequences are as many and as long as the model's, and a tree longer.
        cache_tokens: Some((engine.model().kv().shape().n_blocks + 8) * backend::BLOCK),
        ..ModelOptions::default()
    };
    let device = pollster::block_on(backend::open(load.backend, threads(load.threads)?, false, clock))?;
    let mut sources = sources(&path)?;
    let model = pollster::block_on(Model::load(&gguf, &mut sources, device, &options, &mut |_| {}));
    let drafter = model.and_then(|model| SecondModel::new(model, &tokenizer, engine.tokenizer()));
    Ok(Box::new(drafter.map_err(|e| e.at(path.display()))?))
}

/// Threads asked for, or one a core.
pub(crate) fn threads(wanted: Option<usize>) -> Result<usize> {
    match wanted {
        Some(n @ 1..=256) => Ok(n),
        Some(n) => Err(Error::invalid_request(format!("--threads is {n}; it must be from 1 to 256"))),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get().min(256))),
    }
}

/// Sampling parameters; without a seed, another one every time.
pub(crate) fn params(args: &SampleArgs) -> Params {
    Params {
        logit_bias: args.logit_bias.clone(),
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        top_k: args.top_k,
        typical_p: args.typical_p,
        top_p: args.top_p,
        min_p: args.min_p,
        temperature: args.temperature,
        seed: args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
        ..Params::default()
    }
}
