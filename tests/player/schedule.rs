//! What a player does: everything follows from a seed, and parts of it can be left out.

use crate::common::random::Random;
use crate::common::rules::{ByPath, Forcing, Next};
use foreword::backend::{BLOCK, CacheType};
use foreword::predict::Prefill;
use foreword::sample::{Contrast, ContrastMode, Params, Rule};
use foreword::speculate::{Mode, Shape};
use std::fmt;
use std::str::FromStr;

/// An engine, the requests that come to it, and what else happens.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub setup: Setup,
    /// Left out ones are `None`, so that numbers stay.
    pub asks: Vec<Option<Ask>>,
    /// When, in steps, and what.
    pub actions: Vec<Option<(usize, Action)>>,
}

/// How the engine is made, and what its device is like.
#[derive(Clone, Debug)]
pub struct Setup {
    pub model: &'static str,
    pub cache_type: CacheType,
    pub blocks: usize,
    pub context: usize,
    pub max_batch: usize,
    /// Milliseconds of a forward, of a row, of a visible position.
    pub times: (f64, f64, f64),
    /// Whether the device runs ahead.
    pub ahead: bool,
    /// One in so many polls is too early; none for 0.
    pub stalls: usize,
    pub target: f64,
    pub prefill: Prefill,
    pub sidecar: Option<SidecarKind>,
    pub drafter: Option<(DrafterKind, Mode)>,
    /// Restorations that fail before one does not.
    pub failed_restores: usize,
    /// Steps after a restoration until the sidecar is back.
    pub sidecar_again: Option<usize>,
}

/// A request. Its prompt is made of what an earlier one has got so far, and of pieces of texts.
#[derive(Clone, Debug)]
pub struct Ask {
    pub at: usize,
    pub goes_on: Option<usize>,
    /// Which text, and how many of its tokens.
    pub pieces: Vec<(u64, usize)>,
    pub max_tokens: Option<usize>,
    pub params: Params,
    pub rule: Option<OwnRule>,
    /// Pieces of the other prompt, and how it is taken off.
    pub against: Option<(Vec<(u64, usize)>, Contrast)>,
    pub stop: Vec<String>,
    pub logprobs: Option<usize>,
    pub ignore_eos: bool,
    pub priority: i32,
    pub prefill: Option<Prefill>,
    pub plain: bool,
}

/// A rule of the caller's own.
#[derive(Clone, Copy, Debug)]
pub enum OwnRule {
    ByPath,
    Next(f32),
    /// It says which tokens it forces.
    Forcing,
}

