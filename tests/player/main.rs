//! A random player of the engine: everything that it can do, all at once, on tiny models and a simulated device.
//!
//! A schedule has prompts of all lengths with common beginnings, all ways to read them, all drafters and forms of trees, little
//! memory or much, cancels, sidecars that come and go, steps that are dropped, devices that are lost. It always holds that
//! every request ends once and soon, that no block is lost, that answers are those of plain decoding where that is defined,
//! that usage adds up, that stop texts never appear, and that nothing panics.
//!
//! `FOREWORD_SCHEDULES=N` plays so many schedules. One that fails is made as small as possible and printed as a line, which
//! `FOREWORD_REPLAY` plays again.

#![allow(unreachable_pub, reason = "one program")]

#[path = "../common/mod.rs"]
mod common;

mod check;
mod drafter;
mod play;
mod reference;
mod schedule;

use check::Tally;
use reference::Shared;
use schedule::{Line, Part, Schedule};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Schedules without the variable.
const SCHEDULES: u64 = 2000;

/// The schedule that is being played, and since when.
static PLAYING: Mutex<Option<(Instant, String)>> = Mutex::new(None);

/// Where the last panic was.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Plays a schedule; a panic is a failure like others.
fn play(line: &Line, shared: &mut Shared) -> Result<Tally, String> {
    *PLAYING.lock().expect("no panic") = Some((Instant::now(), line.to_string()));
    let schedule = Schedule::of(line.0).without(&line.1);
    let played = catch_unwind(AssertUnwindSafe(|| play::play(&schedule, shared)));
    played.unwrap_or_else(|_| Err(format!("a panic: {}", PANIC.lock().expect("no panic"))))
}

/// Leaves parts of a failing schedule out as long as it still fails.
fn shrink(line: Line, shared: &mut Shared) -> Line {
    let mut line = line;
    loop {
        let before = line.1.len();
        let parts = Schedule::of(line.0).without(&line.1).parts();
        for part in parts {
            let is_left = Schedule::of(line.0).without(&line.1).parts().contains(&part);
            if !is_left || line.1.contains(&part) && !matches!(part, Part::Half(_)) {
                continue;
            }
            let smaller = Line(line.0, line.1.iter().copied().chain([part]).collect());
            if play(&smaller, shared).is_err() {
                line = smaller;
            }
        }
        if line.1.len() == before {
            return line;
        }
    }
}

/// Ends the program where a single step never ends, which nothing else can.
fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(5));
            let playing = PLAYING.lock().expect("no panic").clone();
            if let Some((since, line)) = playing.filter(|(since, _)| since.elapsed() > Duration::from_secs(120)) {
                eprintln!("a step hangs since {since:?}\nFOREWORD_REPLAY={line}");
                std::process::abort();
            }
        }
    });
}

#[test]
fn random_schedules_of_all_options_together() {
    watch();
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let replay = std::env::var("FOREWORD_REPLAY").ok().map(|line| line.parse::<Line>().expect("a schedule"));
    let lines: Box<dyn Iterator<Item = Line>> = match replay {
        Some(line) => Box::new([line].into_iter()),
        None => Box::new((0..number("FOREWORD_SCHEDULES").unwrap_or(SCHEDULES)).map(|seed| Line(seed, Vec::new()))),
    };
    let hook = take_hook();
    set_hook(Box::new(|info| *PANIC.lock().expect("no panic") = info.to_string()));
    let (mut shared, mut tally, mut played) = (Shared::default(), Tally::default(), 0);
    let mut failed = None;
    for line in lines {
        played += 1;
        match play(&line, &mut shared) {
            Ok(more) => tally += more,
            Err(error) => {
                let small = shrink(line, &mut shared);
                failed = Some((play(&small, &mut shared).err().unwrap_or(error), small));
                break;
            }
        }
    }
    *PLAYING.lock().expect("no panic") = None;
    set_hook(hook);
    if let Some((error, line)) = failed {
        let schedule = Schedule::of(line.0).without(&line.1);
        panic!("{error}\n{schedule:#?}\nFOREWORD_REPLAY={line}");
    }
    println!("{played} schedules: {tally:?}");
    assert!(played < SCHEDULES || tally.is_full(), "something never happened: {tally:?}");
}
