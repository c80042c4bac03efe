use std::fmt;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use pipeline_core::Secret;

use super::{BucketError, BucketOptions, BucketStore, PlainHttp};

/// A bucket of Amazon S3, or of a server that speaks its protocol.
///
/// The server must honour `If-None-Match` and `If-Match` when writing, as S3 does: one that
/// ignores them lets a second writer overwrite the first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3Bucket {
    /// Name of the bucket, which must exist.
    pub name: String,
    /// Who asks.
    pub credentials: S3Credentials,
    /// Region. Default: what [`S3Credentials::Environment`] says, else `us-east-1`.
    pub region: Option<String>,
    /// Address of the server, for example `https://s3.example.com`. Default: what
    /// [`S3Credentials::Environment`] says, else Amazon's.
    pub endpoint: Option<String>,
    /// Where the bucket's name goes in addresses. Default: into the path.
    pub address_style: AddressStyle,
    /// Whether TLS may be missing. Default: only on this host.
    pub plain_http: PlainHttp,
}

/// Who asks S3.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum S3Credentials {
    /// A key pair.
    Keys {
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: Secret,
        /// Session token of temporary credentials.
        session_token: Option<Secret>,
    },
    /// Nobody: requests are not signed.
    Anonymous,
    /// Whatever the process is given when the bucket is opened: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, a web identity, the container's or the
    /// instance's role; and `AWS_REGION` and `AWS_ENDPOINT_URL` where nothing else was said.
    Environment,
}

impl S3Credentials {
    /// A key pair.
    pub fn keys(id: impl Into<String>, secret: Secret) -> Self {
        Self::Keys {
            id: id.into(),
            secret,
            session_token: None,
        }
    }

    /// A temporary key pair.
    pub fn session(id: impl Into<String>, secret: Secret, token: Secret) -> Self {
        Self::Keys {
            id: id.into(),
            secret,
            session_token: Some(token),
        }
    }
}

/// Where a bucket's name goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressStyle {
    /// `https://server/bucket/object`.
    #[default]
    Path,
    /// `https://bucket.server/object`; an endpoint that is given must name the bucket itself.
    VirtualHost,
}

impl S3Bucket {
    /// A bucket.
    pub fn new(name: impl Into<String>, credentials: S3Credentials) -> Self {
        Self {
            name: name.into(),
            credentials,
            region: None,
            endpoint: None,
            address_style: AddressStyle::default(),
            plain_http: PlainHttp::default(),
        }
    }

    /// Sets the region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the address of the server.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Sets where the bucket's name goes.
    #[must_use]
    pub fn with_address_style(mut self, style: AddressStyle) -> Self {
        self.address_style = style;
        self
    }

    /// Sets whether TLS may be missing.
    #[must_use]
    pub fn with_plain_http(mut self, plain_http: PlainHttp) -> Self {
        self.plain_http = plain_http;
        self
    }
}

/// `s3://NAME`.
impl fmt::Display for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.name)
    }
}

impl BucketStore {
    /// Opens a bucket of S3. Nothing is sent yet.
    ///
    /// # Errors
    /// An address in plain HTTP beyond this host, a prefix that cannot be one, or settings that
    /// make no client.
    pub fn s3(bucket: &S3Bucket, options: BucketOptions) -> Result<Self, BucketError> {
        let mut builder = match &bucket.credentials {
            S3Credentials::Environment => AmazonS3Builder::from_env(),
            S3Credentials::Anonymous => AmazonS3Builder::new().with_skip_signature(true),
            S3Credentials::Keys {
                id,
                secret,
                session_token,
            } => {
                let builder = AmazonS3Builder::new()
                    .with_access_key_id(id)
                    .with_secret_access_key(secret.expose());
                match session_token {
                    Some(token) => builder.with_token(token.expose()),
                    None => builder,
                }
            }
        };
        if let Some(region) = &bucket.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let plain = bucket.plain_http.check(endpoint.as_deref())?;
        let client = builder
            .with_bucket_name(&bucket.name)
            .with_virtual_hosted_style_request(bucket.address_style == AddressStyle::VirtualHost)
            .with_client_options(options.client(plain))
            .with_retry(options.retry())
            .build();
        Self::opened(client, bucket, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_ever_shown() {
        let credentials = S3Credentials::session(
            "the-id",
            Secret::new("the-secret-key"),
            Secret::new("the-session-token"),
        );
        let bucket = S3Bucket::new("builds", credentials)
            .with_region("eu-north-1")
            .with_address_style(AddressStyle::VirtualHost);
        let options = BucketOptions::default().with_prefix("/ci/cache/");
        let store = BucketStore::s3(&bucket, options).unwrap();
        assert_eq!(store.to_string(), "bucket(s3://builds/ci/cache)");
        let shown = format!("{bucket:?} {store:?}");
        assert!(!shown.contains("the-secret-key") && !shown.contains("the-session-token"));
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let bucket = S3Bucket::new("builds", S3Credentials::Anonymous);
        let open = |bucket: &S3Bucket, prefix: &str| {
            BucketStore::s3(bucket, BucketOptions::default().with_prefix(prefix)).map(drop)
        };
        let error = open(&bucket, "a//b").unwrap_err();
        assert!(matches!(error, BucketError::Prefix { .. }), "{error}");
        let error = open(&bucket, "a/../b").unwrap_err();
        assert!(matches!(error, BucketError::Prefix { .. }), "{error}");
        let plain = bucket.with_endpoint("http://s3.example.com");
        let error = open(&plain, "").unwrap_err();
        assert!(matches!(error, BucketError::PlainHttp { .. }), "{error}");
        open(&plain.with_plain_http(PlainHttp::Allowed), "").unwrap();
    }
}
