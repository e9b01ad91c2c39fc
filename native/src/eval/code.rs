//! `foreword eval code`: how many of HumanEval's functions a model writes so that their tests pass (arXiv 2107.03374), each one
//! greedily and once.
//!
//! The programs run in Python, in a process of their own each, with limits of time and memory. That is no sandbox.

use crate::args::CodeArgs;
use crate::run::answer_to;
use crate::{load, term};
use foreword::engine::{Against, Engine, Request};
use foreword::sample::{Contrast, Params};
use foreword::{Error, Result};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg32;
use serde::Deserialize;
use serde_json::json;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A function to be written.
#[derive(Deserialize)]
struct Task {
    task_id: String,
    /// Head and description.
    prompt: String,
    entry_point: String,
    /// Defines `check(candidate)`.
    test: String,
}

/// What begins something else behind the function.
const ENDS: [&str; 6] = ["\ndef ", "\nclass ", "\nif ", "\nprint", "\n#", "\n@"];

/// Seconds that a program may take.
const SECONDS: u64 = 10;

/// Runs the program on standard input. Only one that comes to its end has the exit code [`PASSED`].
const HARNESS: &str = "
import os, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
except ImportError:
    pass
exec(compile(sys.stdin.read(), 'answer', 'exec'), {'__name__': 'answer'})
os._exit(42)
";

/// What no program ends with by itself.
const PASSED: i32 = 42;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    TimedOut,
}

