use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Endpoint, Health, HealthCheck};

/// How long to go on asking, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthWindow {
    /// The time in which it must become healthy. Default: 30 s.
    pub limit: Duration,
    /// The pause between two probes. Default: 250 ms.
    pub interval: Duration,
    /// How many healthy answers in a row are wanted. Default: 1.
    pub in_a_row: u32,
    /// After how many unhealthy *answers* to give up before the time is over. An endpoint
    /// that does not answer at all is not counted: it may be starting. Default: none.
    pub bad_answers: Option<u32>,
}

impl Default for HealthWindow {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(30),
            interval: Duration::from_millis(250),
            in_a_row: 1,
            bad_answers: None,
        }
    }
}

/// How the waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waited {
    /// It is healthy; the last answer.
    Healthy(Health),
    /// The time is over; the last answer, when there was one.
    TimedOut(Option<Health>),
    /// There were too many bad answers; the last one.
    GivenUp(Health),
}

impl HealthWindow {
    /// Sets the time in which it must become healthy.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the pause between two probes.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how many healthy answers in a row are wanted.
    #[must_use]
    pub fn with_in_a_row(mut self, count: u32) -> Self {
        self.in_a_row = count;
        self
    }

    /// Sets after how many unhealthy answers to give up.
    #[must_use]
    pub fn with_bad_answers(mut self, count: u32) -> Self {
        self.bad_answers = Some(count);
        self
    }

    /// Asks until it is healthy or the time is over; `heard` gets every verdict.
    ///
    /// # Cancellation
    /// Dropping the future ends the asking.
    pub async fn wait(
        &self,
        check: &dyn HealthCheck,
        endpoint: &Endpoint,
        mut heard: impl FnMut(u32, &Health) + Send,
    ) -> Waited {
        let deadline = Instant::now() + self.limit;
        let mut last = None;
        let mut good = 0;
        let mut bad = 0;
        let mut attempt = 0;
        loop {
            let Ok(health) = timeout_at(deadline, check.probe(endpoint)).await else {
                return Waited::TimedOut(last);
            };
            attempt += 1;
            heard(attempt, &health);
            good = if health.is_healthy() { good + 1 } else { 0 };
            if health.is_healthy() && good >= self.in_a_row {
                return Waited::Healthy(health);
            }
            if !health.is_healthy() && health.answer().is_some() {
                bad += 1;
                if self.bad_answers.is_some_and(|most| bad >= most) {
                    return Waited::GivenUp(health);
                }
            }
            last = Some(health);
            if Instant::now() + self.interval >= deadline {
                return Waited::TimedOut(last);
            }
            sleep(self.interval).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::health::Answer;

    /// Healthy at the probes whose bit is set.
    #[derive(Debug)]
    struct Script(u32, AtomicU32);

    impl fmt::Display for Script {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("script")
        }
    }

    #[async_trait]
    impl HealthCheck for Script {
        async fn probe(&self, _: &Endpoint) -> Health {
            let n = self.1.fetch_add(1, Ordering::Relaxed);
            if self.0 & (1 << n) != 0 {
                Health::healthy("yes")
            } else {
                Health::unhealthy("no")
            }
        }
    }

    async fn run(script: u32, window: HealthWindow) -> (Waited, u32) {
        let check = Script(script, AtomicU32::new(0));
        let mut heard = 0;
        let waited = window
            .wait(&check, &Endpoint::loopback(1), |attempt, _| heard = attempt)
            .await;
        (waited, heard)
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_again_until_healthy() {
        let (waited, heard) = run(0b1000, HealthWindow::default()).await;
        assert!(matches!(waited, Waited::Healthy(_)));
        assert_eq!(heard, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_one_must_answer_well_in_a_row() {
        let (waited, heard) = run(0b11_0101, HealthWindow::default().with_in_a_row(2)).await;
        assert!(matches!(waited, Waited::Healthy(_)));
        assert_eq!(heard, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_after_bad_answers_but_not_after_silence() {
        #[derive(Debug)]
        struct Slow(AtomicU32);
        impl fmt::Display for Slow {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("slow")
            }
        }
        #[async_trait]
        impl HealthCheck for Slow {
            async fn probe(&self, _: &Endpoint) -> Health {
                let health = Health::unhealthy("no");
                match self.0.fetch_add(1, Ordering::Relaxed) {
                    0..10 => health,
                    _ => health.with_answer(Answer::new(500, "")),
                }
            }
        }
        let window = HealthWindow::default().with_bad_answers(2);
        let mut heard = 0;
        let check = Slow(AtomicU32::new(0));
        let waited = window
            .wait(&check, &Endpoint::loopback(1), |attempt, _| heard = attempt)
            .await;
        assert!(matches!(waited, Waited::GivenUp(_)), "{waited:?}");
        assert_eq!(heard, 12);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_answer_is_kept_when_time_is_over() {
        let window = HealthWindow::default().with_limit(Duration::from_secs(1));
        let (waited, heard) = run(0, window).await;
        let Waited::TimedOut(Some(last)) = waited else {
            panic!("{waited:?}");
        };
        assert_eq!(last.summary(), "no");
        assert_eq!(heard, 4);
    }
}
