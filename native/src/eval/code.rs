//! `foreword eval code`: how many of HumanEval's functions a model writes so that their tests pass (arXiv 2107.03374), each one
//! greedily and once.
//!
//! The programs run in Python, in a process of their own each, with limits of time and memory. That is no sandbox.

use crate::args::CodeArgs;
use crate::run::answer_to;
use crate::{load, term};
use foreword::engine::Request;
use foreword::sample::Params;
use foreword::{Error, Result};
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
    let (mut passed, mut timed_out, mut rows) = (0, 0, Vec::new());
    for task in &tasks {
        let request = Request {
            prompt: engine.prompt(&task.prompt, false),
            params: Params { temperature: 0.0, ..Params::default() },
            max_tokens: Some(args.max_tokens),
            stop: ENDS.map(str::to_owned).to_vec(),
            ..Request::default()
        };
        let mut answer = String::new();
        let done = answer_to(&mut engine, request, &mut || false, &mut |token| {
            answer.push_str(&token.text);
            Ok(())
        })?;
        answer.push_str(&done.text);
        let program = format!("{}{answer}\n{}\ncheck({})\n", task.prompt, task.test, task.entry_point);
        let outcome = run(&args.python, &program, Duration::from_secs(SECONDS))?;
        passed += usize::from(outcome == Outcome::Passed);
        timed_out += usize::from(outcome == Outcome::TimedOut);
        rows.push(json!({"task_id": task.task_id, "passed": outcome == Outcome::Passed, "answer": answer}));
    }
    let n = tasks.len();
    if args.report.json {
        let report = json!({"model": args.model, "n": n, "passed": passed, "timed_out": timed_out,
            "pass_at_1": passed as f64 / n as f64, "tasks": rows});
        return term::print_json(&report);
    }
    term::print(&format!("{passed} of {n} functions pass their tests, {timed_out} took longer than {SECONDS} s\n"))
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
    use super::{Outcome, run};
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
}
