//! The versions of etcd that keep the promises on which this election relies.

/// Returns true iff this version of etcd may serve a stale linearizable read after a pause (etcd
/// #20418); what is no version is taken for a fixed one.
pub(super) fn is_outdated(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    let fixed_in = match (major, minor) {
        (3, 4) => 42,
        (3, 5) => 28,
        (3, 6) => 9,
        _ => return (major, minor) < (3, 4),
    };
    patch < fixed_in
}

#[cfg(test)]
mod tests {
    use super::is_outdated;

    #[test]
    fn versions_that_may_answer_stale_are_known() {
        for (version, outdated) in [
            ("3.3.27", true),
            ("3.4.41", true),
            ("3.4.42", false),
            ("3.5.27", true),
            ("3.5.28", false),
            ("3.5.28-rc.0", false),
            ("3.6.8", true),
            ("3.6.9", false),
            ("3.7.0", false),
            ("4.0.0", false),
            ("2.3.8", true),
            ("not decided", false),
        ] {
            assert_eq!(is_outdated(version), outdated, "{version}");
        }
    }
}
