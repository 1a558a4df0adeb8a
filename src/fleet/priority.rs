//! Work for which frames go first.

use std::panic::resume_unwind;

/// Nice value of such work. Beside a thread of normal priority it gets 3 % of a core, which is less than the share that
/// learning is promised of a single one: so on a machine without an idle core the promise is what learning gets.
const NICE: i32 = 15;

/// Runs something on a thread of low priority and waits for it. A thread of its own each time: one that has lowered its
/// priority may not raise it again.
///
/// # Errors
/// When the system refuses the thread.
pub(super) fn at_low<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let low = || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the thread keeps the normal priority");
            }
            work()
        };
        let thread = std::thread::Builder::new().name("learner-low".into()).spawn_scoped(scope, low)?;
        thread.join().map_or_else(|panic| resume_unwind(panic), Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_work_has_low_priority() {
        let nice = || rustix::process::getpriority_process(None).expect("known of every thread");
        let before = nice();
        assert_eq!(at_low(nice).expect("a thread"), before.max(NICE));
        assert_eq!(nice(), before);
    }
}
