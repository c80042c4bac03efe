use std::ffi::OsString;

use async_trait::async_trait;

use super::{Step, StepContext, StepError};
use crate::{executor::CommandSpec, value::InputRef};

/// Runs one command; anything but exit code 0 is a failure.
#[derive(Clone, Debug)]
pub struct CommandStep {
    command: CommandSpec,
}

/// A step that runs a shell script: see [`CommandSpec::shell`].
#[must_use]
pub fn sh(script: impl Into<OsString>) -> CommandStep {
    CommandSpec::shell(script).into()
}

impl From<CommandSpec> for CommandStep {
    fn from(command: CommandSpec) -> Self {
        Self { command }
    }
}

impl CommandStep {
    /// The command.
    #[must_use]
    pub fn command(&self) -> &CommandSpec {
        &self.command
    }
}

#[async_trait]
impl Step for CommandStep {
    type Output = ();

    fn inputs(&self) -> Vec<InputRef> {
        Vec::new()
    }

    async fn run(&self, cx: &StepContext) -> Result<(), StepError> {
        cx.exec(self.command.clone()).await?.check()
    }
}
