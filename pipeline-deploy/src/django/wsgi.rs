//! The name of a WSGI application.

use std::fmt;

use super::find_error::FindError;

/// A WSGI application by module and name. Displays as `shop.wsgi:application`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsgiApplication {
    module: String,
    name: String,
}

impl WsgiApplication {
    /// Reads `MODULE` or `MODULE:NAME`; the name is `application` by default.
    ///
    /// # Errors
    /// When it is not a name that Python can import.
    pub fn parse(given: &str) -> Result<Self, FindError> {
        let (module, name) = given.split_once(':').unwrap_or((given, "application"));
        if is_dotted(module) && is_dotted(name) {
            Ok(Self {
                module: module.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(FindError::BadWsgi {
                given: given.to_owned(),
            })
        }
    }

    /// Reads the value of `WSGI_APPLICATION`: module and name with a dot between.
    pub(super) fn from_setting(value: &str) -> Option<Self> {
        let (module, name) = value.rsplit_once('.')?;
        Self::parse(&format!("{module}:{name}")).ok()
    }

    /// The module.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The name of the application in the module.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WsgiApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.module, self.name)
    }
}

fn is_dotted(name: &str) -> bool {
    name.split('.').all(|part| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let shown = |given| WsgiApplication::parse(given).map(|wsgi| wsgi.to_string());
        assert_eq!(shown("shop.wsgi").unwrap(), "shop.wsgi:application");
        assert_eq!(shown("shop.wsgi:app").unwrap(), "shop.wsgi:app");
        for bad in [
            "",
            "shop/wsgi.py",
            "shop.wsgi:",
            "shop wsgi",
            ":app",
            "shop.wsgi:make()",
            "-c",
            "1a",
        ] {
            assert!(shown(bad).is_err(), "{bad}");
        }
        let setting = WsgiApplication::from_setting("shop.wsgi.application").unwrap();
        assert_eq!(setting.to_string(), "shop.wsgi:application");
        assert!(WsgiApplication::from_setting("application").is_none());
    }
}
