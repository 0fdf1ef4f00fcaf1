//! Asks a program whether it is there, within a time and with a bound on what of its answer is kept.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// How long a program may take to say that it is there; one that takes longer is ended, and is taken as one that does not work.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);

/// Bytes that are kept of what it says; the rest is passed over.
const ANSWER_BYTES_MAX: u64 = 4_096;

/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a program said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) is_success: bool,
    pub(crate) output: Vec<u8>,
    pub(crate) errors: Vec<u8>,
}

/// Runs a program to its end.
pub(crate) fn ask(mut command: Command, within: Duration) -> io::Result<Answer> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (output, errors) = (head(child.stdout.take()), head(child.stderr.take()));
    let Some(status) = ended(&mut child, within)? else {
        // It may have ended by itself meanwhile.
        drop(child.kill());
        child.wait()?;
        return Err(late(within));
    };
    // What it started may live longer and hold its pipes.
    let read = |head: Receiver<Vec<u8>>| head.recv_timeout(within).map_err(|_| late(within));
    Ok(Answer { is_success: status.success(), output: read(output)?, errors: read(errors)? })
}

/// Nothing when it takes longer.
fn ended(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let mut waited = Duration::ZERO;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || waited >= within {
            return Ok(status);
        }
        thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
}

fn late(within: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it does not answer within {} s", within.as_secs()))
}

/// The beginning of what comes out of a pipe, as soon as all has come.
fn head(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut head = Vec::new();
        if let Some(mut pipe) = pipe {
            // What cannot be read is as good as not said, and whoever asked may not wait any more.
            let read = pipe.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut head);
            drop(read.and_then(|_| io::copy(&mut pipe, &mut io::sink())));
        }
        drop(sender.send(head));
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, within: Duration) -> io::Result<Answer> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ask(command, within)
    }

    #[test]
    fn both_outputs_and_the_end_are_told() {
        let answer = sh("echo out; echo error >&2; exit 3", WITHIN).unwrap();
        assert!(!answer.is_success);
        assert_eq!((answer.output.as_slice(), answer.errors.as_slice()), (&b"out\n"[..], &b"error\n"[..]));
    }

    #[test]
    fn of_a_long_answer_the_beginning_is_kept() {
        let answer = sh("head -c 1000000 /dev/zero", WITHIN).unwrap();
        assert!(answer.is_success, "it could say all of it");
        assert_eq!(answer.output, [0; 4_096]);
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let error = sh("exec sleep 600", Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
