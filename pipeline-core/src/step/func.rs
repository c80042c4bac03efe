use std::{fmt, future::Future};

use async_trait::async_trait;

use super::{Step, StepContext, StepError};
use crate::value::{InputRef, Output, StepOutput};

/// A step from an async closure. The closure gets its own context.
///
/// ```
/// use pipeline_core::{Job, step_fn};
///
/// let mut job = Job::new("build");
/// let size = job.step("measure", step_fn(|_cx| async { Ok(42_u64) }));
/// job.step(
///     "report",
///     step_fn({
///         let size = size.clone();
///         move |cx| {
///             let size = size.clone();
///             async move { Ok(cx.log(format!("{} bytes", cx.value(&size)?)).await) }
///         }
///     })
///     .reads(&size),
/// );
/// ```
pub fn step_fn<F, Fut, T>(function: F) -> StepFn<F>
where
    F: Fn(StepContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, StepError>> + Send + 'static,
    T: StepOutput,
{
    StepFn {
        function,
        inputs: Vec::new(),
    }
}

/// Made by [`step_fn`].
pub struct StepFn<F> {
    function: F,
    inputs: Vec<InputRef>,
}

impl<F> StepFn<F> {
    /// Says that the closure reads this value; without it the graph has no
    /// edge and the value cannot be read.
    #[must_use]
    pub fn reads<T>(mut self, output: &Output<T>) -> Self {
        self.inputs.push(output.source().clone());
        self
    }
}

impl<F> fmt::Debug for StepFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepFn")
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<F, Fut, T> Step for StepFn<F>
where
    F: Fn(StepContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, StepError>> + Send + 'static,
    T: StepOutput,
{
    type Output = T;

    fn inputs(&self) -> Vec<InputRef> {
        self.inputs.clone()
    }

    async fn run(&self, cx: &StepContext) -> Result<T, StepError> {
        (self.function)(cx.clone()).await
    }
}
