//! Parts that run as processes of their own, as the nodes of a cluster do: started, spoken to over their standard input and output, and
//! ended with this process.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The kernel counts processor time in ticks of this many a second, whatever its own clock is.
const TICKS: f64 = 100.0;

/// A part that runs; it is killed when this is dropped. It ends by itself when its standard input does.
pub(crate) struct Part {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Open for as long as the part is to run.
    input: ChildStdin,
}

impl Part {
    pub(crate) fn start<S: AsRef<OsStr>>(arguments: &[S]) -> io::Result<Part> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("part").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let missing = || io::Error::other("a part was started without its pipes");
        let output = BufReader::new(output.ok_or_else(missing)?);
        Ok(Part { child, output, input: input.ok_or_else(missing)? })
    }

    /// Lets a part go on that waits for a line.
    pub(crate) fn go(&mut self) -> io::Result<()> {
        self.input.write_all(b"\n")
    }

    /// The numbers of the next line that it prints.
    pub(crate) fn numbers<T: std::str::FromStr>(&mut self) -> io::Result<Vec<T>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let numbers: Result<Vec<T>, _> = line.split_whitespace().map(str::parse).collect();
        let numbers = numbers.ok().filter(|numbers| !numbers.is_empty());
        numbers.ok_or_else(|| io::Error::other(format!("a part said {line:?} where numbers belong")))
    }

    /// Processor time that it has used, in seconds.
    pub(crate) fn processor_seconds(&self) -> io::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything, also blanks and brackets.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok());
        let both = ticks(11).zip(ticks(12)).ok_or_else(|| io::Error::other("the process's stat file has no times"))?;
        Ok((both.0 + both.1) / TICKS)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a part: ends the process when the one that started it is gone.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        // Nothing is ever sent.
        let _ = io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
}
