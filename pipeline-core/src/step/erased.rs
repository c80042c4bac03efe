use std::fmt::Debug;

use async_trait::async_trait;

use super::{Step, StepContext, StepError};
use crate::value::InputRef;

/// A step whose output type is hidden: what a job stores. Every [`Step`] is
/// one.
#[async_trait]
pub trait ErasedStep: Debug + Send + Sync + 'static {
    /// See [`Step::inputs`].
    fn erased_inputs(&self) -> Vec<InputRef>;

    /// Runs the step and serialises its output.
    async fn run_erased(&self, cx: &StepContext) -> Result<serde_json::Value, StepError>;
}

#[async_trait]
impl<S: Step> ErasedStep for S {
    fn erased_inputs(&self) -> Vec<InputRef> {
        self.inputs()
    }

    async fn run_erased(&self, cx: &StepContext) -> Result<serde_json::Value, StepError> {
        let output = self.run(cx).await?;
        serde_json::to_value(output)
            .map_err(|source| StepError::errored("could not record the step's output", source))
    }
}
