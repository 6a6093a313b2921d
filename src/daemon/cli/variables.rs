//! The environment variables.
//!
//! Two rules apply to all of them:
//!
//! - An empty variable counts as unset, because docker-compose's `${VAR:-}` and systemd's
//!   `EnvironmentFile=` can set variables to an empty value.
//! - The variable of an option counts if the option applies to the task and is not on the command
//!   line. All other variables may hold anything, because they may be set for another replica on
//!   this machine.

use clap::{
    Arg, ArgMatches, Args, Command,
    builder::Resettable,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    iter,
};

/// Returns the value of a variable, if it is set and not empty. All of the daemon's variables are read
/// with it.
pub(in crate::daemon) fn variable(name: impl AsRef<OsStr>) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Sets each option that is not on the command line from its variable, except for the options with
/// the IDs `ignored`.
///
/// # Errors
/// If the value of a variable that counts is invalid.
pub(super) fn read_variables<A: Args>(
    options: &mut A,
    command_line: &ArgMatches,
    ignored: &[&str],
) -> Result<(), clap::Error> {
    let definition = A::augment_args(Command::new("leader-election")).mut_args(|arg| {
        let arg = arg.default_value(Resettable::Reset);
        let id = arg.get_id().as_str();
        let applies = !is_given(command_line, id) && !ignored.contains(&id);
        let counts = applies && arg.get_env().and_then(variable).is_some();
        if counts { arg } else { arg.env(None) }
    });
    let mut definition = definition.override_usage(super::USAGE).no_binary_name(true);
    let variables = definition
        .try_get_matches_from_mut(iter::empty::<OsString>())
        .map_err(|error| name_variable(error, &definition))?;
    options.update_from_arg_matches(&variables)
}

/// Makes an error name the variable that holds the invalid value. The option is not on the command
/// line.
fn name_variable(mut error: clap::Error, definition: &Command) -> clap::Error {
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
        && let Some(arg) = definition
            .get_arguments()
            .find(|arg| arg.to_string() == *option)
        && let Some(variable) = arg.get_env()
    {
        let variable = ContextValue::String(variable.to_string_lossy().into_owned());
        error.insert(ContextKind::InvalidArg, variable);
    }
    error
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

/// Maps the options of a definition and of its subcommands.
pub(super) fn map_options(definition: Command, map: impl Fn(Arg) -> Arg + Copy) -> Command {
    let definition = definition.mut_args(map);
    definition.mut_subcommands(|subcommand| subcommand.mut_args(map))
}
