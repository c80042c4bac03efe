use std::fmt;

/// The facts behind `{{ arch }}` and `{{ platform }}`: operating system, architecture and CPU
/// model, in the words of `CircleCI`'s keys (`linux`, `amd64`, `6`, `85`).
///
/// `{{ arch }}` prints all four, `linux-amd64-6_85`, so two hosts of one architecture and
/// different CPUs get different keys; where the CPU is not told, it is left out: `linux-arm64`.
/// `{{ platform }}` prints `linux-amd64` in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostArch {
    /// Operating system, for example `linux`.
    pub os: String,
    /// Architecture in Go's spelling, for example `amd64`.
    pub arch: String,
    /// CPU family, empty where the system does not tell it.
    pub cpu_family: String,
    /// CPU model, empty where the system does not tell it.
    pub cpu_model: String,
}

impl HostArch {
    /// Facts given by hand.
    #[must_use]
    pub fn new(os: &str, arch: &str, cpu_family: &str, cpu_model: &str) -> Self {
        Self {
            os: os.to_owned(),
            arch: arch.to_owned(),
            cpu_family: cpu_family.to_owned(),
            cpu_model: cpu_model.to_owned(),
        }
    }

    /// Facts of the machine this runs on. Reads `/proc/cpuinfo` where there is one.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::from_cpuinfo(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    /// Facts of the machine that a job runs on, from its platform in the words of images,
    /// `linux/arm64/v8`. Its CPU is taken for this host's when the platform is: a container sees
    /// the CPU of its host.
    #[must_use]
    pub fn of_platform(platform: &str) -> Self {
        let here = Self::of_this_host();
        let mut parts = platform.split('/');
        let (os, arch) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        if (os, arch) == (&*here.os, &*here.arch) {
            return here;
        }
        Self::new(os, arch, "", "")
    }

    fn from_cpuinfo(cpuinfo: &str) -> Self {
        let field = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        Self {
            os: match std::env::consts::OS {
                "macos" => "darwin",
                other => other,
            }
            .to_owned(),
            arch: go_arch(std::env::consts::ARCH).to_owned(),
            cpu_family: field("cpu family"),
            cpu_model: field("model"),
        }
    }

    /// `os-arch`, the part that decides whether built files run.
    #[must_use]
    pub fn platform(&self) -> String {
        format!("{}-{}", self.os, self.arch)
    }
}

/// `os-arch-family_model`, or `os-arch`.
impl fmt::Display for HostArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cpu_family.is_empty() && self.cpu_model.is_empty() {
            return write!(f, "{}-{}", self.os, self.arch);
        }
        write!(
            f,
            "{}-{}-{}_{}",
            self.os, self.arch, self.cpu_family, self.cpu_model
        )
    }
}

fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_the_documented_examples() {
        assert_eq!(
            HostArch::new("linux", "amd64", "6", "85").to_string(),
            "linux-amd64-6_85"
        );
        assert_eq!(
            HostArch::new("darwin", "amd64", "6", "58").platform(),
            "darwin-amd64"
        );
    }

    #[test]
    fn a_cpu_that_is_not_told_is_left_out() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
                     model name\t: Intel(R) Xeon(R) Platinum 8124M CPU @ 3.00GHz\n";
        let arm = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\n\
                   CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n";
        let named = |cpuinfo: &str| {
            let mut host = HostArch::from_cpuinfo(cpuinfo);
            (host.os, host.arch) = ("linux".to_owned(), "arch".to_owned());
            host.to_string()
        };
        assert_eq!(named(intel), "linux-arch-6_85");
        assert_eq!(named(arm), "linux-arch");
        assert_eq!(named(""), "linux-arch");
    }

    #[test]
    fn a_job_elsewhere_has_its_own_platform() {
        let foreign = HostArch::of_platform("plan9/mips64le/v1");
        assert_eq!(foreign.platform(), "plan9-mips64le");
        assert_eq!(foreign.to_string(), "plan9-mips64le");
        let here = HostArch::of_this_host();
        let same = HostArch::of_platform(&format!("{}/{}", here.os, here.arch));
        assert_eq!(same, here);
    }

    #[test]
    fn this_host_has_an_os_and_an_architecture_in_go_words() {
        let host = HostArch::of_this_host();
        assert!(!host.os.is_empty());
        assert_ne!(host.arch, "x86_64");
        assert_ne!(host.arch, "aarch64");
    }
}
