//! The body of `GET /presence`, which lasts as long as the leader's term.
//!
//! It consists of lines. The first line, `token N`, gives the fencing token of the term. Then a line `alive` follows
//! four times in each fail-over limit. A line `goodbye` follows when the term ends gracefully. A later version may send
//! other lines; each line shows that the leader is alive.

use crate::protocol::{FailOverLimit, FencingToken};
use std::{mem, time::Duration};

/// The path of the response.
pub(in crate::daemon) const PATH: &str = "/presence";
/// A sign of life.
pub(in crate::daemon) const ALIVE: &str = "alive\n";
/// The last line of a term that ends in order.
pub(in crate::daemon) const GOODBYE: &str = "goodbye\n";

/// What is kept of a line, in bytes. All lines that mean something are shorter.
const LONGEST_LINE: usize = 64;

/// Returns the first line of a term's body.
pub(in crate::daemon) fn first_line(token: FencingToken) -> String {
    format!("token {token}\n")
}

/// Returns the time between two signs of life in a term with this limit.
pub(in crate::daemon) fn pace(limit: FailOverLimit) -> Duration {
    limit.as_duration() / 4
}

/// What a body has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The first line is not complete.
    Nothing,
    /// The leader of this term is alive.
    Alive(FencingToken),
    /// The term ends in order.
    Goodbye,
    /// It is the body of something else.
    Nonsense,
}

/// Reads a body part by part.
#[derive(Default)]
pub(super) struct Reader {
    token: Option<FencingToken>,
    /// What has come of the present line.
    line: Vec<u8>,
}

impl Reader {
    /// Takes in the next part. After [`Said::Goodbye`] and [`Said::Nonsense`], nothing more is worth reading.
    pub fn read(&mut self, part: &[u8]) -> Said {
        for byte in part {
            if *byte != b'\n' {
                if self.line.len() <= LONGEST_LINE {
                    self.line.push(*byte);
                } else if self.token.is_none() {
                    return Said::Nonsense;
                }
                continue;
            }
            let line = mem::take(&mut self.line);
            if self.token.is_some() {
                if line == GOODBYE.trim_end().as_bytes() {
                    return Said::Goodbye;
                }
            } else {
                self.token = token_in(&line);
                if self.token.is_none() {
                    return Said::Nonsense;
                }
            }
        }
        self.token.map_or(Said::Nothing, Said::Alive)
    }
}

/// Returns the token that the first line names.
fn token_in(line: &[u8]) -> Option<FencingToken> {
    let number = str::from_utf8(line).ok()?.strip_prefix("token ")?;
    let has_digits_only = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| has_digits_only)?;
    Some(FencingToken::new(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a body that comes in parts of this size. Returns what it has said in the end.
    fn read(body: &[u8], size: usize) -> Said {
        let mut reader = Reader::default();
        let mut said = Said::Nothing;
        for part in body.chunks(size) {
            said = reader.read(part);
            if matches!(said, Said::Goodbye | Said::Nonsense) {
                break;
            }
        }
        said
    }

    #[test]
    fn a_body_says_the_term_then_that_the_leader_is_alive_then_goodbye() {
        let token = FencingToken::new(42);
        let first = first_line(token);
        for (body, said) in [
            (String::new(), Said::Nothing),
            ("token 42".to_owned(), Said::Nothing),
            (first.clone(), Said::Alive(token)),
            (format!("{first}{ALIVE}{ALIVE}"), Said::Alive(token)),
            (format!("{first}{ALIVE}goodbye"), Said::Alive(token)),
            (format!("{first}{ALIVE}{GOODBYE}"), Said::Goodbye),
            (format!("{first}{GOODBYE}{ALIVE}"), Said::Goodbye),
            (format!("{first}something new\n\n"), Said::Alive(token)),
            (
                format!("{first}{}\n{ALIVE}", "x".repeat(9999)),
                Said::Alive(token),
            ),
            (
                format!("{first}{}{GOODBYE}", "x".repeat(9999)),
                Said::Alive(token),
            ),
        ] {
            for size in [1, 7, 100_000] {
                assert_eq!(read(body.as_bytes(), size), said, "{body:.99}");
            }
        }
    }

    #[test]
    fn the_body_of_something_else_is_recognized_by_its_first_line() {
        for body in [
            "\n",
            "goodbye\n",
            "alive\ntoken 42\n",
            "token\n",
            "token \n",
            "token -1\n",
            "token +1\n",
            "token 42 \n",
            "token 99999999999999999999\n",
            "Token 42\n",
            "<!doctype html>\n",
            &"x".repeat(LONGEST_LINE + 2),
        ] {
            for size in [1, 100] {
                assert_eq!(read(body.as_bytes(), size), Said::Nonsense, "{body:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_body_takes_more_memory_than_a_line(parts: Vec<Vec<u8>>) {
            let mut reader = Reader::default();
            reader.read(first_line(FencingToken::new(1)).as_bytes());
            for part in parts {
                reader.read(&part);
                prop_assert!(reader.line.len() <= LONGEST_LINE + 1);
            }
        }
    }
}
