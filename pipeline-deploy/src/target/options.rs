/// How to deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeployOptions {
    /// Whether a release may replace a newer one. Default: refuse.
    pub older_releases: OlderReleases,
}

impl DeployOptions {
    /// Sets what to do with a release that is older than the live one.
    #[must_use]
    pub fn with_older_releases(mut self, policy: OlderReleases) -> Self {
        self.older_releases = policy;
        self
    }
}

/// What to do with a release whose sequence number is smaller than the live one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OlderReleases {
    /// Refuse it: it comes from a run that was overtaken.
    #[default]
    Refuse,
    /// Deploy it, for a return to an earlier state on purpose.
    Deploy,
}
