//! Files to an engine.

use crate::args::{CacheArg, GuessArgs, LoadArgs, PrefillModeArgs, SampleArgs, WindowArgs};
use crate::{store, term, windows};
use foreword::backend::{self, Backend, Choice};
use foreword::chat::ChatTemplate;
use foreword::engine::openai::{Body, makers_settings};
use foreword::engine::{Engine, Request};
use foreword::gguf::Gguf;
use foreword::model::{Model, ModelOptions};
use foreword::predict::Prefill;
use foreword::sample::Params;
use foreword::speculate::draft::{Drafter, Layers, Ngram, SecondModel};
use foreword::tokenizer::Tokenizer;
use foreword::{Error, Result};
use jiff::Zoned;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call.
pub(crate) fn clock() -> f64 {
    START.elapsed().as_secs_f64() * 1e3
}

/// The model's chat template, which may ask for the date.
pub(crate) fn chat_template(engine: &Engine) -> Result<ChatTemplate> {
    let mut template = ChatTemplate::from_gguf(&engine.gguf().metadata, engine.tokenizer())?;
    template.set_clock(|| wall_clock(&Zoned::now()));
    Ok(template)
}

/// Milliseconds from 1970-01-01 to what the clocks show in that time zone.
fn wall_clock(now: &Zoned) -> f64 {
    now.timestamp().as_millisecond() as f64 + f64::from(now.offset().seconds()) * 1e3
}

/// The header of a model.
pub(crate) fn header(model: &OsStr) -> Result<Gguf> {
    let path = store::find(model)?;
    pollster::block_on(Gguf::read(&mut store::sources(&path)?)).map_err(|e| e.at(path.display()))
}

/// Loads a model.
pub(crate) fn engine(model: &OsStr, args: &LoadArgs) -> Result<Engine> {
    let path = store::find(model)?;
    let options = ModelOptions {
        context_length: args.context,
        cache_type: args.cache_type.into(),
        cache_tokens: args.cache_tokens,
        kv_memory: args.kv_memory,
        ..ModelOptions::default()
    };
    let backend = backend(args)?;
    let sources = store::sources(&path)?;
    pollster::block_on(Engine::load(sources, backend, &options, clock, &mut |_| {})).map_err(|e| e.at(path.display()))
}

/// Sets up guessing.
pub(crate) fn speculate(engine: &mut Engine, model: &OsStr, args: &GuessArgs, load: &LoadArgs) -> Result<()> {
    if args.speculate == "off" {
        return Ok(());
    }
    let mode = args.speculate.parse()?;
    let drafter = drafter(engine, model, &args.draft, load)?;
    engine.speculate(drafter, mode)
}

/// Sets up reading by prediction.
pub(crate) fn prefill(engine: &mut Engine, model: &OsStr, args: &PrefillModeArgs) -> Result<()> {
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
pub(crate) fn need_sidecar(engine: &mut Engine, model: &OsStr, path: Option<&Path>) -> Result<()> {
    let found = path.map_or_else(|| store::sidecar(model), |path| Ok(Some(path.to_path_buf())))?;
    let none =
        || Error::invalid_request(format!("there is no sidecar of {}; name one with --sidecar", model.display()));
    add_sidecar(engine, &found.ok_or_else(none)?)
}

/// Adds the sidecar in a file.
pub(crate) fn add_sidecar(engine: &mut Engine, path: &Path) -> Result<()> {
    let same = pollster::block_on(engine.add_sidecar(store::sources(path)?)).map_err(|e| e.at(path.display()))?;
    if !same {
        term::note(&format!(
            "{} was made for another quantization of this model; first words may be a little worse",
            path.display()
        ));
    }
    Ok(())
}

/// A model, on so many threads, and the tokens of windows of a file's text.
///
/// # Errors
/// As for [`engine`] and [`windows::windows`].
pub(crate) fn windows(
    model: &OsStr,
    file: &Path,
    &WindowArgs { chunks, context }: &WindowArgs,
    (threads, cache_type, backend): (Option<usize>, CacheArg, Choice),
) -> Result<(Engine, Vec<u32>)> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::storage(format!("cannot read {}: {e}", file.display())).caused_by(e))?;
    let (cache_tokens, kv_memory, profile) = (None, None, false);
    let load_args =
        LoadArgs { threads, context: Some(context.max(4)), cache_type, backend, profile, cache_tokens, kv_memory };
    let engine = self::engine(model, &load_args)?;
    let tokens = engine.prompt(&text, false);
    let tokens = windows::windows(&tokens, context, chunks, engine.model().context_length())?.to_vec();
    Ok((engine, tokens))
}

