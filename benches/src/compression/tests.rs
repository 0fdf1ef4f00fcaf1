//! What the subjects are, and what is made of the broker's metrics.

use clap::Parser;

use super::*;
use crate::process::Cpu;
use crate::sample::{Faults, Mark};

fn run(published: u64, seconds: f64) -> sample::Sample {
    let cpu = Cpu::of(std::process::id()).unwrap();
    let mark = |ns| Mark { ns, server: cpu, generator: cpu, delivered: 0, published: 0, received_bytes: 0 };
    let mut sample = sample::Sample::between(&mark(0), &mark(1), Faults::default());
    (sample.published_in_all, sample.seconds_in_all) = (published, seconds);
    sample
}

#[test]
fn compressing_is_what_was_added_per_message_and_worker() {
    let metrics = |count: u64, seconds: f64| {
        format!(
            "waspmq_compressed_messages_total{{codec=\"lz4\"}} {count}\n\
             waspmq_compressed_messages_total{{codec=\"zstd\"}} 10\n\
             waspmq_compression_seconds_total{{codec=\"zstd\"}} {seconds}\n"
        )
    };
    let compressing = Compressing::between(&metrics(50, 1.0), &metrics(250, 1.5), &run(100, 2.5), 2);
    assert!((compressing.times_per_message - 2.0).abs() < 1e-9, "{compressing:?}");
    assert!((compressing.us_per_message - 5_000.0).abs() < 1e-6, "{compressing:?}");
    assert!((compressing.share - 0.1).abs() < 1e-9, "{compressing:?}");
    assert!((compressing.share_of_budget - 0.5 / 0.54).abs() < 1e-9, "{compressing:?}");
    assert!(Compressing::between("", "", &run(0, 0.0), 1).us_per_message.abs() < 1e-9);
}

#[test]
fn each_subject_is_compared_with_the_same_without_compression() {
    for subject in Subjects::ALL {
        let plain = subject.plain();
        assert_eq!((plain.wire(), plain.readers()), (subject.wire(), [Reads::PLAIN].as_slice()));
        assert_eq!(subject == plain, subject.readers() == [Reads::PLAIN], "{subject:?}");
        // Codecs are of the binary profile, permessage-deflate is offered in the other.
        let is_json = subject.wire() == Wire::Json;
        assert!(subject.readers().iter().all(|reads| if is_json {
            reads.codecs.is_empty()
        } else {
            !reads.deflate
        }));
    }
    assert!(Subjects::CHARTED.iter().all(|subject| Subjects::ALL.contains(subject)));
}

#[test]
fn the_names_on_the_command_line_are_those_of_the_report() {
    for subject in Subjects::ALL {
        assert_eq!(subject.to_possible_value().unwrap().get_name(), subject.name());
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

#[test]
fn figures_out_of_range_are_refused_by_name() {
    let refusal = |arguments: &[&str]| {
        let line = Line::parse_from([&["bench"], arguments].concat());
        check(&line.arguments).err().map(|error| error.to_string())
    };
    assert_eq!(refusal(&[]), None);
    for (name, value) in [("--subs", "0"), ("--window", "0"), ("--seconds", "0.01"), ("--warm-up", "601")] {
        assert!(refusal(&[name, value]).unwrap().contains(name));
    }
}
