//! The documents name what exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the text of all Rust files below a folder.
fn rust_files(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &rust_files(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns all documents: those of the project's folder and of `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in [project(""), project("docs")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    for known in [
        "README.md",
        "docs/bugs-found.md",
        "docs/protocol.md",
        "docs/reference.md",
        "docs/troubleshooting.md",
    ] {
        assert!(documents.contains(&project(known)), "{known} is missing");
    }
    documents
}

#[test]
fn each_test_that_the_documents_name_exists() {
    let code = rust_files(&project("tests")) + &rust_files(&project("src"));
    let mut missing = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        // In backquotes, and too long for anything but a sentence or a metric; `…` stands for the rest of it.
        let names = text.split('`').skip(1).step_by(2).filter(|name| {
            let is_word = |character: char| {
                character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
            };
            let is_metric = name.starts_with("leader_election_") || name.ends_with("_total");
            let is_long = name.len() > 24 && !is_metric;
            is_long && name.contains('_') && name.trim_end_matches('…').chars().all(is_word)
        });
        for name in names {
            let function = match name.strip_suffix('…') {
                Some(start) => format!("fn {start}"),
                None => format!("fn {name}("),
            };
            if !code.contains(&function) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn each_rule_of_the_protocol_is_marked_where_it_is_decided() {
    let code = rust_files(&project("src"));
    let document = fs::read_to_string(project("docs/protocol.md")).unwrap();
    let (_, rules) = document.split_once("**A candidate**").unwrap();
    let (rules, _) = rules.split_once("## Time").unwrap();
    let numbers: Vec<u32> = rules
        .lines()
        .filter_map(|line| line.split_once(". ")?.0.parse().ok())
        .collect();
    assert!(numbers.len() >= 17, "{numbers:?}");
    for number in numbers {
        let marks = [
            format!("Rule {number}:"),
            format!("Rule {number},"),
            format!("Rules {number} and"),
            format!("and {number}:"),
        ];
        let is_marked = marks.iter().any(|mark| code.contains(mark));
        assert!(is_marked, "no function is marked with rule {number}");
    }
}

/// Returns the first block of code in this text that begins with the line `fence`.
fn block<'a>(text: &'a str, fence: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{fence}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_readme_shows_the_program_that_is_compiled_as_a_doctest() {
    let library = fs::read_to_string(project("src/lib.rs")).unwrap();
    let documentation: Vec<_> = library
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let documentation = documentation.join("\n");
    for document in ["README.md", "docs/library.md"] {
        let text = fs::read_to_string(project(document)).unwrap();
        assert_eq!(
            block(&text, "```rust"),
            block(&documentation, "```no_run"),
            "{document}"
        );
    }
}

#[test]
fn the_image_is_labelled_with_the_name_and_the_version_of_the_package() {
    let text = fs::read_to_string(project("Dockerfile")).unwrap();
    // A label of an earlier stage does not reach the image.
    let (_, last_stage) = text.rsplit_once("\nFROM ").unwrap();
    for (label, value) in [
        ("title", env!("CARGO_PKG_NAME")),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        let label = format!("org.opencontainers.image.{label}=\"{value}\"");
        assert!(last_stage.contains(&label), "no {label} in {last_stage}");
    }
}
