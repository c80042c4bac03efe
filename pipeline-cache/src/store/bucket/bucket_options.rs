use std::path::PathBuf;
use std::time::Duration;

use super::BucketError;

/// How to use a bucket, whichever service it is of.
///
/// A cache must never cost more than the work it saves, so the defaults give up soon: every
/// limit ends in [`StoreErrorKind::Unavailable`](crate::store::StoreErrorKind::Unavailable), and
/// whoever asked goes on without a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketOptions {
    /// What all object names start with, for example `ci/cache`. Default: nothing.
    pub prefix: String,
    /// Time to make a connection. Default: 3 s.
    pub connect_timeout: Duration,
    /// Longest silence within an answer. Default: 10 s.
    pub silence_timeout: Duration,
    /// Time for one request, body included; a transfer is made of requests of at most
    /// [`part_bytes`](Self::part_bytes). Default: 30 s.
    pub request_timeout: Duration,
    /// How often a failed request is sent again, after pauses that grow from 0.1 s. Default: 2.
    pub retries: usize,
    /// Time for everything around a transfer together: looking, listing, publishing, deleting.
    /// Default: 20 s.
    pub budget: Duration,
    /// Time for one payload to get in or out, packing included. Default: 15 min.
    pub transfer_budget: Duration,
    /// After the service was found unavailable, how long further calls fail at once instead of
    /// waiting for it again. Default: 30 s.
    pub pause: Duration,
    /// Bytes of a part of an upload and of a range of a download; S3 takes at least 5 MiB and at
    /// most 10,000 parts. Default: 8 MiB.
    pub part_bytes: usize,
    /// Parts of one payload on their way at once; one or two more are in memory during an upload.
    /// Default: 3.
    pub parallel: usize,
    /// Folder for payloads of more than one part while they are unpacked, as files without a name.
    /// Default: the system's folder for temporary files.
    pub spool_folder: PathBuf,
    /// How old a payload without a description must be before
    /// [`BucketStore::sweep`](super::BucketStore::sweep) takes it for left over; younger ones may
    /// be about to be published. Default: 1 day.
    pub orphan_age: Duration,
}

impl Default for BucketOptions {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            connect_timeout: Duration::from_secs(3),
            silence_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            retries: 2,
            budget: Duration::from_secs(20),
            transfer_budget: Duration::from_secs(15 * 60),
            pause: Duration::from_secs(30),
            part_bytes: 8 * 1024 * 1024,
            parallel: 3,
            spool_folder: std::env::temp_dir(),
            orphan_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl BucketOptions {
    /// Sets what all object names start with.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the times for connecting, for silence within an answer, and for one request.
    #[must_use]
    pub fn with_timeouts(
        mut self,
        connect: Duration,
        silence: Duration,
        request: Duration,
    ) -> Self {
        self.connect_timeout = connect;
        self.silence_timeout = silence;
        self.request_timeout = request;
        self
    }

    /// Sets how often a failed request is sent again.
    #[must_use]
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the time for everything around a transfer, and for a transfer.
    #[must_use]
    pub fn with_budgets(mut self, around: Duration, transfer: Duration) -> Self {
        self.budget = around;
        self.transfer_budget = transfer;
        self
    }

    /// Sets how long calls fail at once after the service was found unavailable.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sets the bytes of one part, at least 5 MiB, and how many are on their way at once.
    #[must_use]
    pub fn with_parts(mut self, bytes: usize, parallel: usize) -> Self {
        self.part_bytes = bytes.max(5 * 1024 * 1024);
        self.parallel = parallel.max(1);
        self
    }

    /// Sets the folder for payloads while they are unpacked.
    #[must_use]
    pub fn with_spool_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.spool_folder = folder.into();
        self
    }

    /// Sets how old a payload without a description must be to count as left over.
    #[must_use]
    pub fn with_orphan_age(mut self, age: Duration) -> Self {
        self.orphan_age = age;
        self
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    pub(super) fn client(&self, allow_http: bool) -> object_store::ClientOptions {
        object_store::ClientOptions::new()
            .with_allow_http(allow_http)
            .with_connect_timeout(self.connect_timeout)
            .with_read_timeout(self.silence_timeout)
            .with_timeout(self.request_timeout)
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    pub(super) fn retry(&self) -> object_store::RetryConfig {
        object_store::RetryConfig {
            backoff: object_store::BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: self.retries,
            retry_timeout: self.request_timeout,
        }
    }
}

/// Whether a bucket may be reached without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlainHttp {
    /// Only on this host.
    #[default]
    LoopbackOnly,
    /// Anywhere: payloads and descriptions can then be read and changed on the way.
    Allowed,
}

impl PlainHttp {
    /// Whether the client may speak plain HTTP to this address; an error when it would have to.
    #[cfg_attr(
        not(any(test, feature = "s3", feature = "azure")),
        expect(dead_code, reason = "only these services have addresses of one's own")
    )]
    pub(super) fn check(self, endpoint: Option<&str>) -> Result<bool, BucketError> {
        let Some(endpoint) = endpoint else {
            return Ok(false);
        };
        let Some(rest) = endpoint.strip_prefix("http://") else {
            return Ok(false);
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = match authority.strip_prefix('[') {
            Some(six) => six.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        let loopback = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        // A name before an `@` would make another host look like this one.
        if self == Self::Allowed || (loopback && !authority.contains('@')) {
            Ok(true)
        } else {
            Err(BucketError::PlainHttp {
                endpoint: endpoint.to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_host_unless_allowed() {
        for endpoint in [
            "http://127.0.0.1:9000",
            "http://localhost",
            "http://[::1]:5000/x",
        ] {
            assert!(PlainHttp::LoopbackOnly.check(Some(endpoint)).unwrap());
        }
        for endpoint in [
            "http://10.0.0.1:9000",
            "http://localhost.example.com",
            "http://127.0.0.1:80@example.com/",
            "http://",
        ] {
            let error = PlainHttp::LoopbackOnly.check(Some(endpoint)).unwrap_err();
            assert!(error.to_string().contains("plain HTTP"), "{endpoint}");
            assert!(PlainHttp::Allowed.check(Some(endpoint)).unwrap());
        }
        assert!(
            !PlainHttp::Allowed
                .check(Some("https://s3.example"))
                .unwrap()
        );
        assert!(!PlainHttp::Allowed.check(None).unwrap());
    }
}
