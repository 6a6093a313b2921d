//! Builds the simulator with patched copies of `src/protocol`.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

/// One place where a variant differs.
pub struct Edit {
    /// The file, below `src`.
    file: &'static str,
    /// The function whose text is searched; the whole file if it is empty.
    function: &'static str,
    /// Stands there exactly once, however it is indented and broken into lines.
    instead_of: &'static str,
    put: &'static str,
}

/// Replaces one place in a function.
pub const fn edit(
    file: &'static str,
    function: &'static str,
    instead_of: &'static str,
    put: &'static str,
) -> Edit {
    Edit {
        file,
        function,
        instead_of,
        put,
    }
}

impl Edit {
    fn apply(&self, text: &str) -> String {
        let scope = function(text, self.function)
            .unwrap_or_else(|| panic!("there is no function {} in {}", self.function, self.file));
        let place = find_once(&text[scope.clone()], self.instead_of).unwrap_or_else(|count| {
            panic!(
                "in {}, function {}, there are {count} times: {}",
                self.file, self.function, self.instead_of
            )
        });
        let (begin, end) = (scope.start + place.start, scope.start + place.end);
        [&text[..begin], self.put, &text[end..]].concat()
    }
}

/// Returns where a function stands, from its name to its closing brace.
fn function(text: &str, name: &str) -> Option<Range<usize>> {
    if name.is_empty() {
        return Some(0..text.len());
    }
    let begin = text.find(&format!("fn {name}("))?;
    let body = begin + text[begin..].find("{\n")?;
    let mut depth = 0;
    for (place, character) in text[body..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(begin..body + place + 1);
        }
    }
    None
}

/// Returns the only place of a text, whose white space does not matter.
///
/// # Errors
/// How many places there are, if not one.
fn find_once(text: &str, wanted: &str) -> Result<Range<usize>, usize> {
    let visible = |text: &str| -> Vec<(usize, char)> {
        let characters = text.char_indices();
        characters
            .filter(|(_, character)| !character.is_whitespace())
            .collect()
    };
    let (text, wanted) = (visible(text), visible(wanted));
    let is_wanted = |window: &&[(usize, char)]| {
        let pairs = window.iter().zip(&wanted);
        pairs
            .into_iter()
            .all(|((_, found), (_, wanted))| found == wanted)
    };
    let places: Vec<_> = text.windows(wanted.len()).filter(is_wanted).collect();
    match places[..] {
        [[(begin, _), .., (end, last)]] => Ok(*begin..end + last.len_utf8()),
        _ => Err(places.len()),
    }
}

/// A program to build: the code as it is, or a wrong variant.
pub struct Program {
    pub edits: &'static [Edit],
    /// Whether it has so many schedules to run that optimizing it takes less time than running it without.
    pub runs_long: bool,
}

/// Builds programs, and returns their paths in this order.
///
/// One package is edited and built again for each program, because a program differs from the one before in a few
/// functions: an incremental build takes a third of the time.
pub fn build(programs: &[Program]) -> Vec<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("variants");
    create_packages(project, &folder);
    let numbered = programs.iter().enumerate();
    numbered
        .map(|(number, Program { edits, runs_long })| {
            let package = if *runs_long { LONG } else { SHORT };
            copy(&project.join("src"), &folder.join(package), edits);
            build_package(&folder, package);
            let program = folder.join(format!("program-{number}"));
            fs::copy(folder.join("target/release").join(package), &program).unwrap();
            program
        })
        .collect()
}

/// The package for programs that have few schedules to run.
const SHORT: &str = "short";
/// The package for those that have many.
const LONG: &str = "long";

/// Creates both packages, without the protocol.
fn create_packages(project: &Path, folder: &Path) {
    for package in [SHORT, LONG] {
        let manifest = format!(
            "[package]\nname = \"{package}\"\nedition = \"2024\"\n[[bin]]\nname = \"{package}\"\npath = \"main.rs\"\n\
             [dependencies]\nfastrand = \"*\"\nthiserror = \"*\"\n"
        );
        write(&folder.join(package).join("Cargo.toml"), &manifest);
        let simulation = project.join("tests/simulation");
        let main = format!(
            "mod protocol;\n#[path = \"{0}/command.rs\"]\nmod command;\n\
             #[path = \"{0}/mod.rs\"]\nmod simulation;\n\
             fn main() -> std::process::ExitCode {{\n    command::main()\n}}\n",
            simulation.display()
        );
        write(&folder.join(package).join("main.rs"), &main);
    }
    write(
        &folder.join("Cargo.toml"),
        &format!(
            "[workspace]\nmembers = [\"{SHORT}\", \"{LONG}\"]\nresolver = \"3\"\n\
             [profile.release]\nopt-level = 0\nincremental = true\n\
             [profile.release.package.{LONG}]\nopt-level = 1\n"
        ),
    );
    // The versions are the project's; cargo leaves out what is not needed here.
    if !folder.join("Cargo.lock").exists() {
        fs::copy(project.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    }
}

fn build_package(folder: &Path, package: &str) {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--offline", "--quiet"])
        .args(["--target-dir", "target", "--package", package])
        .env("RUSTFLAGS", "--cap-lints=allow")
        .current_dir(folder)
        .status()
        .unwrap();
    assert!(status.success(), "a variant does not build");
}

/// Copies the protocol's files, with a variant's edits.
fn copy(from: &Path, to: &Path, edits: &[Edit]) {
    let parts = fs::read_dir(from.join("protocol")).unwrap();
    let parts = parts.map(|part| Path::new("protocol").join(part.unwrap().file_name()));
    for file in parts.chain([PathBuf::from("protocol.rs")]) {
        if from.join(&file).is_dir() {
            continue;
        }
        let mut text = fs::read_to_string(from.join(&file)).unwrap();
        for edit in edits.iter().filter(|edit| Path::new(edit.file) == file) {
            text = edit.apply(&text);
        }
        write(&to.join(file), &text);
    }
}

/// Leaves a file alone that is right already, so that it is not compiled again.
fn write(file: &Path, text: &str) {
    if fs::read_to_string(file).is_ok_and(|there| there == text) {
        return;
    }
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}
