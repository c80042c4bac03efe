//! What an engine says of itself.

use std::fmt;
use std::str::FromStr;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum, SystemVersion};
use serde::{Deserialize, Serialize};

/// A version of the engine's interface, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApiVersion {
    /// Always 1 so far.
    pub major: u32,
    /// Grows with what is offered.
    pub minor: u32,
}

impl ApiVersion {
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self::new(major.parse()?, minor.parse()?))
    }
}

/// Whose engine it is. What it offers is told by [`EngineInfo`], not by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EngineKind {
    /// Docker's, or one that does not say otherwise.
    Docker,
    /// podman's compatible socket.
    Podman,
}

/// What an engine is and offers, as it said when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EngineInfo {
    /// Whose it is.
    pub kind: EngineKind,
    /// Its version, such as `20.10.24`.
    pub version: String,
    /// The newest interface that it speaks. Requests carry no version, so answers have its shape.
    pub api: ApiVersion,
    /// The system that containers see, such as `linux`.
    pub os: String,
    /// The processor, in the words of image platforms, such as `amd64`.
    pub architecture: String,
    /// The version of control groups: 1 or 2.
    pub cgroup_version: Option<u8>,
    /// Whether it can put an init process into containers.
    pub has_init: bool,
    /// Whether it can build with BuildKit.
    pub has_buildkit: bool,
    /// Whether it runs as an ordinary user.
    pub is_rootless: bool,
    /// Whether it is Docker Desktop's, which keeps containers in a virtual machine.
    pub is_desktop: bool,
    /// Whether limits of memory are enforced.
    pub limits_memory: bool,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// How images are stored, such as `overlay2`.
    pub storage_driver: String,
}

impl EngineInfo {
    pub(crate) fn new(version: SystemVersion, info: SystemInfo) -> Option<Self> {
        let podman = version
            .components
            .iter()
            .flatten()
            .any(|component| component.name.starts_with("Podman"));
        let kind = if podman {
            EngineKind::Podman
        } else {
            EngineKind::Docker
        };
        let api: ApiVersion = version.api_version?.parse().ok()?;
        let os = version.os.or(info.os_type).unwrap_or_default();
        Some(Self {
            kind,
            version: version.version.unwrap_or_default(),
            api,
            // In the engine since 18.09; podman takes the flag and builds its own way.
            has_buildkit: !podman && os == "linux" && api >= ApiVersion::new(1, 39),
            os,
            architecture: version.arch.unwrap_or_default(),
            cgroup_version: match info.cgroup_version {
                Some(SystemInfoCgroupVersionEnum::_1) => Some(1),
                Some(SystemInfoCgroupVersionEnum::_2) => Some(2),
                _ => None,
            },
            // podman names none and has it all the same where the package is there.
            has_init: info.init_binary.is_some_and(|path| !path.is_empty()),
            is_rootless: info
                .security_options
                .iter()
                .flatten()
                .any(|option| option.contains("rootless")),
            is_desktop: info
                .operating_system
                .is_some_and(|name| name.starts_with("Docker Desktop")),
            limits_memory: info.memory_limit.unwrap_or_default(),
            cpus: info
                .ncpu
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(1),
            memory: info
                .mem_total
                .and_then(|bytes| u64::try_from(bytes).ok())
                .unwrap_or_default(),
            storage_driver: info.driver.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert!(version("1.9") < version("1.41"));
        assert_eq!(version("1.41").to_string(), "1.41");
        assert!("one".parse::<ApiVersion>().is_err());
    }
}
