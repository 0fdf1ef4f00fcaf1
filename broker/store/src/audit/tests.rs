//! Lines, rotation, and what crashes and full disks leave.

use super::{AuditLog, FileError};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("audit.log");
    (parent, path)
}

fn seqs(log: &AuditLog, after: Option<u64>, limit: usize) -> Vec<u64> {
    let lines = log.lines(after, limit).unwrap();
    lines.iter().map(|line| line["{\"seq\":".len()..].split(',').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn lines_are_numbered_and_paged() {
    let (_parent, path) = fresh();
    let log = AuditLog::open(&path).unwrap();
    assert!(seqs(&log, None, 10).is_empty());
    for n in 1..=5 {
        assert_eq!(log.append(&format!("{{\"n\":{n}}}")).unwrap(), n);
    }
    assert_eq!(log.lines(None, 1).unwrap(), [r#"{"seq":5,"n":5}"#]);
    assert_eq!((seqs(&log, None, 3), seqs(&log, None, 9)), (vec![3, 4, 5], vec![1, 2, 3, 4, 5]));
    assert_eq!((seqs(&log, Some(1), 2), seqs(&log, Some(4), 9)), (vec![2, 3], vec![5]));
    assert!(seqs(&log, Some(5), 9).is_empty() && seqs(&log, None, 0).is_empty());
    drop(log);
    let log = AuditLog::open(&path).unwrap();
    assert_eq!(log.append("{}").unwrap(), 6);
    assert_eq!(log.lines(Some(5), 9).unwrap(), [r#"{"seq":6}"#]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn full_files_are_kept_for_a_while() {
    let (_parent, path) = fresh();
    let log = AuditLog::open_with(path.clone(), 100).unwrap();
    let fields = format!("{{\"x\":\"{}\"}}", "y".repeat(20));
    for n in 1..=30 {
        assert_eq!(log.append(&fields).unwrap(), n);
    }
    let kept = seqs(&log, None, 100);
    assert_eq!(kept, (25..=30).collect::<Vec<_>>(), "two a file, three files");
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(500));
    assert_eq!(log.append(&long).unwrap(), 31, "a line that is longer than a file has one for itself");
    assert_eq!(log.append(&fields).unwrap(), 32);
    assert_eq!(seqs(&log, None, 100), [29, 30, 31, 32]);
    assert_eq!(seqs(&log, Some(30), 1), [31], "across files");
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    drop(log);
    fs::remove_file(&path).unwrap();
    assert_eq!(AuditLog::open_with(path, 100).unwrap().append(&fields).unwrap(), 32, "numbers go on");
}

#[test]
fn a_torn_line_is_cut_off_wherever_it_ends() {
    let whole = "{\"seq\":1,\"n\":1}\n{\"seq\":2,\"n\":2}\n";
    let third = format!("{{\"seq\":3,\"n\":\"{}\"}}\n", "x".repeat(9_000));
    for torn in [0, 1, 7, 9, 5_000, third.len() - 1] {
        let (_parent, path) = fresh();
        fs::write(&path, format!("{whole}{}", &third[..torn])).unwrap();
        let log = AuditLog::open(&path).unwrap();
        assert_eq!(seqs(&log, None, 9), [1, 2], "{torn}");
        assert_eq!(log.append("{\"n\":3}").unwrap(), 3);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{whole}{{\"seq\":3,\"n\":3}}\n"));
    }
    let (_parent, path) = fresh();
    fs::write(&path, &third[..4_500]).unwrap();
    assert_eq!(AuditLog::open(&path).unwrap().append("{}").unwrap(), 1);
}

#[test]
fn what_is_no_line_is_passed_over() {
    let (_parent, path) = fresh();
    let mut bytes = b"{\"seq\":1}\nnonsense\n{\"seq\":}\n{\"seq\":9\n\n\xff\xfe\n".to_vec();
    bytes.extend_from_slice(&vec![b'z'; 3 << 20]);
    bytes.extend_from_slice(b"\n{\"seq\":2}\n");
    fs::write(&path, bytes).unwrap();
    let log = AuditLog::open(&path).unwrap();
    assert_eq!(seqs_plain(&log), [r#"{"seq":1}"#, r#"{"seq":2}"#]);
    assert_eq!(log.append("{}").unwrap(), 3);
}

fn seqs_plain(log: &AuditLog) -> Vec<String> {
    log.lines(None, 9).unwrap().into()
}

#[test]
fn the_line_of_a_change_that_fails_is_taken_back() {
    let (_parent, path) = fresh();
    let log = AuditLog::open(&path).unwrap();
    log.append("{\"n\":1}").unwrap();
    let failed = log.append_if("{\"n\":2}", || {
        assert!(fs::read_to_string(&path).unwrap().contains("\"n\":2"), "the line is first");
        Err(FileError::Missing { path: path.clone() })
    });
    assert!(failed.is_err());
    assert_eq!(seqs_plain(&log), [r#"{"seq":1,"n":1}"#]);
    assert_eq!(log.append_if::<FileError>("{\"n\":3}", || Ok(())).unwrap(), 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"seq\":1,\"n\":1}\n{\"seq\":2,\"n\":3}\n");
}

#[test]
fn a_full_disk_refuses_the_change_and_leaves_no_part_of_its_line() {
    let (_parent, path) = fresh();
    let log = AuditLog::open(&path).unwrap();
    log.append("{\"n\":1}").unwrap();
    // Everything that is written to it fails, and cannot be cut.
    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let real = log.state().writing.break_file(full);
    let mut is_made = false;
    let refused = log.append_if("{\"n\":2}", || {
        is_made = true;
        Ok::<_, FileError>(())
    });
    assert!(refused.unwrap_err().is_full() && !is_made, "no change without its line");
    log.append("{\"n\":2}").unwrap_err();
    assert_eq!(log.failures(), 2);
    // As if half of the line had found space before.
    log.state().writing.break_file(real);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":2,\"n").unwrap();
    assert_eq!(log.append("{\"n\":3}").unwrap(), 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"seq\":1,\"n\":1}\n{\"seq\":2,\"n\":3}\n");
}
