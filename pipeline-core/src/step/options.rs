use std::time::Duration;

/// When a step of a job runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// While nothing before it in the job has failed. The default.
    #[default]
    OnSuccess,
    /// Only after a failure.
    OnFailure,
    /// In any case, also after a cancel: a finalizer.
    Always,
}

/// How often a failing step is tried. Only failures and errors are tried
/// again, never a cancel.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Tries in all, the first one included; at least 1.
    pub attempts: u32,
    /// Pause before the second try.
    pub delay: Duration,
    /// Each further pause is this many times the one before it.
    pub factor: f64,
}

impl RetryPolicy {
    /// This many tries, one second before the second, doubling.
    #[must_use]
    pub fn attempts(attempts: u32) -> Self {
        Self {
            attempts: attempts.max(1),
            delay: Duration::from_secs(1),
            factor: 2.0,
        }
    }

    /// Sets the first pause.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn pause_after(&self, attempt: u32) -> Duration {
        // An hour is longer than any sensible back-off.
        let factor = self
            .factor
            .max(1.0)
            .powi(attempt.saturating_sub(1).min(30) as i32);
        self.delay
            .mul_f64(factor.min(1e6))
            .min(Duration::from_secs(3600))
    }
}

/// Policies of one step, applied in this order, outermost first: condition,
/// then not-blocking, then retry, then the time limit of each try.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StepOptions {
    /// When it runs.
    pub when: When,
    /// Whether a failure leaves the job going.
    pub non_blocking: bool,
    /// Tries; one by default.
    pub retry: Option<RetryPolicy>,
    /// Limit of each try; none by default.
    pub timeout: Option<Duration>,
}

impl StepOptions {
    /// Blocking, one try, no limit, on success.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets when the step runs.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// A failure is shown as such and does not fail the job.
    #[must_use]
    pub fn non_blocking(mut self) -> Self {
        self.non_blocking = true;
        self
    }

    /// Tries again after a failure.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Ends each try after this long.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }
}
