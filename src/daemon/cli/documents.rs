//! Shell completions and the man page, generated from the definition of the command line.

use super::{commands::Shell, variables::map_options, whole_definition};
use clap_complete::{generate, shells};
use clap_mangen::Man;
use std::io;

/// Returns the script that makes a shell complete options and commands.
pub(in crate::daemon) fn completions(shell: Shell) -> String {
    let mut command = whole_definition();
    let name = command.get_name().to_owned();
    // For bash, clap_complete (4.6.11) gives a command two names if the program's name contains a
    // hyphen, and then completes nothing after it.
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

/// Returns the man page, in roff: one page for all commands.
pub(in crate::daemon) fn man_page() -> String {
    let mut page = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write_man_page(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

fn write_man_page(page: &mut Vec<u8>) -> io::Result<()> {
    // For an option that `-h` does not show, clap_mangen (0.3.3) writes no text.
    let command = map_options(whole_definition(), |option| option.hide_short_help(false));
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
        // The sections of a page of its own become parts of one section of this page.
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
