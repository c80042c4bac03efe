//! When a request is tried again, and after how long.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// How often and after which delays a failed request is repeated.
///
/// Repeated are connection errors, stalls, and the answers 408, 429, 500, 502, 503 and 504; a
/// refusal (401, 403) is not. Delays grow by a factor of two from `first_delay` with up to the
/// same again as jitter; a `Retry-After` of the registry replaces the delay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Tries of one request, the first included. Default 5; 0 counts as 1.
    pub attempts: u32,
    /// Delay before the second try. Default 250 ms.
    pub first_delay: Duration,
    /// The longest delay of our own making. Default 10 s.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one ends the operation with
    /// [`RateLimited`](super::RegistryError::RateLimited), which carries it. Default 60 s.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(10),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// One try, no repetition.
    #[must_use]
    pub fn never() -> Self {
        Self {
            attempts: 1,
            ..Self::default()
        }
    }

    /// Sets the number of tries, the first included.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the delay before the second try.
    #[must_use]
    pub fn with_first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Sets the longest delay of our own making.
    #[must_use]
    pub fn with_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets the longest `Retry-After` that is obeyed.
    #[must_use]
    pub fn with_max_retry_after(mut self, delay: Duration) -> Self {
        self.max_retry_after = delay;
        self
    }

    /// The delays between the tries of one request.
    pub(crate) fn delays(&self) -> Delays {
        let backoff = ExponentialBuilder::default()
            .with_jitter()
            .with_factor(2.0)
            .with_min_delay(self.first_delay)
            .with_max_delay(self.max_delay)
            .with_max_times(self.attempts.saturating_sub(1) as usize)
            .build();
        Delays {
            backoff,
            max_retry_after: self.max_retry_after,
        }
    }
}

/// The remaining delays of one request.
#[derive(Debug)]
pub(crate) struct Delays {
    backoff: ExponentialBackoff,
    max_retry_after: Duration,
}

impl Delays {
    /// The delay before the next try, or `None` if there is none: the tries are used up, or the
    /// registry asks for more patience than allowed.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        let own = self.backoff.next()?;
        match retry_after {
            Some(wanted) if wanted > self.max_retry_after => None,
            Some(wanted) => Some(wanted),
            None => Some(own),
        }
    }
}

/// Whether an answer with this status is worth another try.
pub(crate) fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// The `Retry-After` header, as seconds or as a date relative to the answer's own `Date`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    // The server's clock, not ours: the two may differ by more than the delay.
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(reqwest::header::HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn delays_grow_are_bounded_and_end() {
        let policy = RetryPolicy::default()
            .with_attempts(6)
            .with_first_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_millis(400));
        let mut delays = policy.delays();
        let seen: Vec<_> = std::iter::from_fn(|| delays.next(None)).collect();
        assert_eq!(seen.len(), 5);
        for (delay, least) in seen.iter().zip([100, 200, 400, 400, 400]) {
            let least = Duration::from_millis(least);
            assert!((least..=least * 2).contains(delay), "{seen:?}");
        }
        assert_eq!(RetryPolicy::never().delays().next(None), None);
        assert_eq!(
            RetryPolicy::default().with_attempts(0).delays().next(None),
            None
        );
    }

    #[test]
    fn retry_after_replaces_the_delay_up_to_the_limit() {
        let policy = RetryPolicy::default().with_max_retry_after(Duration::from_secs(3));
        let mut delays = policy.delays();
        assert_eq!(
            delays.next(Some(Duration::from_secs(3))),
            Some(Duration::from_secs(3))
        );
        assert_eq!(delays.next(Some(Duration::from_secs(4))), None);
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_date() {
        assert_eq!(
            retry_after(&headers(&[(RETRY_AFTER, "7")])),
            Some(Duration::from_secs(7))
        );
        let date = "Wed, 21 Oct 2015 07:28:30 GMT";
        let now = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(
            retry_after(&headers(&[(RETRY_AFTER, date), (DATE, now)])),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            retry_after(&headers(&[(RETRY_AFTER, now), (DATE, date)])),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, "soon")])), None);
        assert_eq!(retry_after(&headers(&[])), None);
    }
}
