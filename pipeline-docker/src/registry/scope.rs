//! What an access token is to be good for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A set of scopes, merged by resource, so that equal needs have equal texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scopes {
    resources: BTreeMap<String, BTreeSet<String>>,
}

impl Scopes {
    /// Reading from `repository`.
    pub(crate) fn pull(repository: &str) -> Self {
        Self::default().and(&format!("repository:{repository}:pull"))
    }

    /// Reading from and writing to `repository`.
    pub(crate) fn push(repository: &str) -> Self {
        Self::default().and(&format!("repository:{repository}:pull,push"))
    }

    /// Deleting from `repository`.
    pub(crate) fn delete(repository: &str) -> Self {
        Self::default().and(&format!("repository:{repository}:pull,delete"))
    }

    /// Adds scopes as a challenge spells them: separated by spaces, each
    /// `type:name:action,action`. The name may hold colons.
    #[must_use]
    pub(crate) fn and(mut self, text: &str) -> Self {
        for scope in text.split_ascii_whitespace() {
            let Some((resource, actions)) = scope.rsplit_once(':') else {
                continue;
            };
            self.resources
                .entry(resource.to_owned())
                .or_default()
                .extend(actions.split(',').map(str::to_owned));
        }
        self
    }

    /// Each scope as a token service takes it.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.resources.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.texts().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_needs_have_equal_texts() {
        let push = Scopes::push("a/b");
        assert_eq!(push.to_string(), "repository:a/b:pull,push");
        assert_eq!(push.clone().and("repository:a/b:pull"), push);
        assert_eq!(
            push.and("repository:c:pull registry:catalog:*").to_string(),
            "registry:catalog:* repository:a/b:pull,push repository:c:pull"
        );
        assert_eq!(Scopes::default().and("nonsense"), Scopes::default());
        assert_eq!(
            Scopes::pull("h:5000/x").to_string(),
            "repository:h:5000/x:pull"
        );
    }
}