/// The drafter of a name: `ngram`, `layers:K`, `sidecar` or a model.
pub(crate) fn drafter(engine: &mut Engine, model: &OsStr, name: &OsStr, load: &LoadArgs) -> Result<Box<dyn Drafter>> {
    if name == "ngram" {
        return Ok(Box::new(Ngram));
    }
    if name == "sidecar" {
        if engine.model().trunk().is_none() {
            need_sidecar(engine, model, None)?;
        }
        return Ok(Box::new(Layers::of_sidecar(engine.model())?));
    }
    if let Some(n) = name.to_str().and_then(|name| name.strip_prefix("layers:")) {
        let n = n.parse().map_err(|e| Error::invalid_request(format!("--draft layers:{n}: {e}")))?;
        return Ok(Box::new(Layers::new(engine.model(), n)?));
    }
    let (gguf, path) = (header(name)?, store::find(name)?);
    let tokenizer = Tokenizer::from_gguf(&gguf.metadata).map_err(|e| e.at(path.display()))?;
    let options = ModelOptions {
        context_length: Some(engine.model().context_length()),
        cache_type: load.cache_type.into(),
        // Its sequences are as many and as long as the model's, and a tree longer.
        cache_tokens: Some((engine.model().kv().spec().n_blocks + 8) * backend::BLOCK),
        ..ModelOptions::default()
    };
    let device = backend(load)?;
    let sources = store::sources(&path)?;
    let model = pollster::block_on(Model::load(&gguf, sources, device, &options, &mut |_| {}));
    let drafter = model.and_then(|model| SecondModel::new(model, &tokenizer, engine.tokenizer()));
    Ok(Box::new(drafter.map_err(|e| e.at(path.display()))?))
}

/// The backend asked for. `FOREWORD_LEVEL` names an instruction set of the CPU, for measurements.
pub(crate) fn backend(args: &LoadArgs) -> Result<Box<dyn Backend>> {
    let level = std::env::var_os("FOREWORD_LEVEL").filter(|name| !name.is_empty());
    let level = level.map(|name| backend::Level::named(&name.to_string_lossy())).transpose()?;
    let options = backend::Options { threads: threads(args.threads)?, level, profile: args.profile, clock };
    pollster::block_on(backend::open(args.backend, &options))
}

/// Threads asked for, or one a core.
pub(crate) fn threads(wanted: Option<usize>) -> Result<usize> {
    match wanted {
        Some(n @ 1..=256) => Ok(n),
        Some(n) => Err(Error::invalid_request(format!("--threads is {n}; it must be from 1 to 256"))),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get().min(256))),
    }
}

/// The request that flags ask for, but for its prompt. What they do not name is as the model's maker says, in the file or in the list
/// of models; without a seed, another one every time. An answer in circles ends where it is one of a chat or has a `form`.
pub(crate) fn request(args: &SampleArgs, engine: &Engine, model: &OsStr, in_chat: bool) -> Result<Request> {
    let listed = store::entry(model)?.and_then(|entry| entry.sampling.fields());
    let usual = Params { temperature: 0.3, top_k: 40, top_p: 0.9, ..Params::default() };
    let defaults = makers_settings(engine, listed.as_ref(), &usual)?;
    let mut fields = serde_json::to_value(args).map_err(|e| Error::invalid_request(e.to_string()))?;
    fields["stop_at_repetition"] = args.stop_at_repetition.unwrap_or(in_chat).into();
    let mut request =
        Body::over(&fields, &defaults)?.settings(engine.tokenizer(), RandomState::new().build_hasher().finish());
    request.params.logit_bias = args.logit_bias.clone();
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::wall_clock;

    #[test]
    fn dates_are_those_of_the_users_zone() {
        let at = |time: &str| wall_clock(&time.parse().expect("a time"));
        assert_eq!(at("1970-01-01T00:00:00+00:00[+00:00]"), 0.0);
        assert_eq!(at("1970-01-02T01:30:00+05:30[+05:30]"), 25.5 * 3.6e6);
        assert_eq!(at("1969-12-31T19:00:00-05:00[-05:00]"), -5.0 * 3.6e6);
    }
}
