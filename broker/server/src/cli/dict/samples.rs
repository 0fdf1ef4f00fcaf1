//! Messages to learn from: out of a capture, out of files, or from standard input.
//!
//! What is read is bounded, whatever the files hold; what is left out is counted by why.

use super::super::failure::Failure;
use super::super::replay::Lines;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use waspmq_core::Pattern;
use waspmq_policy::CapturedMessages;

/// Samples that are taken, and their bytes: training takes about ten seconds for as many. More: not read.
const SAMPLES_MAX: usize = 200_000;
const SAMPLES_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Bytes of a sample; a larger message has enough in it to be compressed by itself. More: left out. Also of a line.
const SAMPLE_BYTES_MAX: usize = 64 * 1024;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Samples {
    pub(super) taken: Vec<Vec<u8>>,
    bytes: usize,
    empty: u64,
    too_large: u64,
    /// To other addresses than those asked for.
    elsewhere: u64,
    is_full: bool,
}

impl Samples {
    /// Of a capture, the messages to addresses of these patterns; to all where there are none.
    pub(super) fn of_capture(&mut self, path: &Path, patterns: &[Pattern]) -> Result<(), Failure> {
        let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(|error| unusable(&error))?;
        let mut lines = Lines::new(BufReader::new(file));
        let header = lines.next().map_err(|error| unusable(&error))?.unwrap_or_default();
        let mut messages = CapturedMessages::new(header).map_err(|error| unusable(&error))?;
        if !messages.has_payloads() {
            let lacking = "the capture has no payloads; take it down with `waspmq policy capture --payload`";
            return Err(unusable(&lacking));
        }
        while let Some(line) = lines.next().map_err(|error| unusable(&error))?
            && !self.is_full
        {
            let Some(message) = messages.line(line).map_err(|error| unusable(&error))? else { continue };
            if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.matches(&message.address)) {
                self.elsewhere += 1;
                continue;
            }
            match message.payload {
                Some(payload) => self.take(payload),
                None => self.too_large += 1,
            }
        }
        Ok(())
    }

    /// Of a file: one sample, or one in each line. Of a directory, the files in it, by their names. `-` is standard
    /// input, always by lines.
    pub(super) fn of_path(&mut self, path: &Path, by_lines: bool) -> Result<(), Failure> {
        let unusable = |error: io::Error| Failure::Usage(format!("{}: {error}", path.display()));
        if path == Path::new("-") {
            return self.of_lines(io::stdin().lock()).map_err(unusable);
        }
        if !path.is_dir() {
            return self.of_file(path, by_lines).map_err(unusable);
        }
        let entries = std::fs::read_dir(path).map_err(unusable)?;
        let mut files = Vec::new();
        for entry in entries.take(SAMPLES_MAX) {
            files.push(entry.map_err(unusable)?.path());
        }
        files.sort_unstable();
        for file in files.iter().filter(|file| file.is_file()) {
            let named = |error: io::Error| Failure::Usage(format!("{}: {error}", file.display()));
            self.of_file(file, by_lines).map_err(named)?;
        }
        Ok(())
    }

    /// Of several files and directories.
    pub(super) fn of_paths(&mut self, paths: &[PathBuf], by_lines: bool) -> Result<(), Failure> {
        paths.iter().try_for_each(|path| self.of_path(path, by_lines))
    }

    fn of_file(&mut self, path: &Path, by_lines: bool) -> io::Result<()> {
        let file = File::open(path)?;
        if by_lines {
            return self.of_lines(BufReader::new(file));
        }
        let mut sample = Vec::new();
        file.take(SAMPLE_BYTES_MAX as u64 + 1).read_to_end(&mut sample)?;
        self.take(sample);
        Ok(())
    }

    fn of_lines(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        while !self.is_full {
            line.clear();
            // A line that is too long ends where that is known, and what is behind it is passed over.
            if reader.by_ref().take(SAMPLE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let is_whole = line.pop_if(|last| *last == b'\n').is_some();
            if line.len() > SAMPLE_BYTES_MAX && !is_whole {
                reader.skip_until(b'\n')?;
            }
            line.pop_if(|last| *last == b'\r');
            self.take(std::mem::take(&mut line));
        }
        Ok(())
    }

    fn take(&mut self, sample: Vec<u8>) {
        match sample.len() {
            0 => self.empty += 1,
            bytes if bytes > SAMPLE_BYTES_MAX => self.too_large += 1,
            bytes if self.taken.len() >= SAMPLES_MAX || self.bytes + bytes > SAMPLES_BYTES_MAX => {
                self.is_full = true;
            }
            bytes => {
                self.bytes += bytes;
                self.taken.push(sample);
            }
        }
    }

    /// What was left out, as a document.
    pub(super) fn left_out(&self) -> Value {
        json!({ "empty": self.empty, "too_large": self.too_large, "elsewhere": self.elsewhere, "rest": self.is_full })
    }

    /// The same in words; none where nothing was.
    pub(super) fn left_out_notes(&self) -> Vec<String> {
        let counts = [
            (self.empty, "had no bytes".to_owned()),
            (self.too_large, format!("had more than {} KiB", SAMPLE_BYTES_MAX / 1024)),
            (self.elsewhere, "were to other addresses".to_owned()),
        ];
        let told = counts.into_iter().filter(|(count, _)| *count > 0);
        let told = told.map(|(count, why)| format!("{count} messages are left out: they {why}"));
        let rest =
            format!("what is behind the first {} messages is not read: that is enough", self.taken.len());
        told.chain(self.is_full.then_some(rest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(samples: &Samples) -> Vec<&str> {
        samples.taken.iter().map(|sample| std::str::from_utf8(sample).unwrap()).collect()
    }

    #[test]
    fn lines_are_samples() {
        let mut samples = Samples::default();
        let fits = "x".repeat(SAMPLE_BYTES_MAX);
        let text = format!("one\r\n\n{fits}\n{fits}x\n{fits}{fits}{fits}\ntwo");
        samples.of_lines(text.as_bytes()).unwrap();
        assert_eq!(texts(&samples), ["one", &fits, "two"]);
        assert_eq!((samples.empty, samples.too_large), (1, 2));
        let notes = samples.left_out_notes();
        assert_eq!(
            notes,
            [
                "1 messages are left out: they had no bytes",
                "2 messages are left out: they had more than 64 KiB"
            ]
        );
    }

    #[test]
    fn reading_ends_where_there_is_enough() {
        let mut samples = Samples::default();
        samples.of_lines("a\n".repeat(SAMPLES_MAX + 5).as_bytes()).unwrap();
        assert_eq!((samples.taken.len(), samples.is_full), (SAMPLES_MAX, true));
        let mut samples = Samples::default();
        let line = "y".repeat(SAMPLE_BYTES_MAX);
        for _ in 0..=SAMPLES_BYTES_MAX / SAMPLE_BYTES_MAX {
            samples.take(line.clone().into_bytes());
        }
        assert_eq!((samples.bytes, samples.is_full), (SAMPLES_BYTES_MAX, true));
        assert_eq!(
            samples.left_out_notes(),
            ["what is behind the first 1600 messages is not read: that is enough"]
        );
    }

    #[test]
    fn files_are_samples_in_the_order_of_their_names() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("b", "second"), ("a", "first"), ("c", "")] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        std::fs::create_dir(directory.path().join("inner")).unwrap();
        let mut samples = Samples::default();
        samples.of_paths(&[directory.path().to_owned(), directory.path().join("b")], false).unwrap();
        assert_eq!((texts(&samples), samples.empty), (vec!["first", "second", "second"], 1));
        let missing = samples.of_path(&directory.path().join("d"), false).unwrap_err();
        assert!(matches!(missing, Failure::Usage(text) if text.contains("d: No such file")));
    }

    #[test]
    fn a_capture_gives_the_payloads_of_the_addresses_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.jsonl");
        let header = |payload: bool| {
            json!({"capture": 1, "version": "0", "started": 1, "ended": 2, "ended_by": "seconds", "match": ["topic/>"],
                "payload": payload, "headers": false, "recorded": 2, "left_out": {}})
        };
        let configured = json!({"level": "accepted", "quorum": "any", "timeout_ms": 1, "attempts": 1, "initial_ms": 1, "max_ms": 1,
            "jitter_percent": 0, "dead_letter": true, "may_store": true});
        let message = |address: &str, payload: &str| json!({"message": {"ts": 1, "sender": "a", "address": address, "size": payload.len(), "configured": configured, "payload": payload}});
        let cut = json!({"message": {"ts": 1, "sender": "a", "address": "topic/a", "size": 70_000, "configured": configured, "payload_cut": true}});
        let members =
            json!({"members": {"ts": 9, "pattern": "topic/>", "queue": "w", "version": 4, "members": []}});
        let lines = [header(true), message("topic/a", "one"), members, message("topic/b", "two"), cut];
        let text = lines.map(|line| line.to_string()).join("\n");
        std::fs::write(&path, &text).unwrap();
        let mut samples = Samples::default();
        samples.of_capture(&path, &[Pattern::parse("topic/a").unwrap()]).unwrap();
        assert_eq!((texts(&samples), samples.elsewhere, samples.too_large), (vec!["one"], 1, 1));
        let mut all = Samples::default();
        all.of_capture(&path, &[]).unwrap();
        assert_eq!(texts(&all), ["one", "two"]);

        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            match Samples::default().of_capture(&path, &[]).unwrap_err() {
                Failure::Usage(text) => text,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused(&header(false).to_string()).contains("waspmq policy capture --payload"));
        assert!(refused("{\"order\":1}").contains("line 1: this is not the first line of a capture"));
        assert!(refused(&format!("{}\nx", header(true))).contains("line 2: "));
    }
}
