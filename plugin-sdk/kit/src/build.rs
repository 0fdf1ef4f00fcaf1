//! Runs what a project's `plugin.toml` names, and leaves a component in the project's folder.
//!
//! What the tool writes to its standard output goes to standard error: that is where progress is shown.

use crate::probe::{self, Answer};
use crate::project::{BadProject, ProjectFile};
use crate::wrap::{self, World, WrapError};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// A build to be run.
#[derive(Debug)]
pub struct Build<'a> {
    folder: &'a Path,
    file: ProjectFile,
    path: Option<OsString>,
}

/// What a build came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The component.
    pub path: PathBuf,
    pub bytes: usize,
    /// The tool left a module, which the kit made a component of.
    pub is_wrapped: bool,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("`{program}` is not there: install {needs}")]
    ToolMissing { program: String, needs: String },
    #[error("`{program}` is there and does not work ({reason}); what is needed is {needs}")]
    ToolBroken { program: String, reason: String, needs: String },
    #[error("cannot start `{program}`")]
    NotStarted { program: String, source: io::Error },
    #[error("`{command}` failed ({status})")]
    Failed { command: String, status: ExitStatus },
    #[error("`{command}` left no {}", .output.display())]
    NoOutput { command: String, output: PathBuf, source: io::Error },
    #[error("{} cannot be made a component", .output.display())]
    Wrap { output: PathBuf, source: WrapError },
    #[error("cannot write {}", .path.display())]
    NotWritten { path: PathBuf, source: io::Error },
}

impl<'a> Build<'a> {
    /// Reads the project of a folder.
    pub fn of(folder: &'a Path) -> Result<Self, BadProject> {
        ProjectFile::read(folder).map(|file| Self { folder, file, path: None })
    }

    /// Looks for the tool in these folders instead of those of `PATH`.
    #[must_use]
    pub fn with_path(mut self, path: OsString) -> Self {
        self.path = Some(path);
        self
    }

    /// Finds the tool: the words it is called with, and what it says of its version.
    pub fn tool(&self) -> Result<(Vec<String>, String), BuildError> {
        let build = &self.file.build;
        let mut broken = None;
        for words in &build.programs {
            let asked = self.command(words).and_then(|mut command| {
                command.args(&build.probe);
                probe::ask(command, probe::WITHIN)
            });
            let reason = match asked {
                Ok(Answer { is_success: true, output, .. }) => {
                    return Ok((words.clone(), first_line(&output)));
                }
                Ok(Answer { errors, .. }) => telling_line(&errors),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => error.to_string(),
            };
            broken.get_or_insert_with(|| (words.join(" "), reason));
        }
        let needs = build.needs.clone();
        if let Some((program, reason)) = broken {
            return Err(BuildError::ToolBroken { program, reason, needs });
        }
        let names: Vec<_> = build.programs.iter().map(|words| words.join(" ")).collect();
        Err(BuildError::ToolMissing { program: names.join("` or `"), needs })
    }

    /// Runs the tool by the words that [`tool`](Self::tool) found, and makes a component of a bare module.
    pub fn run(&self, words: &[String]) -> Result<Built, BuildError> {
        let ProjectFile { build, component } = &self.file;
        let line = self.line(words);
        let output = self.folder.join(&build.output);
        if let Some(parent) = output.parent() {
            let failed = |source| BuildError::NotWritten { path: parent.to_owned(), source };
            fs::create_dir_all(parent).map_err(failed)?;
        }
        // What an earlier build left is not what this one makes.
        match fs::remove_file(&output) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(BuildError::NotWritten { path: output, source });
            }
            _ => {}
        }
        let started = |source| BuildError::NotStarted { program: words.join(" "), source };
        let mut command = self.command(words).map_err(started)?;
        let status = command.args(&build.arguments).stdin(Stdio::null()).stdout(io::stderr()).status();
        let status = status.map_err(started)?;
        if !status.success() {
            return Err(BuildError::Failed { command: line, status });
        }
        let read = fs::read(&output);
        let made = read.map_err(|source| BuildError::NoOutput {
            command: line,
            output: build.output.clone(),
            source,
        })?;
        let is_wrapped = !wrap::is_component(&made);
        let bytes = if is_wrapped {
            let wit = self.folder.join(&component.wit);
            let world = World { wit: &wit, name: &component.world, strings: component.strings };
            wrap::wrap(&made, world)
                .map_err(|source| BuildError::Wrap { output: build.output.clone(), source })?
        } else {
            made
        };
        let path = self.folder.join(format!("{}.wasm", component.name));
        fs::write(&path, &bytes).map_err(|source| BuildError::NotWritten { path: path.clone(), source })?;
        Ok(Built { path, bytes: bytes.len(), is_wrapped })
    }

    /// The command line of the build, for people.
    pub fn line(&self, words: &[String]) -> String {
        [words, &self.file.build.arguments].concat().join(" ")
    }

    fn command(&self, words: &[String]) -> io::Result<Command> {
        let (program, first) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
        // Whether a relative program is looked up here or in its new folder differs between systems.
        let program = if program.contains('/') {
            // Not resolved further: a Python environment knows itself by where its link lies.
            path::absolute(self.folder.join(program))?
        } else {
            PathBuf::from(program)
        };
        let mut command = Command::new(program);
        command.args(first).current_dir(self.folder);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        Ok(command)
    }
}

