//! [`Lines`]: output that comes in pieces, line by line.

use std::collections::VecDeque;

/// Lines that are kept of an instruction.
const LAST: usize = 20;
/// Bytes of a line at most; what is longer is told as several.
const LINE: usize = 64 * 1024;

/// Puts pieces of output together to lines and keeps the last of them. Whatever is printed, it
/// holds no more than those.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Text that does not end with a line yet.
    begun: String,
    last: VecDeque<String>,
}

impl Lines {
    /// Takes output as it comes, which may end anywhere. A carriage return ends a line, too: that
    /// is how progress is printed.
    pub(super) fn push(&mut self, text: &str, tell: &mut dyn FnMut(&str)) {
        for part in text.split_inclusive(['\n', '\r']) {
            let line = part.trim_end_matches(['\n', '\r']);
            self.grow(line, tell);
            if line.len() < part.len() {
                self.end(tell);
            }
        }
    }

    fn grow(&mut self, mut text: &str, tell: &mut dyn FnMut(&str)) {
        while self.begun.len() + text.len() > LINE {
            let mut cut = LINE - self.begun.len();
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            let (now, later) = text.split_at(cut);
            self.begun.push_str(now);
            self.end(tell);
            text = later;
        }
        self.begun.push_str(text);
    }

    /// Ends a line that has begun.
    pub(super) fn end(&mut self, tell: &mut dyn FnMut(&str)) {
        if self.begun.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.begun);
        tell(&line);
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The last lines; forgets them.
    pub(super) fn take_last(&mut self) -> Vec<String> {
        std::mem::take(&mut self.last).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut told = Vec::new();
        let mut lines = Lines::default();
        let mut tell = |line: &str| told.push(line.to_owned());
        for piece in pieces {
            lines.push(piece, &mut tell);
        }
        lines.end(&mut tell);
        told
    }

    #[test]
    fn pieces_become_lines() {
        assert_eq!(
            lines(&["a", "b\nc", "\n\n", "d\r\ne"]),
            ["ab", "c", "d", "e"]
        );
        assert_eq!(lines(&["10%\r20", "%\r"]), ["10%", "20%"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let text = "\u{e9}".repeat(LINE);
        let pieces = vec![text.as_str(); 3];
        let told = lines(&pieces);
        assert!(told.iter().all(|line| line.len() <= LINE));
        assert!(told.concat() == text.repeat(3));
        let mut held = Lines::default();
        for _ in 0..100 {
            held.push(&text, &mut |_| {});
        }
        let kept = held.begun.capacity() + held.last.iter().map(String::capacity).sum::<usize>();
        assert!(kept <= (LAST + 2) * 2 * LINE, "{kept}");
    }
}
