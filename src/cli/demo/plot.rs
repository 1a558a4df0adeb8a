//! A share over time as columns of blocks: the demo's picture on a terminal.

use std::fmt::Write as _;

/// Columns of a picture; with the words beside them they fit a terminal of 80.
const WIDTH: usize = 70;
/// Rows of a picture.
const HEIGHT: usize = 10;
/// A cell that is filled from below, in eighths.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `shares` (0 to 1, evenly spaced in time) over an axis that ends with the word `end`.
pub(super) fn columns(shares: &[f32], end: &str) -> String {
    let mut text = String::new();
    for row in (0..HEIGHT).rev() {
        let label = match row {
            0 => "0 %",
            _ if row + 1 == HEIGHT => "100 %",
            _ if row == HEIGHT / 2 => "50 %",
            _ => "",
        };
        let cells: String = (0..WIDTH).map(|column| cell(at(shares, column), row)).collect();
        // Writing into a string cannot fail.
        writeln!(text, "{label:>5} │{}", cells.trim_end()).unwrap_or_default();
    }
    writeln!(text, "{:>5} └{}\n{:>width$}", "", "─".repeat(WIDTH), end, width = WIDTH + 7).unwrap_or_default();
    text
}

/// The share that a column shows.
fn at(shares: &[f32], column: usize) -> f32 {
    shares.get(column * shares.len() / WIDTH).copied().unwrap_or_default()
}

/// What of a column of this share lies in a row, the lowest being 0.
fn cell(share: f32, row: usize) -> char {
    let filled = (share * HEIGHT as f32 - row as f32).clamp(0.0, 1.0);
    EIGHTHS.get((filled * 8.0).round() as usize).copied().unwrap_or('█')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eighths of a cell that a column fills.
    fn height(text: &str, column: usize) -> usize {
        let cells = text.lines().filter_map(|line| line.split_once('│')?.1.chars().nth(column));
        cells.filter_map(|cell| EIGHTHS.iter().position(|known| *known == cell)).sum()
    }

    #[test]
    fn a_column_is_as_high_as_its_share() {
        for shares in [vec![], vec![0.0], vec![1.0], vec![0.0, 0.5, 1.0], (0..100).map(|i| i as f32 / 99.0).collect()] {
            let text = columns(&shares, "frame 100");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
            for column in 0..WIDTH {
                let wanted = (at(&shares, column) * (HEIGHT * 8) as f32).round() as usize;
                assert_eq!(height(&text, column), wanted, "column {column}\n{text}");
            }
        }
        assert_eq!(columns(&[1.0], "").matches('█').count(), WIDTH * HEIGHT);
    }
}
