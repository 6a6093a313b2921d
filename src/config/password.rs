//! Passwords, and the files that hold them.

use std::{fmt, fs, io, path::PathBuf};

/// How UTF-8 text begins that some editors write.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
/// How UTF-16 text begins, in either byte order.
const UTF16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Where a password comes from. The password is never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Password {
    /// The password itself, byte for byte.
    Text(String),
    /// The first line of a file, as UTF-8. Its line ending (`\n`, `\r\n` or `\r`) and a byte order
    /// mark before it are removed. The file is read again for each authentication.
    File(PathBuf),
}

/// A password that was read.
pub(crate) struct ReadPassword {
    pub text: String,
    /// What may be wrong with where it comes from, without anything of the password.
    pub oddity: Option<String>,
}

impl Password {
    /// Returns the password.
    ///
    /// # Errors
    /// If its file is no regular file, or its first line is blank or no UTF-8 text.
    pub fn read(&self) -> io::Result<String> {
        self.read_with_oddity().map(|read| read.text)
    }

    /// Returns the password, and what is odd about where it comes from.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_with_oddity(&self) -> io::Result<ReadPassword> {
        let file = match self {
            Self::Text(text) => {
                let oddity = has_outer_space(text).then(|| format!("it {OUTER_SPACE}"));
                let text = text.clone();
                return Ok(ReadPassword { text, oddity });
            }
            Self::File(file) => file,
        };
        // What can be read only once would be gone with the second connection.
        if !fs::metadata(file)?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        parse_file(&fs::read(file)?).map_err(io::Error::other)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
        }
    }
}

const OUTER_SPACE: &str = "begins or ends with white space, which counts";

fn has_outer_space(text: &str) -> bool {
    text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace)
}

/// Takes the password from the contents of its file.
fn parse_file(contents: &[u8]) -> Result<ReadPassword, &'static str> {
    let after_mark = contents.strip_prefix(UTF8_MARK);
    let text = after_mark.unwrap_or(contents);
    if text.is_empty() {
        return Err("it is empty");
    }
    // The text of UTF-16 without a mark has zeros as well.
    if UTF16_MARKS.iter().any(|mark| text.starts_with(mark)) || text.contains(&0) {
        return Err("it is UTF-16 or binary; save it as UTF-8");
    }
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let mut lines = text.splitn(2, is_end);
    let password = lines.next().unwrap_or_default();
    let others = lines.next().unwrap_or_default();
    let password = str::from_utf8(password).map_err(|_| "it is no UTF-8 text")?;
    if password.trim().is_empty() {
        return Err("its first line is blank; put the password there");
    }
    let oddities = [
        after_mark.map(|_| "it begins with a byte order mark, which is skipped".to_owned()),
        (!others.trim_ascii().is_empty())
            .then(|| "only its first line is read, and it has others".to_owned()),
        has_outer_space(password).then(|| format!("its first line {OUTER_SPACE}")),
    ];
    let oddities: Vec<_> = oddities.into_iter().flatten().collect();
    Ok(ReadPassword {
        text: password.to_owned(),
        oddity: (!oddities.is_empty()).then(|| oddities.join("; ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let password = Password::Text("secret".to_owned());
        assert_eq!(format!("{password:?}"), "Text(…)");
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        for (contents, expected, oddity) in [
            (&b"sesame"[..], "sesame", ""),
            (b"sesame\n", "sesame", ""),
            (b"sesame\r\n", "sesame", ""),
            (b"sesame\r", "sesame", ""),
            (b"sesame\n\n \r\n", "sesame", ""),
            (b"open sesame", "open sesame", ""),
            (b"\xef\xbb\xbfsesame\r\n", "sesame", "byte order mark"),
            (b"sesame\nother\n", "sesame", "only its first line"),
            (b"sesame\n\xff\n", "sesame", "only its first line"),
            (b" sesame\n", " sesame", "white space"),
            (b"sesame\t\r\n", "sesame\t", "white space"),
            ("sesame\u{a0}".as_bytes(), "sesame\u{a0}", "white space"),
        ] {
            let read = parse_file(contents).unwrap();
            assert_eq!(read.text, expected, "{contents:?}");
            let found = read.oddity.unwrap_or_default();
            assert!(found.contains(oddity), "{contents:?}: {found}");
            assert_eq!(found.is_empty(), oddity.is_empty(), "{contents:?}: {found}");
            assert!(!found.contains("sesame"), "{contents:?}: {found}");
        }
        let all = parse_file(b"\xef\xbb\xbf sesame\nother").unwrap();
        assert_eq!(all.oddity.unwrap().split("; ").count(), 3);
    }

    #[test]
    fn a_file_without_a_password_is_refused_with_its_reason() {
        for (contents, expected) in [
            (&b""[..], "is empty"),
            (b"\xef\xbb\xbf", "is empty"),
            (b"\n", "first line is blank"),
            (b"\r\nsesame\r\n", "first line is blank"),
            (b"  \nsesame\n", "first line is blank"),
            (b"\xff\xfes\0e\0", "UTF-16"),
            (b"\xfe\xff\0s\0e", "UTF-16"),
            (b"s\0e\0s\0", "UTF-16"),
            (b"sesam\xe9\n", "no UTF-8"),
        ] {
            let error = parse_file(contents).err().unwrap();
            assert!(error.contains(expected), "{contents:?}: {error}");
        }
    }
}
