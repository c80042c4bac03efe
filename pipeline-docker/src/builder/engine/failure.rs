//! What a failed build has to say: which instruction, and what it printed last.

use super::lines::Lines;
use crate::builder::progress::Tenths;
use crate::builder::{BuildError, BuildEvent, BuildObserver};
use crate::engine::{EngineError, EngineErrorKind};

/// Follows a build, tells the observer, and remembers what a failure needs.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    observer: Option<&'a dyn BuildObserver>,
    instruction: Option<String>,
    cached: bool,
    lines: Lines,
    layers: Tenths,
}

impl<'a> Trace<'a> {
    pub(super) fn new(observer: Option<&'a dyn BuildObserver>) -> Self {
        Self {
            observer,
            instruction: None,
            cached: false,
            lines: Lines::default(),
            layers: Tenths::default(),
        }
    }

    pub(super) fn tell(&self, event: &BuildEvent) {
        if let Some(observer) = self.observer {
            observer.event(event);
        }
    }

    #[cfg(feature = "buildkit")]
    pub(super) fn line(&self, line: &str) {
        tell_line(self.observer, line);
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        self.tell(&BuildEvent::Warning {
            message: message.into(),
        });
    }

    /// The instruction at work in a builder that does one after the other.
    pub(super) fn start(&mut self, instruction: String) {
        self.finish();
        self.tell(&BuildEvent::InstructionStarted {
            instruction: instruction.clone(),
        });
        self.instruction = Some(instruction);
    }

    pub(super) fn cached(&mut self) {
        self.cached = true;
    }

    pub(super) fn finish(&mut self) {
        self.end_line();
        if let Some(instruction) = self.instruction.take() {
            self.tell(&BuildEvent::InstructionFinished {
                instruction,
                cached: self.cached,
            });
        }
        self.cached = false;
        self.lines.take_last();
    }

    /// Output as it comes, which may end anywhere.
    pub(super) fn output(&mut self, text: &str) {
        let observer = self.observer;
        self.lines.push(text, &mut |line| tell_line(observer, line));
    }

    pub(super) fn end_line(&mut self) {
        let observer = self.observer;
        self.lines.end(&mut |line| tell_line(observer, line));
    }

    /// How far a layer of a base is, in the engine's words.
    pub(super) fn layer(&mut self, layer: &str, action: &str, current: i64, total: i64) {
        let (Ok(current), Ok(total @ 1..)) = (u64::try_from(current), u64::try_from(total)) else {
            return;
        };
        let action = action.to_lowercase();
        if self
            .layers
            .is_news(&format!("{layer} {action}"), current, total)
        {
            self.tell(&BuildEvent::LayerProgress {
                layer: layer.to_owned(),
                action,
                current,
                total,
            });
        }
    }

    /// The failure of the instruction at work.
    pub(super) fn failed(&mut self, message: &str, exit_code: Option<i64>) -> BuildError {
        self.end_line();
        let last = self.lines.take_last();
        let instruction = self
            .instruction
            .take()
            .unwrap_or_else(|| "the build".to_owned());
        instruction_failed(instruction, message, exit_code, last)
    }
}

fn tell_line(observer: Option<&dyn BuildObserver>, line: &str) {
    if let Some(observer) = observer {
        observer.event(&BuildEvent::Line {
            text: line.to_owned(),
        });
    }
}

/// What an engine said in the stream of a build, before it is known to be an instruction's fault.
pub(super) fn instruction_failed(
    instruction: String,
    message: &str,
    exit_code: Option<i64>,
    last_lines: Vec<String>,
) -> BuildError {
    if exit_code.is_none() {
        // A base image that cannot be had, or a full disk, is no fault of the instruction.
        let action = format!("build {instruction}");
        let said = EngineError::said(&action, None, message);
        if matches!(
            said.kind(),
            EngineErrorKind::Unauthorized
                | EngineErrorKind::RegistryUnreachable
                | EngineErrorKind::DiskFull
        ) || (said.kind() == EngineErrorKind::NotFound && instruction.contains("FROM"))
        {
            return BuildError::Engine(said);
        }
    }
    BuildError::Instruction {
        instruction,
        exit_code,
        message: message.trim().to_owned(),
        last_lines,
    }
}

/// The number behind `mark`, as engines put exit codes into texts.
pub(super) fn code_after(text: &str, mark: &str) -> Option<i64> {
    let (_, rest) = text.rsplit_once(mark)?;
    let digits: String = rest
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}
