//! Lines of text in columns.

/// The largest width of a column, so that one long text does not push the others off the screen.
const WIDEST: usize = 40;

/// Joins the columns of each line. A column is as wide as its widest text of up to [`WIDEST`] characters; one
/// that is empty in all lines is left out.
pub(super) fn aligned<const COLUMNS: usize>(rows: Vec<[String; COLUMNS]>) -> Vec<String> {
    let width = |text: &String| text.chars().count();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let widths = rows.iter().map(|row| width(&row[column]));
        widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    });
    let is_empty: [bool; COLUMNS] =
        std::array::from_fn(|column| rows.iter().all(|row| row[column].is_empty()));
    let line = |row: [String; COLUMNS]| {
        let columns = row.into_iter().zip(widths).zip(is_empty);
        let columns = columns.filter_map(|(column, is_empty)| (!is_empty).then_some(column));
        let padded = columns.map(|(text, width)| format!("{text:width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_are_aligned_by_characters_and_a_long_text_widens_none() {
        let rows = [["é", "", "b"], ["ccc", "", "d"], [&"x".repeat(41), "", "e"]];
        let lines = aligned(rows.map(|row| row.map(str::to_owned)).into());
        let long = format!("{}  e", "x".repeat(41));
        assert_eq!(lines, ["é    b", "ccc  d", &long]);
    }
}
