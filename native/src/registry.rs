//! The built-in list of models, and which of them this machine has room for.

use crate::args::ModelsArgs;
use crate::term;
use foreword::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// A model of the list; the browser package has the same one.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) name: String,
    family: String,
    parameters: u64,
    #[serde(rename = "use")]
    field: String,
    about: String,
    license: String,
    context: u64,
    #[serde(default)]
    pub(crate) sampling: Sampling,
    /// Whether this very file was run and compared; of the others, only their architecture was.
    tested: bool,
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) sources: Vec<Origin>,
}

/// What a model's maker advises.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Sampling {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
}

impl Sampling {
    /// As the fields of a request, where there is any.
    pub(crate) fn fields(&self) -> Option<Value> {
        (*self != Sampling::default()).then(|| json!(self))
    }
}

/// One place that has a model.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Origin {
    /// Python packages that hold the pieces of the file, in order.
    Packages { packages: Vec<String>, members: Vec<String> },
    /// `owner/repo/file` of the model hub.
    Hub { hub: String },
}

const LIST: &str = include_str!("../../pkg/src/models.json");

/// What models are listed for, in this order.
const FIELDS: [(&str, &str); 4] = [("chat", "Chat"), ("reasoning", "Reasoning"), ("code", "Code"), ("tools", "Tools")];

pub(crate) fn entries() -> Result<Vec<Entry>> {
    serde_json::from_str(LIST).map_err(|e| Error::unsupported("the built-in list of models is damaged").caused_by(e))
}

impl Entry {
    /// Whether the weights, a conversation of 2048 tokens and work memory have room beside everything else. Repacked weights take 1.05
    /// times the file, and the cache of so many tokens a tenth of it, with less than 45 MB of small models.
    fn fits(&self, memory: u64) -> bool {
        self.bytes + self.bytes / 6 + (128 << 20) <= memory / 4 * 3
    }
}

/// Bytes of memory that this process can have.
fn memory() -> Result<u64> {
    let ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(ram)
        .map_err(|e| Error::unsupported("this system does not say how much memory it has").caused_by(e))?;
    let total = system.total_memory();
    Ok(system.cgroup_limits().map_or(total, |limits| limits.total_memory.min(total)))
}

/// `foreword models`.
pub(crate) fn models(args: &ModelsArgs) -> Result<()> {
    let (entries, memory) = (entries()?, memory()?);
    if args.report.json {
        let row = |e: &Entry| {
            json!({
                "name": e.name, "family": e.family, "parameters": e.parameters, "bytes": e.bytes, "license": e.license,
                "context": e.context, "fits": e.fits(memory), "use": e.field, "tested": e.tested,
            })
        };
        return term::print_json(&entries.iter().map(row).collect());
    }
    let yes = |is: bool| if is { "yes" } else { "no" };
    let mut out = String::new();
    for (field, title) in FIELDS {
        let _ = writeln!(out, "{title:<20}   params      size  fits  tested  license");
        for e in entries.iter().filter(|e| e.field == field) {
            let (name, size, license) = (&e.name, e.bytes / 1_000_000, &e.license);
            let (parameters, fits, tested) = (short(e.parameters), yes(e.fits(memory)), yes(e.tested));
            let _ = writeln!(
                out,
                "  {name:<18} {parameters:>8}   {size:>4} MB  {fits:<4}  {tested:<6}  {license:<27} {}",
                e.about
            );
        }
        out.push('\n');
    }
    let _ =
        writeln!(out, "fits: in the {:.0} GB of memory here, with a conversation of 2048 tokens", memory as f64 / 1e9);
    let _ = writeln!(out, "tested: this very file was run and compared; of the others, only their architecture was");
    term::print(&out)
}

/// `135M`, `1.7B`.
fn short(parameters: u64) -> String {
    match parameters {
        ..1_000_000_000 => format!("{}M", parameters / 1_000_000),
        _ => format!("{:.1}B", parameters as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_entry_can_be_fetched_and_checked() {
        let entries = entries().expect("a list");
        let unique = |of: fn(&Entry) -> &str| entries.iter().map(of).collect::<BTreeSet<_>>().len() == entries.len();
        assert!(unique(|e| &e.name) && unique(|e| &e.file) && unique(|e| &e.sha256));
        for e in &entries {
            assert!(e.sha256.len() == 64 && e.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{}", e.name);
            assert!(e.bytes > 50 << 20 && e.context >= 4096 && e.parameters > 100_000_000, "{}", e.name);
            assert!(e.file.ends_with(".gguf") && !e.file.contains('/'), "{}", e.name);
            assert!(FIELDS.iter().any(|(field, _)| *field == e.field), "{}", e.name);
            let hubs = e.sources.iter().filter_map(|s| if let Origin::Hub { hub } = s { Some(hub) } else { None });
            // Browsers know no packages.
            assert!(hubs.map(|hub| hub.split('/').count()).eq([3]), "{}", e.name);
        }
    }

    #[test]
    fn a_model_needs_more_memory_than_its_file_has() {
        let entries = entries().expect("a list");
        let largest = entries.iter().max_by_key(|e| e.bytes).expect("a model");
        assert!(!largest.fits(largest.bytes) && largest.fits(3 * largest.bytes));
        let smallest = entries.iter().min_by_key(|e| e.bytes).expect("a model");
        assert!(smallest.fits(1 << 30));
        // Beside a conversation, not beside the whole context that the model offers.
        let model = Entry { bytes: 1_000_000_000, ..entries.into_iter().next().expect("a model") };
        assert!(model.fits(1_750_000_000) && !model.fits(1_700_000_000));
    }
}