pub(super) fn code(args: &CodeArgs) -> Result<()> {
    let tasks = tasks(args)?;
    let mut engine = load::engine(&args.model, &args.load)?;
    let (mut plain, mut contrasted, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for task in &tasks {
        let mut tried = |against| -> Result<(String, Outcome)> {
            let answer = answer(&mut engine, task, against, args.max_tokens)?;
            let program = format!("{}{answer}\n{}\ncheck({})\n", task.prompt, task.test, task.entry_point);
            let outcome = run(&args.python, &program, Duration::from_secs(SECONDS))?;
            Ok((answer, outcome))
        };
        let (answer, outcome) = tried(None)?;
        plain.push(outcome);
        let mut row = json!({"task_id": task.task_id, "passed": outcome == Outcome::Passed, "answer": answer});
        if let Some(mode) = args.contrast {
            let (answer, outcome) = tried(Some(Contrast::of(mode)))?;
            contrasted.push(outcome);
            row["contrasted"] = json!({"passed": outcome == Outcome::Passed, "answer": answer});
        }
        rows.push(row);
    }
    let n = tasks.len();
    let passed = |outcomes: &[Outcome]| outcomes.iter().filter(|outcome| **outcome == Outcome::Passed).count();
    let (passes, timed_out) = (passed(&plain), plain.iter().filter(|o| **o == Outcome::TimedOut).count());
    let mut report = json!({"model": args.model, "n": n, "passed": passes, "timed_out": timed_out,
        "pass_at_1": passes as f64 / n as f64, "tasks": rows});
    let mut said = format!("{passes} of {n} functions pass their tests, {timed_out} took longer than {SECONDS} s\n");
    if args.contrast.is_some() {
        let [low, high] = interval(&plain, &contrasted);
        let passes = passed(&contrasted);
        report["contrasted"] =
            json!({"passed": passes, "pass_at_1": passes as f64 / n as f64, "difference_95": [low, high]});
        said += &format!(
            "with contrast {passes} of {n}; the share that passes differs by {:.1} to {:.1} points (95 %)\n",
            100.0 * low,
            100.0 * high
        );
    }
    if args.report.json { term::print_json(&report) } else { term::print(&said) }
}

/// The greedy answer to a task; with a contrast, against the task without its examples (arXiv 2409.05923).
fn answer(engine: &mut Engine, task: &Task, contrast: Option<Contrast>, max_tokens: usize) -> Result<String> {
    let request = Request {
        prompt: engine.prompt(&task.prompt, false),
        params: Params { temperature: 0.0, ..Params::default() },
        max_tokens: Some(max_tokens),
        stop: ENDS.map(str::to_owned).to_vec(),
        against: contrast.map(|contrast| Against { prompt: engine.prompt(&without_examples(task), false), contrast }),
        ..Request::default()
    };
    let mut answer = String::new();
    let done = answer_to(engine, request, &mut || false, &mut |token| {
        answer.push_str(&token.text);
        Ok(())
    })?;
    Ok(answer + &done.text)
}

/// The prompt whose description, the text that it ends with, ends before its first example. A description without one is left out.
fn without_examples(task: &Task) -> String {
    let prompt = task.prompt.trim_end();
    let Some(quotes) = ["\"\"\"", "\'\'\'"].into_iter().find(|quotes| prompt.ends_with(quotes)) else {
        return task.prompt.clone();
    };
    let Some((head, description)) = prompt[..prompt.len() - 3].rsplit_once(quotes) else { return task.prompt.clone() };
    let call = format!("{}(", task.entry_point);
    let example = |line: &&str| line.contains(">>>") || line.contains("xample") || line.contains(&call);
    let lines: Vec<&str> = description.lines().collect();
    let kept = lines.iter().position(example).unwrap_or(0);
    format!("{head}{quotes}{}\n    {quotes}\n", lines[..kept].join("\n"))
}

/// Between which differences of the two shares of passed tasks 95 % of 10,000 draws of as many tasks lie (paired bootstrap).
fn interval(plain: &[Outcome], contrasted: &[Outcome]) -> [f64; 2] {
    let mut random = Pcg32::seed_from_u64(1);
    let value = |outcome: Outcome| f64::from(u8::from(outcome == Outcome::Passed));
    let gains: Vec<f64> = plain.iter().zip(contrasted).map(|(a, b)| value(*b) - value(*a)).collect();
    let mut means: Vec<f64> = (0..10_000)
        .map(|_| {
            gains.iter().map(|_| gains[random.next_u32() as usize % gains.len()]).sum::<f64>() / gains.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [means[250], means[9749]]
}

/// The tasks of the file.
fn tasks(args: &CodeArgs) -> Result<Vec<Task>> {
    let place = args.dataset.display();
    let text = std::fs::read_to_string(&args.dataset)
        .map_err(|e| Error::storage(format!("cannot read {place}: {e}")).caused_by(e))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let task = |(line, n): (&str, usize)| {
        serde_json::from_str(line).map_err(|e| Error::invalid_request(format!("line {n} of {place}: {e}")).caused_by(e))
    };
    let tasks = lines.take(args.limit.unwrap_or(usize::MAX)).map(task).collect::<Result<Vec<Task>>>()?;
    if tasks.is_empty() { Err(Error::invalid_request(format!("there is no task in {place}"))) } else { Ok(tasks) }
}

/// Runs a program.
fn run(python: &str, program: &str, longest: Duration) -> Result<Outcome> {
    let failed = |e: std::io::Error| Error::storage(format!("cannot run {python}: {e}")).caused_by(e);
    let mut command = Command::new(python);
    command.args(["-I", "-c", HARNESS]).current_dir(std::env::temp_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    // A process that ended before it read its program has failed; its exit code says so.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(program.as_bytes()));
    let until = Instant::now() + longest;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(if status.code() == Some(PASSED) { Outcome::Passed } else { Outcome::Failed });
        }
        if Instant::now() >= until {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Ok(Outcome::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Task, interval, run, without_examples};
    use std::time::Duration;

    #[test]
    fn programs_pass_where_they_come_to_their_end_within_their_limits() {
        let run = |program: &str| run("python3", program, Duration::from_secs(2)).expect("Python");
        assert_eq!(run("def f(x):\n    return x + 1\nassert f(1) == 2\n"), Outcome::Passed);
        for program in ["assert 1 == 2", "def f(:", "import sys\nsys.exit(0)", "x = bytearray(2 << 30)", "exit(42 - 1)"]
        {
            assert_eq!(run(program), Outcome::Failed, "{program}");
        }
        assert_eq!(run("while True: pass"), Outcome::TimedOut);
    }

    #[test]
    fn the_other_prompt_ends_before_the_examples() {
        let task = |prompt: &str| Task {
            task_id: String::new(),
            prompt: prompt.into(),
            entry_point: "f".into(),
            test: String::new(),
        };
        let of = |prompt: &str| without_examples(&task(prompt));
        let head = "def f(x):\n    \"\"\" Doubles.\n    Of any number.\n";
        let wanted = "def f(x):\n    \"\"\" Doubles.\n    Of any number.\n    \"\"\"\n";
        for example in [">>> f(2)\n    4", "Examples:\n    2 gives 4", "f(2) == 4"] {
            assert_eq!(of(&format!("{head}    {example}\n    \"\"\"\n")), wanted);
        }
        assert_eq!(of("def f(x):\n    ''' Doubles. '''\n"), "def f(x):\n    '''\n    '''\n");
        assert_eq!(of("def f(x):\n"), "def f(x):\n");
    }

    #[test]
    fn differences_lie_within_their_interval() {
        let outcomes = |passed: usize| {
            (0..100).map(|i| if i < passed { Outcome::Passed } else { Outcome::Failed }).collect::<Vec<_>>()
        };
        assert_eq!(interval(&outcomes(40), &outcomes(40)), [0.0, 0.0]);
        let [low, high] = interval(&outcomes(40), &outcomes(50));
        assert!((0.03..0.06).contains(&low) && (0.14..0.18).contains(&high), "{low} to {high}");
    }
}