fn first_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).lines().next().unwrap_or_default().trim().to_owned()
}

/// Of many lines the one that says what is wrong, as far as that can be told.
fn telling_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let is_telling = |line: &&str| line.contains("rror") || line.contains("No module");
    let line = text.lines().find(is_telling).or_else(|| text.lines().next()).unwrap_or("it fails");
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn project(build: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let component = "[component]\nname = \"n\"\nwit = \"wit\"\nworld = \"routing\"\n";
        let needs = "needs = \"it from somewhere\"\noutput = \"out/made.wasm\"";
        fs::write(folder.path().join("plugin.toml"), format!("[build]\n{build}\n{needs}\n{component}"))
            .unwrap();
        folder
    }

    fn run(folder: &TempDir) -> Result<Built, BuildError> {
        let build = Build::of(folder.path()).unwrap();
        let (words, _) = build.tool()?;
        build.run(&words)
    }

    #[test]
    fn the_first_program_that_answers_is_used_and_what_it_made_is_taken() {
        let programs = r#"[["no-such-tool"], ["./tool"], ["false"], ["sh", "-c"], ["true"]]"#;
        let script = r"if [ $# = 0 ]; then echo 'tool 1.2'; else printf '\0asm\r\0\1\0' > out/made.wasm; fi";
        let folder = project(&format!(
            "programs = {programs}\nprobe = [\"echo tool 1.2; echo more\"]\narguments = []"
        ));
        let build = Build::of(folder.path()).unwrap();
        let (words, version) = build.tool().unwrap();
        assert_eq!((words, version.as_str()), (vec!["sh".to_owned(), "-c".to_owned()], "tool 1.2"));
        fs::write(folder.path().join("tool"), format!("#!/bin/sh\n{script}\n")).unwrap();
        let folder_with = project("programs = [[\"sh\", \"tool\"]]\nprobe = []\narguments = [\"now\"]");
        fs::copy(folder.path().join("tool"), folder_with.path().join("tool")).unwrap();
        let built = run(&folder_with).unwrap();
        assert_eq!(built, Built { path: folder_with.path().join("n.wasm"), bytes: 8, is_wrapped: false });
        assert_eq!(fs::read(&built.path).unwrap(), *b"\0asm\r\0\x01\0");
    }

    #[test]
    fn failures_say_what_to_do() {
        let check = |build: &str, expected: &str| {
            let error = anyhow::Error::from(run(&project(build)).unwrap_err());
            let text = format!("{error:#}");
            assert!(text.contains(expected), "{build}: {text}");
            let repeats = error.chain().skip(1).any(|cause| error.to_string().contains(&cause.to_string()));
            assert!(!repeats, "a cause is told once: {text}");
        };
        let missing =
            "programs = [[\"no-such-tool\"], [\"node_modules/.bin/none\"]]\nprobe = []\narguments = []";
        check(missing, "`no-such-tool` or `node_modules/.bin/none` is not there: install it from somewhere");
        let broken = "programs = [[\"no-such-tool\"], [\"sh\", \"-c\", \"echo x; echo error: y >&2; false\"]]\nprobe = []\narguments = []";
        check(broken, "is there and does not work (error: y); what is needed is it from somewhere");
        let sh = "programs = [[\"sh\"]]\nprobe = [\"-c\", \"true\"]\n";
        check(&format!("{sh}arguments = [\"-c\", \"exit 3\"]"), "`sh -c exit 3` failed (exit status: 3)");
        check(&format!("{sh}arguments = [\"-c\", \"true\"]"), "`sh -c true` left no out/made.wasm");
        let not_a_program = "programs = [[\"./plugin.toml\"]]\nprobe = []\narguments = []";
        check(not_a_program, "`./plugin.toml` is there and does not work (Permission denied");
        let text = format!("{sh}arguments = [\"-c\", \"echo text > out/made.wasm\"]");
        check(&text, "out/made.wasm cannot be made a component: it is not WebAssembly");
    }

    #[test]
    fn what_an_earlier_build_left_is_not_what_this_one_makes() {
        let folder =
            project("programs = [[\"sh\"]]\nprobe = [\"-c\", \"true\"]\narguments = [\"-c\", \"true\"]");
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("out/made.wasm"), b"\0asm\r\0\x01\0").unwrap();
        assert!(matches!(run(&folder), Err(BuildError::NoOutput { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_program_of_the_project_is_called_by_the_name_of_its_link() {
        let folder = project("programs = [[\"venv/sh\"]]\nprobe = [\"-c\", \"echo $0\"]\narguments = []");
        fs::create_dir(folder.path().join("venv")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("venv/sh")).unwrap();
        let (_, said) = Build::of(folder.path()).unwrap().tool().unwrap();
        assert!(said.ends_with("/venv/sh"), "{said}");
    }
}
