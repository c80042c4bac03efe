//! Images of Dockerfiles, by both of the engine's builders.

use std::sync::Arc;
use std::time::Duration;

use pipeline_core::error_chain;
use pipeline_docker::builder::{
    BuildBackend, BuildError, BuildEvent, BuildNetwork, BuildRequest, BuiltImage, DockerfileSpec,
    EngineBuilder, ImageBuilder, ImageLocation, ImageOutput, LayerOrigin,
};
use pipeline_docker::context::ContextError;
use pipeline_docker::engine::{Engine, EngineErrorKind};
use tempfile::TempDir;

use crate::support::{Ear, Images, context, exists, run, runs, said, unique, write};

pub(crate) const BACKENDS: &[BuildBackend] = if cfg!(feature = "buildkit") {
    &[BuildBackend::Classic, BuildBackend::BuildKit]
} else {
    &[BuildBackend::Classic]
};

async fn builder(backend: BuildBackend) -> EngineBuilder {
    EngineBuilder::new(Engine::from_env().await.unwrap()).with_backend(backend)
}

/// Commands run without a network: an engine need not have one.
fn spec(folder: &TempDir) -> DockerfileSpec {
    DockerfileSpec::new(folder.path()).with_network(BuildNetwork::None)
}

fn into_engine(spec: DockerfileSpec, tags: &[&String]) -> BuildRequest {
    let tags = tags.iter().map(|tag| (*tag).clone()).collect();
    let unique = Vec::new();
    BuildRequest::dockerfile(spec, ImageOutput::Engine { tags, unique })
}

