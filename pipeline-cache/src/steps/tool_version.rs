use std::ffi::OsString;

use async_trait::async_trait;
use pipeline_core::{CommandSpec, InputRef, Step, StepContext, StepError};

/// Asks a tool for its version: a fact for keys and fingerprints.
///
/// The value is the first word of the answer that starts with a digit, as in `pip 23.2.1 from
/// /usr/lib (python 3.11)`; an answer without one is taken as it is, in one line.
///
/// ```
/// use pipeline_cache::steps::ToolVersion;
/// use pipeline_core::Job;
///
/// let mut job = Job::new("test");
/// let python = job.step("python", ToolVersion::of("python3"));
/// # let _ = python;
/// ```
#[derive(Clone, Debug)]
pub struct ToolVersion {
    program: OsString,
    args: Vec<OsString>,
}

impl ToolVersion {
    /// Runs the program with `--version`.
    #[must_use]
    pub fn of(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: vec!["--version".into()],
        }
    }

    /// Sets other arguments, as in `python3 -m pip --version`.
    #[must_use]
    pub fn with_args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }
}

#[async_trait]
impl Step for ToolVersion {
    type Output = String;

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<String, StepError> {
        let command = CommandSpec::new(&self.program).args(self.args.iter().cloned());
        let asked = cx.exec(command).await?;
        let answer = asked.stdout();
        if !asked.exit.success() || answer.trim().is_empty() {
            let shown = self.program.to_string_lossy();
            return Err(asked.into_failure_because(format!("{shown} does not say its version")));
        }
        let version = version(&answer);
        cx.summary(&version);
        Ok(version)
    }
}

fn version(answer: &str) -> String {
    let numbered = answer.split_whitespace().find_map(|word| {
        let word = word.trim_matches(|c: char| matches!(c, '(' | ')' | ',' | '"'));
        let number = word.strip_prefix('v').unwrap_or(word);
        number
            .starts_with(|c: char| c.is_ascii_digit())
            .then(|| number.to_owned())
    });
    numbered.unwrap_or_else(|| answer.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        for (answer, wanted) in [
            ("pip 23.2.1 from /usr/lib/x (python 3.11)\n", "23.2.1"),
            ("Python 3.11.7\n", "3.11.7"),
            ("Poetry (version 1.8.3)\n", "1.8.3"),
            ("pipenv, version 2023.12.1\n", "2023.12.1"),
            ("v20.1.0\n", "20.1.0"),
            ("cargo 1.89.0 (abc 2025-01-01)\n", "1.89.0"),
            ("a tool\nof mine\n", "a tool of mine"),
        ] {
            assert_eq!(version(answer), wanted);
        }
    }
}
