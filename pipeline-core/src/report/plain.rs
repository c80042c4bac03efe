use std::{fmt, io::Write, time::Duration};

use super::{Reporter, ReporterError, summary::seconds};
use crate::{
    event::{Event, EventKind},
    outcome::Outcome,
};

/// Characters of a command that are shown.
const MAX_COMMAND: usize = 160;

/// Whether text may carry colour codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Style {
    /// Text alone. The default.
    #[default]
    Plain,
    /// ANSI colours, for terminals.
    Colour,
}

impl Style {
    pub(crate) fn paint(self, outcome: Outcome, text: &str) -> String {
        let code = match outcome {
            Outcome::Succeeded => 32,
            Outcome::FailedAllowed => 33,
            Outcome::Skipped => 90,
            _ => 31,
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// One line per thing that happens, for people, without cursor movement.
///
/// The output of commands is kept in the log files and shown here only when
/// the step fails, as its last lines.
pub struct PlainReporter<W> {
    writer: W,
    style: Style,
    variables_shown: bool,
}

impl<W: Write + Send + 'static> PlainReporter<W> {
    /// Writes to `writer`.
    #[must_use]
    pub fn new(writer: W, style: Style) -> Self {
        Self {
            writer,
            style,
            variables_shown: false,
        }
    }

    fn line(&mut self, event: &Event, text: &str) -> std::io::Result<()> {
        let text = printable(text);
        match (&event.job, &event.step) {
            (Some(job), Some(step)) => writeln!(self.writer, "[{job}/{step}] {text}"),
            (Some(job), None) => writeln!(self.writer, "[{job}] {text}"),
            _ => writeln!(self.writer, "{text}"),
        }
    }

    /// Shown for the first job; those of the others differ by the job's name alone.
    fn variables(&mut self, event: &Event, data: &serde_json::Value) -> std::io::Result<()> {
        if std::mem::replace(&mut self.variables_shown, true) {
            return Ok(());
        }
        for group in data["groups"].as_array().into_iter().flatten() {
            self.line(
                event,
                &format!("{}:", group[0].as_str().unwrap_or_default()),
            )?;
            for line in group[1].as_array().into_iter().flatten() {
                self.line(event, &format!("  {}", line.as_str().unwrap_or_default()))?;
            }
        }
        Ok(())
    }
}

impl<W> fmt::Debug for PlainReporter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainReporter")
            .field("style", &self.style)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Reporter for PlainReporter<W> {
    fn name(&self) -> &str {
        "plain"
    }

    fn report(&mut self, event: &Event) -> Result<(), ReporterError> {
        match &event.kind {
            EventKind::RunStarted {
                pipeline,
                run,
                plan,
                resumes,
                ..
            } => {
                let plan: String = plan.chars().take(12).collect();
                let resumes = resumes
                    .as_ref()
                    .map(|run| format!(", resumes {run}"))
                    .unwrap_or_default();
                self.line(
                    event,
                    &format!("{pipeline}  run {run}, plan {plan}{resumes}"),
                )?;
            }
            EventKind::JobSkipped { reason } => {
                self.line(event, &format!("will not run: {reason}"))?;
            }
            EventKind::JobStarted { folder } => self.line(event, &format!("folder {folder}"))?,
            EventKind::EnvironmentReady { facts } => {
                self.line(event, &format!("{} on {}", facts.executor, facts.system))?;
                if let Some(image) = &facts.image {
                    self.line(event, &format!("image {image}"))?;
                }
            }
            EventKind::Fact { topic, data } if topic == "environment.variables" => {
                self.variables(event, data)?;
            }
            EventKind::StepSkipped { reason } => {
                let mark = self.style.paint(Outcome::Skipped, "-");
                self.line(event, &format!("{mark} skipped: {reason}"))?;
            }
            EventKind::CommandStarted { command } => {
                self.line(event, &format!("$ {}", shortened(command)))?;
            }
            EventKind::Log { text } => self.line(event, text)?,
            EventKind::Warning { text } => self.line(event, &format!("warning: {text}"))?,
            EventKind::StepRetried {
                attempt,
                delay_ms,
                failure,
            } => {
                let delay = Duration::from_millis(*delay_ms);
                self.line(
                    event,
                    &format!(
                        "try {attempt} failed: {}; next in {}",
                        failure.message,
                        seconds(delay)
                    ),
                )?;
            }
            EventKind::StepFinished {
                outcome,
                duration_ms,
                summary,
                failure,
            } => {
                for line in failure.iter().flat_map(|failure| &failure.tail) {
                    self.line(event, &format!("| {line}"))?;
                }
                let mut text = format!(
                    "{} {outcome} in {}",
                    self.style.paint(*outcome, mark(*outcome)),
                    seconds(Duration::from_millis(*duration_ms))
                );
                if let Some(failure) = failure {
                    text.push_str(&format!(": {}", failure.message));
                } else if let Some(summary) = summary {
                    text.push_str(&format!(": {summary}"));
                }
                self.line(event, &text)?;
            }
            EventKind::JobFinished {
                outcome,
                duration_ms,
            } => {
                let mark = self.style.paint(*outcome, mark(*outcome));
                let took = seconds(Duration::from_millis(*duration_ms));
                self.line(event, &format!("{mark} job {outcome} in {took}"))?;
            }
            EventKind::EnvironmentClosed { survivors } if survivors.ended > 0 => {
                let text = format!("ended {} processes that were left behind", survivors.ended);
                self.line(event, &text)?;
            }
            _ => {}
        }
        Ok(self.writer.flush()?)
    }

    fn finish(&mut self) -> Result<(), ReporterError> {
        Ok(self.writer.flush()?)
    }
}

pub(super) fn mark(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "✓",
        Outcome::FailedAllowed => "!",
        Outcome::Skipped => "-",
        _ => "✗",
    }
}

/// A command with a script inside is long; the log has all of it.
fn shortened(command: &str) -> String {
    let first = command.lines().next().unwrap_or_default();
    let cut: String = first.chars().take(MAX_COMMAND).collect();
    if cut.len() < command.len() {
        format!("{cut} …")
    } else {
        cut
    }
}

/// A command's output must not steer the reader's terminal.
pub(super) fn printable(text: &str) -> String {
    // Several lines become one.
    let text = text
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("; ");
    text.chars()
        .map(|character| match character {
            '\t' => ' ',
            '\x1b' => '␛',
            character if character.is_control() => '�',
            character => character,
        })
        .collect()
}
