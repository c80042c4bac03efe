//! The `WWW-Authenticate` header.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// How a registry wants to be authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from the token service at `realm`.
    Bearer {
        /// Address of the token service.
        realm: String,
        /// The registry's name there.
        service: Option<String>,
        /// What the refused request needs, if the registry says so.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The first challenge that we can answer; bearer is preferred.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            let Ok(challenges) = http_auth::parse_challenges(text) else {
                continue;
            };
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let parameter = |name: &str| {
                        challenge
                            .params
                            .iter()
                            .find(|(key, _)| key.eq_ignore_ascii_case(name))
                            .map(|(_, value)| value.to_unescaped())
                            .filter(|value| !value.is_empty())
                    };
                    if let Some(realm) = parameter("realm") {
                        let (service, scope) = (parameter("service"), parameter("scope"));
                        return Some(Self::Bearer {
                            realm,
                            service,
                            scope,
                        });
                    }
                } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::from_headers(&headers)
    }

    #[test]
    fn challenges_are_read() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token?a=b".to_owned(),
            service: Some("registry.example".to_owned()),
            scope: Some("repository:a/b:pull,push repository:c:pull".to_owned()),
        };
        let text = "Bearer realm=\"https://auth.example/token?a=b\",service=\"registry.example\",\
                    scope=\"repository:a/b:pull,push repository:c:pull\"";
        assert_eq!(parse(&[text]), Some(bearer.clone()));
        assert_eq!(parse(&["Basic realm=\"x\"", text]), Some(bearer.clone()));
        assert_eq!(parse(&[text, "Basic realm=\"x\""]), Some(bearer));
        assert_eq!(parse(&["BASIC realm=\"a, b\""]), Some(Challenge::Basic));
        assert_eq!(
            parse(&["bearer REALM=\"https://t\""]),
            Some(Challenge::Bearer {
                realm: "https://t".to_owned(),
                service: None,
                scope: None
            })
        );
        assert_eq!(parse(&["Bearer service=\"x\""]), None);
        assert_eq!(parse(&["Negotiate", "\"garbage"]), None);
        assert_eq!(parse(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(text in "(Bearer |Basic )?[ -~]*") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = text.parse() {
                headers.insert(WWW_AUTHENTICATE, value);
            }
            drop(Challenge::from_headers(&headers));
        }
    }
}