impl OwnRule {
    pub fn boxed(self) -> Box<dyn Rule> {
        match self {
            OwnRule::ByPath => Box::new(ByPath::default()),
            OwnRule::Next(by) => Box::new(Next::new(by)),
            OwnRule::Forcing => Box::new(Forcing::new(true)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SidecarKind {
    /// Maps only.
    Maps,
    /// With a layer of its own.
    Own,
    /// With a draft block.
    Drafts,
    /// With a draft block over some tokens, and an acceptance head.
    Accepts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrafterKind {
    Ngram,
    Layers,
    Sidecar,
    /// A second model with so many blocks.
    Model(usize),
    /// One of the caller's own, by its seed.
    Wild(u64),
}

#[derive(Clone, Debug)]
pub enum Action {
    Cancel(usize),
    /// The step is polled so many times, then dropped.
    Drop(usize),
    ClearCache,
    Target(f64),
    Prefill(Prefill),
    /// Takes the speculation away, or brings it back.
    Toggle,
    Mode(Mode),
    Drafter(DrafterKind, Mode),
    /// Another sidecar; the future is dropped after so many polls.
    Sidecar(SidecarKind, Option<usize>),
    /// The device is lost after so many results.
    Lose(usize),
    /// Memory runs out after so many steps of the device.
    NoMemory(usize),
    /// Memory runs out after so many allocations.
    NoRoom(usize),
}

/// Something to leave out, or to make plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Ask(usize),
    Action(usize),
    /// A field of the setup.
    Setup(usize),
    /// All of a request but its prompt, length and prefill.
    Plain(usize),
    /// Predicted prefill of a request.
    Exact(usize),
    /// Half of its prompt's last piece.
    Half(usize),
}

/// The model whose heads are of 32 values.
pub const WIDE_HEADS: &str = "gemma";

/// Number of [`Part::Setup`].
const SETUP_PARTS: usize = 13;

/// One of several.
fn one<T: Clone>(r: &mut Random, of: &[T]) -> T {
    of[r.below(of.len())].clone()
}

impl Schedule {
    pub fn of(seed: u64) -> Schedule {
        let mut r = Random::new(seed);
        for _ in 0..8 {
            r.bits();
        }
        let n = one(&mut r, &[1, 2, 3, 4, 6]);
        let asks: Vec<Ask> = (0..n).map(|i| ask(&mut r, i)).collect();
        let longest = asks.iter().map(|a| a.pieces.iter().map(|p| p.1).sum::<usize>()).max().unwrap_or(1);
        let setup = setup(&mut r, longest);
        let actions = (0..one(&mut r, &[0, 1, 2, 4, 8])).map(|_| (r.below(50), action(&mut r, n, &setup))).collect();
        let (asks, mut actions) = (asks.into_iter().map(Some).collect(), Vec::from_iter::<Vec<_>>(actions));
        actions.sort_by_key(|(at, _)| *at);
        Schedule { seed, setup, asks, actions: actions.into_iter().map(Some).collect() }
    }

    /// What may be left out, the most first.
    pub fn parts(&self) -> Vec<Part> {
        let asks = || self.asks.iter().enumerate().filter_map(|(i, ask)| Some((i, ask.as_ref()?)));
        let each = |part: fn(usize) -> Part| asks().map(move |(i, _)| part(i));
        let actions = (0..self.actions.len()).filter(|&i| self.actions[i].is_some()).map(Part::Action);
        let setup = (0..SETUP_PARTS).map(Part::Setup);
        let long = asks().filter(|(_, ask)| ask.pieces.last().is_some_and(|piece| piece.1 > 1));
        let whole = each(Part::Ask).chain(actions).chain(setup);
        whole.chain(each(Part::Plain)).chain(each(Part::Exact)).chain(long.map(|(i, _)| Part::Half(i))).collect()
    }

    pub fn without(mut self, parts: &[Part]) -> Schedule {
        for &part in parts {
            match part {
                Part::Ask(i) => self.asks[i] = None,
                Part::Action(i) => self.actions[i] = None,
                Part::Setup(i) => self.setup.simplify(i),
                Part::Plain(i) => {
                    if let Some(a) = &mut self.asks[i] {
                        let Ask { at, goes_on, pieces, max_tokens, prefill, .. } = a.clone();
                        *a = Ask { at, goes_on, pieces, max_tokens, prefill, ..plain() };
                    }
                }
                Part::Exact(i) => self.asks[i].iter_mut().for_each(|a| a.prefill = Some(Prefill::Exact)),
                Part::Half(i) => {
                    let last = self.asks[i].as_mut().and_then(|a| a.pieces.last_mut());
                    last.into_iter().for_each(|piece| piece.1 = piece.1.div_ceil(2));
                }
            }
        }
        self
    }
}

impl Setup {
    fn simplify(&mut self, i: usize) {
        match i {
            0 => self.sidecar = None,
            1 => self.drafter = None,
            2 => self.ahead = false,
            3 => self.stalls = 0,
            4 => self.target = f64::INFINITY,
            5 => self.prefill = Prefill::Exact,
            6 => self.failed_restores = 0,
            7 => self.sidecar_again = None,
            8 => self.cache_type = CacheType::F32,
            9 => self.blocks = 256,
            10 => self.max_batch = 256,
            11 => {
                self.model = "llama";
                self.cache_type = if self.cache_type == CacheType::Q8_0 { CacheType::F16 } else { self.cache_type };
            }
            _ => self.times = (1.0, 0.1, 0.0),
        }
    }
}

fn plain() -> Ask {
    let params = Params { temperature: 0.0, ..Params::default() };
    Ask {
        at: 0,
        goes_on: None,
        pieces: Vec::new(),
        max_tokens: Some(1),
        params,
        rule: None,
        against: None,
        stop: Vec::new(),
        logprobs: None,
        ignore_eos: true,
        priority: 0,
        prefill: None,
        plain: false,
    }
}

fn prefill(r: &mut Random) -> Prefill {
    one(r, &[Prefill::Exact, Prefill::Exact, Prefill::Auto, Prefill::Fast, Prefill::Progressive, Prefill::Progressive])
}

fn ask(r: &mut Random, i: usize) -> Ask {
    let short = [1, 1, 2, 3, 5, 16, 17, 31, 32, 33, 47, 64, 65];
    let long = [90, 100, 127, 128, 129, 140, 200, 257, 300];
    let first = if r.below(4) == 0 { one(r, &long) } else { one(r, &short) };
    let mut pieces = vec![(r.below(4) as u64, first)];
    if r.below(2) == 0 {
        pieces.push((r.below(6) as u64, one(r, &short)));
    }
    let mut params = Params { temperature: 0.0, ..Params::default() };
    if r.below(3) == 0 {
        params.temperature = one(r, &[0.0, 0.5, 1.0, 1.5]);
        params.seed = r.bits() % 8;
        params.top_k = one(r, &[0, 0, 1, 5, 40, usize::MAX]);
        params.top_p = one(r, &[1.0, 1.0, 0.9, 0.0]);
        params.min_p = one(r, &[0.0, 0.0, 0.05]);
        params.typical_p = one(r, &[1.0, 1.0, 1.0, 0.8]);
        params.repetition_penalty = one(r, &[1.0, 1.3, 0.8]);
        params.presence_penalty = one(r, &[0.0, 0.5]);
        params.frequency_penalty = one(r, &[0.0, 0.0, 0.3, -0.3]);
        params.penalty_window = one(r, &[64, 0, 3, usize::MAX]);
        params.logit_bias = match r.below(4) {
            0 => vec![(2, 4.0), (70, f32::NEG_INFINITY)],
            1 => (3..100).map(|t| (t, -1.0)).collect(),
            _ => Vec::new(),
        };
    }
    let against = (r.below(6) == 0).then(|| against(r, &pieces));
    let letter = |r: &mut Random| char::from(b'a' + r.below(26) as u8).to_string();
    let stop = match r.below(4) {
        0 => (0..1 + r.below(4)).map(|_| letter(r)).collect(),
        1 => vec![letter(r) + &letter(r), String::new(), "\u{fffd}\u{fffd}".into()],
        _ => Vec::new(),
    };
    Ask {
        at: one(r, &[0, 0, 0, 1, 3, 10, 30]) + r.below(3),
        goes_on: (i > 0 && r.below(4) == 0).then(|| r.below(i)),
        pieces,
        max_tokens: if r.below(24) == 0 { None } else { Some(one(r, &[1, 2, 5, 8, 13, 20, 40])) },
        params,
        rule: (r.below(2) == 0).then(|| {
            one(r, &[OwnRule::ByPath, OwnRule::Next(-8.0), OwnRule::Next(3.0), OwnRule::Forcing, OwnRule::Forcing])
        }),
        stop,
        logprobs: one(r, &[None, None, None, Some(0), Some(3), Some(usize::MAX)]),
        ignore_eos: r.below(2) == 0,
        priority: one(r, &[0, 0, 0, 1, -1]),
        prefill: (r.below(2) == 0).then(|| prefill(r)).filter(|_| against.is_none()),
        against,
        plain: r.below(6) == 0,
    }
}

/// Another prompt: a part of this one with something else behind it, or another text.
fn against(r: &mut Random, pieces: &[(u64, usize)]) -> (Vec<(u64, usize)>, Contrast) {
    let (which, n) = pieces[0];
    let mut others = vec![(which, r.below(n + 1)), (r.below(6) as u64, one(r, &[1, 2, 20, 33, 70]))];
    others.drain(..r.below(2));
    let mode = one(r, &[ContrastMode::Prob, ContrastMode::Logit]);
    let weight = one(r, &[0.3, 0.7, 1.0, 2.5]);
    (others, Contrast { weight, when: one(r, &[0.0, 0.1, 0.8, 1.0]), mode })
}

fn setup(r: &mut Random, longest: usize) -> Setup {
    let enough = (longest + 1).div_ceil(BLOCK);
    let max_batch = one(r, &[2, 3, 5, 8, 16, 33, 48, 64, 100, 256]);
    let hybrid = one(r, &["lfm2", "qwen35", "granitehybrid"]);
    let model = one(r, &["llama", "llama", hybrid, "qwen3", "qwen3moe", "gemma3", "smollm3", WIDE_HEADS, WIDE_HEADS]);
    // Heads of the others are too narrow for it.
    let last = if model == WIDE_HEADS { CacheType::Q8_0 } else { CacheType::F16 };
    Setup {
        model,
        cache_type: one(r, &[CacheType::F32, CacheType::F16, last, last]),
        blocks: one(r, &[enough, enough + 1, enough + 2, enough + 4, 2 * enough, 256]),
        context: one(r, &[400, 400, longest + 1, longest + 20, longest + 50]),
        max_batch,
        times: one(r, &[(1.0, 0.1, 0.0), (1.0, 0.1, 0.0), (8.0, 0.35, 0.002), (0.0, 0.0, 0.0), (30.0, 20.0, 0.0)]),
        ahead: r.below(3) == 0,
        stalls: one(r, &[0, 2, 5]),
        target: one(r, &[50.0, 50.0, 0.0, 5.0, f64::INFINITY]),
        prefill: prefill(r),
        sidecar: one(
            r,
            &[
                None,
                Some(SidecarKind::Maps),
                Some(SidecarKind::Own),
                Some(SidecarKind::Drafts),
                Some(SidecarKind::Accepts),
            ],
        ),
        drafter: (r.below(3) > 0).then(|| (drafter(r), mode(r, max_batch))),
        failed_restores: one(r, &[0, 0, 1, 2]),
        sidecar_again: one(r, &[None, Some(0), Some(3)]),
    }
}

fn drafter(r: &mut Random) -> DrafterKind {
    use DrafterKind::*;
    let seed = r.bits();
    one(r, &[Ngram, Layers, Sidecar, Sidecar, Model(3), Model(64), Wild(seed)])
}

fn mode(r: &mut Random, max_batch: usize) -> Mode {
    let shapes = [
        Shape::Constant(vec![1]),
        Shape::Constant(vec![1; 5]),
        Shape::Constant(vec![2, 2, 1]),
        Shape::Beam { width: 3, depth: 3 },
        Shape::Independent(vec![2, 1]),
        Shape::Constant(vec![3, 2, 1, 1]),
        Shape::Beam { width: 1, depth: 40 },
    ];
    let possible: Vec<Shape> = shapes.into_iter().filter(|s| s.size() < max_batch).collect();
    if r.below(3) == 0 { Mode::Auto } else { Mode::Fixed(one(r, &possible)) }
}

fn action(r: &mut Random, n: usize, setup: &Setup) -> Action {
    let kinds = [SidecarKind::Maps, SidecarKind::Own, SidecarKind::Drafts, SidecarKind::Accepts];
    match r.below(16) {
        0..3 => Action::Cancel(r.below(n)),
        3..7 => Action::Drop(r.below(8)),
        7 => Action::ClearCache,
        8 => Action::Target(one(r, &[0.0, 5.0, 50.0, f64::INFINITY])),
        9 => Action::Prefill(prefill(r)),
        10 => Action::Toggle,
        11 => match r.below(2) {
            0 => Action::Mode(mode(r, setup.max_batch)),
            _ => Action::Drafter(drafter(r), mode(r, setup.max_batch)),
        },
        12 => Action::Sidecar(one(r, &kinds), (r.below(3) == 0).then(|| r.below(20))),
        13 => Action::NoMemory(r.below(12)),
        14 => Action::NoRoom(r.below(40)),
        _ => Action::Lose(r.below(12)),
    }
}

/// A schedule as a line, such as `17` or `17:a0,s3`.
pub struct Line(pub u64, pub Vec<Part>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: &Part| match part {
            Part::Ask(i) => format!("a{i}"),
            Part::Action(i) => format!("x{i}"),
            Part::Setup(i) => format!("s{i}"),
            Part::Plain(i) => format!("p{i}"),
            Part::Exact(i) => format!("e{i}"),
            Part::Half(i) => format!("h{i}"),
        };
        let parts: Vec<String> = self.1.iter().map(part).collect();
        write!(f, "{}:{}", self.0, parts.join(","))
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Line, String> {
        let bad = || format!("{line:?} is no schedule");
        let (seed, parts) = line.split_once(':').unwrap_or((line, ""));
        let part = |text: &str| {
            let (kind, number) = text.split_at_checked(1)?;
            let i = number.parse().ok()?;
            match kind {
                "a" => Some(Part::Ask(i)),
                "x" => Some(Part::Action(i)),
                "s" => Some(Part::Setup(i)),
                "p" => Some(Part::Plain(i)),
                "e" => Some(Part::Exact(i)),
                "h" => Some(Part::Half(i)),
                _ => None,
            }
        };
        let parts: Option<Vec<Part>> = parts.split(',').filter(|p| !p.is_empty()).map(part).collect();
        Ok(Line(seed.parse().map_err(|_| bad())?, parts.ok_or_else(bad)?))
    }
}