async fn build(
    backend: BuildBackend,
    ear: &Arc<Ear>,
    request: &BuildRequest,
) -> Result<BuiltImage, BuildError> {
    let observer = Arc::clone(ear);
    let builder = builder(backend).await.observed_by(observer);
    builder.build(request).await
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn an_image_is_built_named_and_runs() {
    for backend in BACKENDS {
        let mark = unique("mark");
        let folder = context(&format!(
            "ARG WORD\nRUN echo said $WORD {mark}\nFROM base AS last\nARG WORD\nCOPY . /context\nRUN echo $WORD > /word\nCMD [\"/bin/busybox\", \"cat\", \"/word\"]\nFROM base AS other\nCOPY ignored /x"
        ));
        write(folder.path(), "kept/file", "kept");
        write(folder.path(), "ignored", "ignored");
        write(
            folder.path(),
            ".dockerignore",
            "ignored\nbusybox\n!busybox\n",
        );
        let names = [unique("a") + ":1", unique("b")];
        let images = Images(names.to_vec());
        let spec = spec(&folder)
            .with_target("last")
            .with_arg("WORD", mark.as_str())
            .with_arg("TYPO", "x")
            .with_label("org.example.made-by", "a test");
        let request = into_engine(spec, &[&names[0], &names[1]]);
        let ear = Ear::new();
        let built = build(*backend, &ear, &request).await.unwrap();
        assert_eq!(run(&names[0], &[]), mark);
        let list = run(
            &names[1],
            &["/bin/busybox", "find", "/context", "-type", "f"],
        );
        let mut list: Vec<&str> = list.lines().collect();
        list.sort_unstable();
        assert_eq!(
            list,
            [
                "/context/.dockerignore",
                "/context/Dockerfile",
                "/context/busybox",
                "/context/kept/file"
            ]
        );
        let format = "{{.Id}} {{index .Config.Labels \"org.example.made-by\"}}";
        assert_eq!(
            said(&["image", "inspect", "--format", format, &names[0]]),
            format!("{} a test", built.config_digest)
        );
        let ImageLocation::Engine { tags } = &built.location else {
            panic!("it was to go into the engine")
        };
        assert_eq!(tags[1], format!("docker.io/library/{}:latest", names[1]));
        assert!(ear.warned("build argument TYPO"), "{ear:?}");
        assert!(
            ear.has(
                |event| matches!(event, BuildEvent::ContextSent { bytes } if *bytes > 1_000_000)
            )
        );
        // A layer of an instruction that changes nothing is kept by one builder only.
        assert!(matches!(built.layers.len(), 3 | 4), "{built:?}");
        assert!(
            built
                .layers
                .iter()
                .any(|layer| layer.origin == LayerOrigin::New)
        );

        // Again, nothing is done.
        let ear = Ear::new();
        let again = build(*backend, &ear, &request).await.unwrap();
        assert_eq!(again.config_digest, built.config_digest);
        let is_cached = |event: &BuildEvent| matches!(event, BuildEvent::InstructionFinished { instruction, cached: true } if instruction.contains("RUN"));
        assert!(ear.has(is_cached), "{:?}", ear.heard);
        drop(images);
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine"]
async fn arguments_that_do_nothing_are_told() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().unwrap();
        let text = "ARG EARLY=1\nARG BASE=scratch\nFROM ${BASE}\nARG INNER\nCOPY Dockerfile /\n";
        write(folder.path(), "Dockerfile", text);
        let name = unique("arguments");
        let images = Images(vec![name.clone()]);
        let spec = spec(&folder)
            .with_arg("EARLY", "2")
            .with_arg("BASE", "scratch")
            .with_arg("INNER", "3")
            .with_arg("TYPO", "4");
        let ear = Ear::new();
        build(*backend, &ear, &into_engine(spec, &[&name]))
            .await
            .unwrap();
        assert!(ear.warned("takes the build argument TYPO"), "{ear:?}");
        assert!(ear.warned("repeat `ARG EARLY` in the stage"), "{ear:?}");
        assert!(!ear.warned("BASE") && !ear.warned("INNER"), "{ear:?}");
        drop(images);
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_failure_names_the_instruction_and_its_last_lines() {
    for backend in BACKENDS {
        let mark = unique("fails");
        let folder = context(&format!(
            "RUN echo before {mark} >&2\nRUN for i in $(/bin/busybox seq 30); do echo line $i; done; echo {mark}; exit 42"
        ));
        let name = unique("failed");
        let request = into_engine(spec(&folder), &[&name]);
        let ear = Ear::new();
        let error = build(*backend, &ear, &request).await.unwrap_err();
        let text = error_chain(&error);
        let BuildError::Instruction {
            instruction,
            exit_code,
            last_lines,
            ..
        } = error
        else {
            panic!("{text}")
        };
        assert!(instruction.contains("RUN for i in"), "{instruction}");
        assert_eq!(exit_code, Some(42));
        assert_eq!(last_lines.last(), Some(&mark), "{last_lines:?}");
        assert!(last_lines.contains(&"line 30".to_owned()) && last_lines.len() <= 20);
        assert!(
            text.contains("exit code 42") && text.contains("line 30"),
            "{text}"
        );
        assert!(ear.printed(&format!("before {mark}")));
        assert!(!exists(None, &name));
        // The container of the instruction that failed is gone.
        let left = said(&["ps", "--all", "--no-trunc", "--format", "{{.Command}}"]);
        assert!(!left.contains(&mark), "{left}");
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn what_cannot_be_built_is_said_clearly() {
    for backend in BACKENDS {
        let name = unique("never");
        let failed = |text: &str, spec: fn(DockerfileSpec) -> DockerfileSpec| {
            let folder = context(text);
            let request = into_engine(spec(self::spec(&folder)), &[&name]);
            async move {
                let error = build(*backend, &Ear::new(), &request).await.unwrap_err();
                drop(folder);
                (error_chain(&error), error)
            }
        };
        let (text, error) = failed("FOO bar", |spec| spec).await;
        assert!(matches!(error, BuildError::Dockerfile { .. }), "{text}");
        assert!(
            text.to_lowercase().contains("unknown instruction: foo"),
            "{text}"
        );
        let (text, error) = failed("", |spec| spec.with_target("nowhere")).await;
        assert!(matches!(error, BuildError::Dockerfile { .. }), "{text}");
        assert!(text.contains("nowhere"), "{text}");
        let (text, error) = failed("COPY missing /x", |spec| spec).await;
        let BuildError::Instruction {
            instruction,
            exit_code: None,
            ..
        } = &error
        else {
            panic!("{text}")
        };
        assert!(instruction.contains("COPY missing"), "{text}");
        let (text, error) = failed("FROM 127.0.0.1:1/no/base:1", |spec| spec).await;
        let BuildError::Engine(error) = &error else {
            panic!("{text}")
        };
        assert_eq!(error.kind(), EngineErrorKind::RegistryUnreachable, "{text}");
        assert!(!exists(None, &name));
    }
    // What the classic builder has not, it is not asked for.
    let folder = context("RUN --mount=type=cache,target=/c echo x");
    let request = into_engine(spec(&folder), &[]);
    let error = build(BuildBackend::Classic, &Ear::new(), &request).await;
    let text = error_chain(&error.unwrap_err());
    assert!(
        text.contains("line 4") && text.contains("feature `buildkit`"),
        "{text}"
    );
    let folder = context("");
    let secret = spec(&folder).with_secret_file("token", "/dev/null");
    let error = build(
        BuildBackend::Classic,
        &Ear::new(),
        &into_engine(secret, &[]),
    )
    .await;
    let text = error_chain(&error.unwrap_err());
    assert!(
        text.contains("secrets") && text.contains("BuildKit"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn dropping_the_build_stops_it() {
    for backend in BACKENDS {
        let mark = unique("sleeps");
        let folder = context(&format!(
            "RUN echo begun; /bin/busybox sleep 1000 {mark} || /bin/busybox sleep 1000; echo {mark}"
        ));
        let name = unique("cancelled");
        let request = into_engine(spec(&folder), &[&name]);
        let begun = Arc::new(tokio::sync::Notify::new());
        let signal = Arc::clone(&begun);
        let ear = Ear::acting(move |event| {
            if matches!(event, BuildEvent::Line { text } if text == "begun") {
                signal.notify_one();
            }
        });
        tokio::select! {
            result = build(*backend, &ear, &request) => panic!("{result:?}"),
            () = begun.notified() => {}
        }
        let gone = async {
            while runs(&mark) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone)
            .await
            .unwrap();
        let left = || said(&["ps", "--all", "--no-trunc", "--format", "{{.Command}}"]);
        let gone = async {
            while left().contains(&mark) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone)
            .await
            .unwrap();
        assert!(!exists(None, &name));
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_file_that_vanishes_fails_the_build() {
    for backend in BACKENDS {
        let folder = context("COPY . /all");
        write(folder.path(), "z", "here for now");
        let path = folder.path().join("z");
        let ear = Ear::acting(move |event| {
            if matches!(event, BuildEvent::ContextFound { .. }) {
                std::fs::remove_file(&path).unwrap();
            }
        });
        let name = unique("torn");
        let request = into_engine(spec(&folder), &[&name]);
        let error = build(*backend, &ear, &request).await.unwrap_err();
        let BuildError::Context(ContextError::Changed { path }) = &error else {
            panic!("{}", error_chain(&error))
        };
        assert!(path.ends_with("z"));
        assert!(!exists(None, &name));
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn names_are_set_all_or_none() {
    let folder = context("LABEL a=b");
    let old = unique("old");
    let images = Images(vec![old.clone()]);
    let first = into_engine(spec(&folder), &[&old]);
    let ear = Ear::new();
    build(BuildBackend::Classic, &ear, &first).await.unwrap();
    let id = said(&["image", "inspect", "--format", "{{.Id}}", &old]);
    // Names that are no names are found before anything is built.
    let bad = into_engine(
        spec(&folder).with_label("x", "y"),
        &[&old, &"Bad Name".to_owned()],
    );
    let error = build(BuildBackend::Classic, &ear, &bad).await.unwrap_err();
    assert!(error_chain(&error).contains("Bad Name"));
    assert_eq!(said(&["image", "inspect", "--format", "{{.Id}}", &old]), id);
    // One that an engine refuses is found when others are set already: they are put back.
    let (fresh, mark) = (unique("fresh"), unique("mark"));
    let refused = "sha256:one".to_owned();
    for backend in BACKENDS {
        let bad = into_engine(
            spec(&folder).with_label("mark", &mark),
            &[&fresh, &old, &refused],
        );
        let error = build(*backend, &ear, &bad).await.unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains("sha256:one"), "{text}");
        assert_eq!(said(&["image", "inspect", "--format", "{{.Id}}", &old]), id);
        assert!(!exists(None, &fresh));
        let filter = format!("label=mark={mark}");
        let left = said(&["image", "ls", "--all", "--quiet", "--filter", &filter]);
        assert_eq!(left, "");
    }
    drop(images);
}

#[cfg(feature = "buildkit")]
#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_secret_is_mounted_and_stays_outside() {
    let secret = unique("secret-value");
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "token", &secret);
    // What a secret says is no reason for BuildKit to run a command again.
    let run_mark = unique("run");
    let folder = context(&format!(
        "RUN --mount=type=secret,id=token : {run_mark}; /bin/busybox wc -c < /run/secrets/token > /size\nCMD [\"/bin/busybox\", \"cat\", \"/size\"]",
    ));
    let name = unique("with-secret");
    let images = Images(vec![name.clone()]);
    let spec = spec(&folder).with_secret_file("token", outside.path().join("token"));
    let ear = Ear::new();
    let built = build(
        BuildBackend::Auto,
        &ear,
        &into_engine(spec.clone(), &[&name]),
    )
    .await;
    let built = built.unwrap();
    assert_eq!(run(&name, &[]), secret.len().to_string());
    let tags = said(&["image", "inspect", "--format", "{{.RepoTags}}", &name]);
    assert_eq!(tags, format!("[{name}:latest]"));
    let history = said(&["history", "--no-trunc", &built.config_digest.to_string()]);
    assert!(!history.contains(&secret));
    assert!(!run(&name, &["/bin/busybox", "find", "/run"]).contains("token"));
    drop(images);
    // A failure here has no progress to name the instruction from, but its command.
    let folder = context("RUN --mount=type=secret,id=token exit 7");
    let spec = self::spec(&folder).with_secret_file("token", outside.path().join("token"));
    let error = build(BuildBackend::Auto, &ear, &into_engine(spec, &[&name])).await;
    let text = error_chain(&error.unwrap_err());
    assert!(
        text.contains("exit 7") && text.contains("exit code 7"),
        "{text}"
    );
    assert!(!exists(None, &name));
}

#[cfg(feature = "buildkit")]
#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_frontend_out_of_reach_is_named() {
    let folder = context("");
    let path = folder.path().join("Dockerfile");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("# syntax=127.0.0.1:1/frontend:1\n{text}")).unwrap();
    let request = into_engine(spec(&folder), &[]);
    let error = build(BuildBackend::BuildKit, &Ear::new(), &request)
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(matches!(error, BuildError::Frontend { .. }), "{text}");
    assert!(
        text.contains("127.0.0.1:1/frontend:1") && text.contains("remove the line"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn images_that_others_remove_fail_no_build() {
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let others: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let empty = folder.path().join("empty.tar");
                std::fs::write(&empty, [0; 1024]).unwrap();
                let name = unique("passing");
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    said(&["import", empty.to_str().unwrap(), &name]);
                    said(&["image", "rm", "--force", &name]);
                }
            })
        })
        .collect();
    for number in 0..20 {
        let folder = context(&format!("ENV A={number}\nENV B=1\nENV C=1\nENV D=1"));
        let name = unique("steady");
        let _images = Images(vec![name.clone()]);
        let request = into_engine(spec(&folder), &[&name]);
        let built = build(BuildBackend::Classic, &Ear::new(), &request).await;
        assert!(built.is_ok(), "{}", error_chain(&built.unwrap_err()));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
}

/// The classic builder takes layers of the images that are named, and of no others then.
#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn layers_come_from_the_images_that_are_named() {
    let mark = unique("cached");
    // What it prints is another thing each time that it runs.
    let folder = context(&format!(
        "RUN : {mark}; /bin/busybox cat /proc/sys/kernel/random/uuid > /once\nCMD [\"/bin/busybox\", \"cat\", \"/once\"]"
    ));
    let other = context(&format!("LABEL other={mark}"));
    let names = ["first", "other", "same", "new"].map(unique);
    let images = Images(names.to_vec());
    let [first, unrelated, same, new] = &names;
    for (spec, name) in [
        (spec(&folder), first),
        (spec(&other), unrelated),
        (spec(&folder).with_cache_from(first), same),
        (spec(&folder).with_cache_from(unrelated), new),
    ] {
        let request = into_engine(spec, &[name]);
        let built = build(BuildBackend::Classic, &Ear::new(), &request).await;
        assert!(built.is_ok(), "{}", error_chain(&built.unwrap_err()));
    }
    assert_eq!(run(same, &[]), run(first, &[]));
    assert_ne!(run(new, &[]), run(first, &[]));
    drop(images);
}

#[tokio::test]
#[ignore = "needs a Docker engine and busybox-static"]
async fn the_engines_own_network_and_platform_are_asked_for() {
    use pipeline_docker::oci::Platform;

    let folder = context("RUN /bin/busybox cat /proc/net/dev > /devices");
    let host = std::fs::read_to_string("/proc/net/dev").unwrap();
    let host: Vec<_> = host
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let name = unique("host-network");
    let images = Images(vec![name.clone()]);
    let spec = DockerfileSpec::new(folder.path()).with_network(BuildNetwork::Host);
    let request = into_engine(spec, &[&name]);
    build(BuildBackend::Classic, &Ear::new(), &request)
        .await
        .unwrap();
    let seen = run(&name, &["/bin/busybox", "cat", "/devices"]);
    for (device, _) in host {
        assert!(seen.contains(device), "{device}: {seen}");
    }
    drop(images);
    // Nothing runs in it, so that it can be built for what this machine is not.
    let foreign = tempfile::tempdir().unwrap();
    write(
        foreign.path(),
        "Dockerfile",
        "FROM scratch\nCOPY Dockerfile /\n",
    );
    for backend in BACKENDS {
        let name = unique("foreign");
        let images = Images(vec![name.clone()]);
        let spec = self::spec(&foreign).with_platform(Platform::new("linux", "s390x"));
        let built = build(*backend, &Ear::new(), &into_engine(spec, &[&name])).await;
        assert_eq!(built.unwrap().platform, Platform::new("linux", "s390x"));
        drop(images);
    }
}
