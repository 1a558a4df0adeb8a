//! Workers as processes of their own, and the signals they get.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::fleet::until;

/// A worker: the real binary.
pub struct Process {
    /// Its name, which is also in the client ids of its Kafka clients.
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. What it writes goes to a file of its name, behind what an earlier one of that name wrote.
    pub fn start(name: &str, settings: &[String], logs: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(logs);
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
        command.arg("run").stdout(Stdio::null()).stderr(file);
        for set in settings {
            command.arg("--set").arg(set);
        }
        Self { name: name.into(), child: command.spawn().expect("the binary starts"), log }
    }

    /// SIGKILL: it has no say in it.
    pub fn kill(mut self) {
        self.assert_alive();
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("dead");
    }

    /// SIGTERM: it drains and ends with 0.
    pub fn terminate(mut self) {
        self.assert_alive();
        self.signal(Signal::TERM);
        let mut ended = None;
        until("a worker drains after SIGTERM", || {
            ended = self.child.try_wait().expect("a child of ours");
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "{}: {ended:?} after SIGTERM", self.told());
    }

    /// SIGSTOP: it stands still and knows nothing of it.
    pub fn freeze(&mut self) {
        self.assert_alive();
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Whatever happens around it, a worker ends only when it is told to.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "{} ended by itself: {ended:?}", self.told());
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child of ours takes signals");
    }

    fn told(&self) -> String {
        format!("worker {} ({})", self.name, self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead is fine: the test may be failing.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}
