use pipeline_core::StepError;

use crate::store::{StoreError, run_blocking};

/// Blocking work of a step, on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    run_blocking::<_, Failed, _>(move |_| work().map_err(Failed))
        .await
        .map_err(|Failed(error)| error)
}

struct Failed(StepError);

impl From<StoreError> for Failed {
    fn from(_: StoreError) -> Self {
        // The only way to get here: the runtime goes down.
        Self(StepError::Cancelled)
    }
}
