//! What else follows from the definition of the command line.

use super::{Args, commands::Shell};
use clap::CommandFactory;
use clap_complete::{generate, shells};
use clap_mangen::Man;
use std::io;

/// What makes a shell complete.
pub(in crate::daemon) fn completions(shell: Shell) -> String {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    // In bash, clap_complete (4.6.11) calls one and the same command by two names where the
    // program's has a hyphen, and then completes nothing after it.
    let simple_name = name.replace('-', "_");
    let mut text = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, &*simple_name, &mut text),
        Shell::Zsh => generate(shells::Zsh, &mut command, &*name, &mut text),
        Shell::Fish => generate(shells::Fish, &mut command, &*name, &mut text),
    }
    let text = String::from_utf8_lossy(&text);
    text.replace(
        &format!("default {simple_name}\n"),
        &format!("default {name}\n"),
    )
}

/// The man page, in roff: one page for all commands.
pub(in crate::daemon) fn man_page() -> String {
    let mut page = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write_man_page(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

fn write_man_page(page: &mut Vec<u8>) -> io::Result<()> {
    let command = Args::command();
    let commands: Vec<_> = command.get_subcommands().cloned().collect();
    let whole = Man::new(command);
    whole.render_title(page)?;
    whole.render_name_section(page)?;
    whole.render_synopsis_section(page)?;
    whole.render_description_section(page)?;
    whole.render_options_section(page)?;
    for command in commands {
        let mut section = Vec::new();
        let name = command.get_name().to_owned();
        let part = Man::new(command.disable_help_flag(true));
        part.render_description_section(&mut section)?;
        part.render_options_section(&mut section)?;
        // What is a section of a page of its own is a part of this one's section.
        let section = String::from_utf8_lossy(&section)
            .replace(
                ".SH DESCRIPTION",
                &format!(".SH \"{}\"", name.to_uppercase()),
            )
            .replace(".SH ", ".SS ")
            .replacen(".SS ", ".SH ", 1);
        page.extend(section.into_bytes());
    }
    let mut examples = Vec::new();
    whole.render_extra_section(&mut examples)?;
    let examples =
        String::from_utf8_lossy(&examples).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n");
    page.extend(examples.into_bytes());
    page.extend(b"\n.fi\n");
    whole.render_version_section(page)
}
