//! What grammars may take: they come from anybody.

#[cfg(not(target_arch = "wasm32"))]
use std::{
    sync::mpsc::{self, RecvTimeoutError},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Instead of a panic's words, which are about the code.
pub(crate) const FAILED: &str = "what compiles grammars failed at this one; a smaller one may do";

/// Deepest nesting of brackets in a grammar.
const DEEPEST: usize = 500;

/// Most rules of a grammar: a rule in a rule in a rule takes a stretch of the stack for each.
const MOST_RULES: usize = 10_000;

/// Bytes of the stack that a grammar is compiled on: enough for the deepest that the limits let through. Only what is used of it takes
/// memory.
#[cfg(not(target_arch = "wasm32"))]
const STACK: usize = 256 << 20;

/// Says that a grammar in Lark is nested too deeply, or has too many rules.
pub(crate) fn check_shape(text: &str) -> Result<(), String> {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            // No text goes on behind the end of its line.
            '\n' => quoted = false,
            '(' | '[' | '{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if deepest > DEEPEST {
        return Err(format!("the grammar is nested {deepest} deep; at most {DEEPEST} are compiled"));
    }
    let rules = text.lines().filter(|line| line.contains(':')).count();
    if rules > MOST_RULES {
        return Err(format!("the grammar has {rules} rules; at most {MOST_RULES} are compiled"));
    }
    Ok(())
}

/// Longest that a grammar is compiled, and that it waits for others before.
#[cfg(not(target_arch = "wasm32"))]
const LONGEST: Duration = Duration::from_secs(10);

/// Most grammars that are being compiled, those among them that took too long and that nobody waits for.
#[cfg(not(target_arch = "wasm32"))]
const MOST_AT_ONCE: usize = 8;

/// How many grammars are being compiled.
#[cfg(not(target_arch = "wasm32"))]
struct UnderWay {
    n: Mutex<usize>,
    /// Told when there are fewer.
    fewer: Condvar,
}

/// A place among them, which a thread gives back at its end, also by a panic.
#[cfg(not(target_arch = "wasm32"))]
struct Place(&'static UnderWay);

#[cfg(not(target_arch = "wasm32"))]
impl UnderWay {
    const fn new() -> Self {
        UnderWay { n: Mutex::new(0), fewer: Condvar::new() }
    }

    /// A place for one more; none where there is none for so long.
    fn place(&'static self, longest: Duration) -> Option<Place> {
        let n = self.n.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.fewer.wait_timeout_while(n, longest, |n| *n >= MOST_AT_ONCE);
        let (mut n, end) = waited.unwrap_or_else(PoisonError::into_inner);
        (!end.timed_out()).then(|| {
            *n += 1;
            Place(self)
        })
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Drop for Place {
    fn drop(&mut self) {
        *self.0.n.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.fewer.notify_one();
    }
}

/// Compiles on a thread of its own: a panic is an error of this grammar, there is room for deep recursion, and one that takes too long
/// is left to itself, as nothing can stop it; the limits of its steps do so in the end.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn guarded<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    static UNDER_WAY: UnderWay = UnderWay::new();
    within(LONGEST, &UNDER_WAY, work)
}

#[cfg(not(target_arch = "wasm32"))]
fn within<T: Send + 'static>(
    longest: Duration,
    under_way: &'static UnderWay,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let place = under_way.place(longest);
    let place =
        place.ok_or_else(|| format!("{MOST_AT_ONCE} grammars are being compiled that take long; try again later"))?;
    let (send, outcome) = mpsc::channel();
    let compile = move || {
        let _place = place;
        // Nobody may be waiting any more.
        let _ = send.send(work());
    };
    let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn(compile);
    thread.map_err(|e| format!("there is no thread to compile the grammar: {e}"))?;
    outcome.recv_timeout(longest).unwrap_or_else(|end| match end {
        RecvTimeoutError::Timeout => {
            Err(format!("compiling takes longer than {} s; a smaller one may do", longest.as_secs_f32()))
        }
        RecvTimeoutError::Disconnected => Err(FAILED.into()),
    })
}

/// A trap ends the module; its caller makes another. There is no clock to stop it by: the limits of its steps do.
#[cfg(target_arch = "wasm32")]
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    work()
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::{FAILED, MOST_AT_ONCE, UnderWay, within};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn what_takes_too_long_is_left_to_itself_and_others_wait_for_a_place() {
        static UNDER_WAY: UnderWay = UnderWay::new();
        let (patient, soon) = (Duration::from_secs(3600), Duration::from_millis(1));
        assert_eq!(within(patient, &UNDER_WAY, || Ok(5)), Ok(5));
        assert_eq!(within::<u8>(patient, &UNDER_WAY, || panic!("a fault")), Err(FAILED.into()));
        while *UNDER_WAY.n.lock().expect("a number") > 0 {
            std::thread::yield_now();
        }
        // These wait until all is over.
        let mut ends = Vec::new();
        for _ in 0..MOST_AT_ONCE {
            let (end, wait) = channel::<()>();
            ends.push(end);
            let error = within(soon, &UNDER_WAY, move || Ok(wait.recv().is_ok())).expect_err("too long");
            assert!(error.contains("longer than 0.001 s"), "{error}");
        }
        let error = within(soon, &UNDER_WAY, || Ok(5)).expect_err("too many");
        assert!(error.contains("try again later"), "{error}");
        // A sound one has its turn when one of them ends.
        let waits = std::thread::spawn(move || within(patient, &UNDER_WAY, || Ok(5)));
        ends.pop();
        assert_eq!(waits.join().expect("no panic"), Ok(5));
    }
}
