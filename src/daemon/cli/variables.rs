//! The environment variables of the options.
//!
//! One rule holds for all of them: a variable counts if its option applies to the task and the
//! command line does not give that option. The others may hold anything: they may be set for another
//! replica on this machine.

use clap::{Arg, ArgMatches, Args, Command, builder::Resettable, parser::ValueSource};
use std::{ffi::OsString, iter};

/// Sets the options that the command line does not give from their variables.
///
/// # Errors
/// If the value of a variable that counts is invalid.
pub(super) fn read_variables<A: Args>(
    options: &mut A,
    command_line: &ArgMatches,
) -> Result<(), clap::Error> {
    let definition = A::augment_args(Command::new("leader-election")).mut_args(|arg| {
        let arg = arg.default_value(Resettable::Reset);
        if is_given(command_line, arg.get_id().as_str()) {
            arg.env(None)
        } else {
            arg
        }
    });
    let definition = definition.override_usage(super::USAGE).no_binary_name(true);
    let variables = definition.try_get_matches_from(iter::empty::<OsString>())?;
    options.update_from_arg_matches(&variables)
}

/// Returns whether the command line gives the option with this ID.
pub(super) fn is_given(command_line: &ArgMatches, id: &str) -> bool {
    command_line.value_source(id) == Some(ValueSource::CommandLine)
}

/// Makes clap leave the variables to [`read_variables`].
pub(super) fn without_variables(definition: Command) -> Command {
    map_options(definition, |option| option.env(None))
}

/// Keeps the values of variables out of the help texts: some are secret.
pub(super) fn hide_values_of_variables(definition: Command) -> Command {
    map_options(definition, |option| option.hide_env_values(true))
}

fn map_options(definition: Command, map: impl Fn(Arg) -> Arg + Copy) -> Command {
    let definition = definition.mut_args(map);
    definition.mut_subcommands(|subcommand| subcommand.mut_args(map))
}
