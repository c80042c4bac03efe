use std::{fmt, time::Duration};

use super::plain::{Style, mark, printable};
use crate::{
    outcome::Outcome,
    runner::{RunReport, StepReport},
};

/// The closing block: verdict, steps with times, warnings, what failed and how
/// to see it again, and where everything is.
///
/// The text is its `Display`.
#[derive(Debug)]
pub struct Summary<'a> {
    report: &'a RunReport,
    style: Style,
}

impl<'a> Summary<'a> {
    /// The closing block of a run.
    #[must_use]
    pub fn new(report: &'a RunReport, style: Style) -> Self {
        Self { report, style }
    }

    fn steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .report
            .jobs
            .iter()
            .flat_map(|job| {
                job.steps
                    .iter()
                    .map(|step| job.name.len() + 1 + step.name.len())
            })
            .max()
            .unwrap_or(0);
        for job in &self.report.jobs {
            if let Some(reason) = &job.skipped {
                let mark = self.style.paint(job.outcome, mark(job.outcome));
                let reused = if job.reused { "kept" } else { "not run" };
                writeln!(f, " {mark} {}: {reused}: {}", job.name, printable(reason))?;
                continue;
            }
            for step in &job.steps {
                let name = format!("{}/{}", job.name, step.name);
                write!(
                    f,
                    " {} {name:width$} {:>8}",
                    self.style.paint(step.outcome, mark(step.outcome)),
                    seconds(step.duration)
                )?;
                if step.outcome == Outcome::FailedAllowed {
                    f.write_str("  not blocking:")?;
                }
                if let Some(note) = note(step) {
                    write!(f, "  {}", printable(note))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }

    fn failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for job in &self.report.jobs {
            for step in &job.steps {
                let Some(failure) = &step.failure else {
                    continue;
                };
                if step.outcome == Outcome::Cancelled {
                    continue;
                }
                let mut message = failure.message.lines();
                writeln!(
                    f,
                    "\n {}/{} {}: {}",
                    job.name,
                    step.name,
                    step.outcome,
                    printable(message.next().unwrap_or_default())
                )?;
                for line in message {
                    writeln!(f, "   {}", printable(line.trim_start()))?;
                }
                for line in &failure.tail {
                    writeln!(f, "   | {}", printable(line))?;
                }
                let log = self
                    .report
                    .folder
                    .join("logs")
                    .join(&job.name)
                    .join(format!("{}.log", step.name));
                if log.exists() {
                    writeln!(f, "   log        {}", log.display())?;
                }
                if let Some(reproduce) = &failure.reproduce {
                    writeln!(f, "   reproduce  {}", printable(reproduce))?;
                }
            }
        }
        Ok(())
    }
}

fn note(step: &StepReport) -> Option<&str> {
    step.summary
        .as_deref()
        .or_else(|| {
            step.failure
                .as_ref()
                .map(|failure| failure.message.as_str())
        })
        .and_then(|text| text.lines().next())
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        writeln!(f)?;
        self.steps(f)?;
        self.failures(f)?;
        if !report.warnings.is_empty() {
            writeln!(f, "\n {} warning(s)", report.warnings.len())?;
            for warning in &report.warnings {
                writeln!(f, "   {}", printable(warning))?;
            }
        }
        let verdict = match report.outcome {
            Outcome::Succeeded => "PASSED",
            Outcome::Cancelled => "CANCELLED",
            _ => "FAILED",
        };
        let where_it_failed = match report.first_failure() {
            Some((job, step)) if report.outcome != Outcome::Succeeded => {
                format!(" at {}/{}", job.name, step.name)
            }
            _ => String::new(),
        };
        writeln!(
            f,
            "\n {} in {}{where_it_failed}",
            self.style.paint(report.outcome, verdict),
            seconds(report.duration)
        )?;
        let width = report
            .highlights
            .iter()
            .map(|(label, _)| label.len())
            .max()
            .unwrap_or(0)
            .max(7);
        for (label, text) in &report.highlights {
            writeln!(f, "   {label:width$}  {}", printable(text))?;
        }
        writeln!(
            f,
            "   {:width$}  {}",
            "logs",
            report.folder.join("logs").display()
        )?;
        writeln!(
            f,
            "   {:width$}  {}",
            "journal",
            report.folder.join("journal.jsonl").display()
        )
    }
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.2}s", duration.as_secs_f64())
}
