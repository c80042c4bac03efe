//! [`Request`] and [`Call`].

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::body::Meter;
use super::host::Host;
use super::progress::Operation;
use super::scope::Scopes;

/// One request, repeatable.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body<'a>,
}

pub(crate) enum Body<'a> {
    Empty,
    Bytes(Bytes),
    /// A stream of known length whose progress the meter sees, made anew for every try.
    Stream {
        length: u64,
        meter: &'a Meter,
        make: &'a (dyn Fn() -> reqwest::Body + Send + Sync),
    },
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Body::Empty,
        }
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    #[must_use]
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    #[must_use]
    pub(crate) fn with_bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = Body::Bytes(bytes.into());
        self
    }

    #[must_use]
    pub(crate) fn with_stream(
        mut self,
        length: u64,
        meter: &'a Meter,
        make: &'a (dyn Fn() -> reqwest::Body + Send + Sync),
    ) -> Self {
        self.body = Body::Stream {
            length,
            meter,
            make,
        };
        self
    }
}

/// What a request is for: who is asked, in whose name, and how to speak of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) host: &'a Host,
    pub(crate) scopes: &'a Scopes,
    /// Completes "refused to ...".
    pub(crate) action: &'a str,
    pub(crate) operation: &'a Operation,
}
