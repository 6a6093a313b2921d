//! Looks up COMMAND before the election, so that a replica whose COMMAND is missing never leads.

use crate::daemon::exit_code;
use crate::printable::Printable;
use rustix::fs::{Access, access};
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// Why COMMAND cannot be run.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum LookupError {
    /// There is no such file, in no directory of PATH.
    #[error("there is no command '{0}'")]
    NotFound(String),
    /// There is a file, but it is no program that this user may execute.
    #[error("'{0}' cannot be executed")]
    NotExecutable(String),
}

impl LookupError {
    /// Returns the exit code that a shell has for this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => exit_code::NOT_FOUND,
            Self::NotExecutable(_) => exit_code::NOT_EXECUTABLE,
        }
    }
}

/// Checks that `program` can be run, as far as that is known before it runs.
///
/// # Errors
/// If there is no such program, or it cannot be executed.
pub(in crate::daemon) fn check_command(program: &OsStr) -> Result<(), LookupError> {
    let printable = || Printable(program.as_encoded_bytes()).to_string();
    if program.is_empty() {
        return Err(LookupError::NotFound(printable()));
    }
    let directories = if program.as_encoded_bytes().contains(&b'/') {
        vec![PathBuf::new()]
    } else {
        // Without a PATH, the system looks here.
        let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        env::split_paths(&path).collect()
    };
    let mut is_found = false;
    for directory in directories {
        let file = directory.join(program);
        if is_executable(&file) {
            return Ok(());
        }
        is_found |= file.exists();
    }
    Err(if is_found {
        LookupError::NotExecutable(printable())
    } else {
        LookupError::NotFound(printable())
    })
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}
