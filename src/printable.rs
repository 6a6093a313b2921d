//! Makes bytes from untrusted sources safe to print.

use std::fmt::{self, Write};

/// Displays bytes from an untrusted source, so that they are safe to print.
///
/// Control characters, line breaks, bidirectional and other invisible characters, quotes,
/// backslashes and bytes that are not UTF-8 are printed as escapes. A text that is longer than
/// [`Printable::LONGEST`] bytes is cut.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl Printable<'_> {
    /// How many bytes are printed at most: the longest name that a candidate may have.
    pub const LONGEST: usize = 255;
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(Self::LONGEST)];
        for chunk in shown.utf8_chunks() {
            // `escape_debug` leaves only what Unicode calls printable.
            for character in chunk.valid().chars() {
                write!(f, "{}", character.escape_debug())?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if shown.len() < self.0.len() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Printable;
    use proptest::prelude::*;

    #[test]
    fn a_plain_name_is_printed_as_it_is() {
        let name = "serveur-été 1 (α)";
        assert_eq!(Printable(name.as_bytes()).to_string(), name);
    }

    #[test]
    fn what_could_do_harm_is_escaped() {
        let hostile = "\u{1b}[2J\r\n\u{202e}\u{200b}\u{2028}'\"\\";
        let printed = Printable(hostile.as_bytes()).to_string();
        assert_eq!(printed, r#"\u{1b}[2J\r\n\u{202e}\u{200b}\u{2028}\'\"\\"#);
        assert_eq!(Printable(b"a\xff\xfeb").to_string(), r"a\xff\xfeb");
    }

    #[test]
    fn a_megabyte_is_cut() {
        let printed = Printable(&vec![b'x'; 1 << 20]).to_string();
        assert_eq!(printed.chars().count(), Printable::LONGEST + 1);
        assert!(printed.ends_with('…'));
    }

    proptest! {
        #[test]
        fn nothing_printed_is_a_control_or_a_format_character(bytes: Vec<u8>) {
            let invisible = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
            for character in Printable(&bytes).to_string().chars() {
                prop_assert!(!character.is_control());
                let hidden = invisible.iter().any(|range| range.contains(&character));
                prop_assert!(!hidden, "{}", character.escape_unicode());
            }
        }
    }
}
