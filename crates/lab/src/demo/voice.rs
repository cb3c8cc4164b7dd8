//! How a demo speaks.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};

/// Where the story goes: to standard output, or to standard error when a program reads the output.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    aside: bool,
    colour: bool,
}

impl Voice {
    /// A voice that leaves standard output to programs, or not.
    pub fn new(aside: bool) -> Self {
        let terminal = if aside { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        Self { aside, colour: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Says a line.
    ///
    /// # Errors
    ///
    /// Standard output that can't be written.
    pub fn say(&self, text: &str) -> io::Result<()> {
        if self.aside {
            // The story is a courtesy here; nobody may listen.
            let _ = writeln!(io::stderr(), "{text}");
            return Ok(());
        }
        line(text)
    }

    /// Begins a chapter.
    ///
    /// # Errors
    ///
    /// As of [`Voice::say`].
    pub fn head(&self, text: &str) -> io::Result<()> {
        self.say(&format!("\n{}", self.painted("1", text)))
    }

    /// Says how something ended.
    ///
    /// # Errors
    ///
    /// As of [`Voice::say`].
    pub fn verdict(&self, good: bool, text: &str) -> io::Result<()> {
        self.say(&format!(" {}", self.painted(if good { "32" } else { "31" }, text)))
    }

    /// Shows a table.
    ///
    /// # Errors
    ///
    /// As of [`Voice::say`].
    pub fn table(&self, table: &Table) -> io::Result<()> {
        let trimmed: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        self.say(&trimmed.join("\n"))
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints a line. A reader that has gone away, as `head` does, is no error worth a word.
///
/// # Errors
///
/// Standard output that can't be written.
pub fn line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A table with these column heads, as wide as its content or the terminal.
pub fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(heads);
    table
}
