//! The pipeline: five jobs, from a commit to a live site.

use std::path::Path;

use pipeline_cache::{
    cache::Cache,
    key::KeyTemplate,
    steps::{RestoreCache, SaveCache},
    store::FilesystemStore,
};
use pipeline_core::{
    Job, Output, Pipeline, Step, StepOptions, error_chain, source::Checkout, step_fn,
};
use pipeline_deploy::django::FindOptions;
use pipeline_docker::{
    ImageReference, TagPolicy,
    registry::PushImage,
    steps::{BuildImage, OriginLabels},
};

use crate::{
    Exit, Stop,
    args::{Break, Deploy, Options},
    base::{self, MakeBase},
    ground::Ground,
    python::{Coverage, Inspect, Inspected, Install, Lint, RunTests, SOURCE, TOOLS, VENV},
    release::{DeployLocal, Describe, Stage},
    sabotage::BreakTests,
};

/// The key of the dependency cache, and the older entries that are better than nothing. Beside the
/// requirements it names the interpreter, and everything else that the installed files depend on.
const CACHE_KEYS: [&str; 3] = [
    r#"deps1-{{ .Branch }}-{{ checksum "requirements.txt" }}-py{{ tool "python" }}-{{ tool "packages" }}"#,
    "deps1-{{ .Branch }}-",
    "deps1-",
];

/// Jobs that see the same checkout and the same virtual environment.
const FOLDER: &str = "site";

pub(crate) fn build(options: &Options, ground: &Ground) -> Result<Pipeline, Stop> {
    let mut find = FindOptions::default();
    find.app_dir = options.app_dir.clone();
    find.requirements = options.requirements.clone();
    find.wsgi = options.wsgi.clone();

    let mut prepare = Job::new("prepare").folder(FOLDER);
    prepare.step(
        "checkout",
        Checkout::new(&ground.repository, ground.commit.clone(), SOURCE),
    );
    if options.break_at == Some(Break::Tests) {
        prepare.step(
            "break tests",
            BreakTests {
                options: find.clone(),
            },
        );
    }
    let project = prepare.step(
        "inspect",
        Inspect {
            options: find.clone(),
            test_command: options.test_command.clone(),
            lint_command: options.lint_command.clone(),
        },
    );
    let python = prepare.step("python", part(&project, |project| project.version));
    let packages = prepare.step("packages", part(&project, |project| project.environment));
    let keys = CACHE_KEYS
        .iter()
        .map(|key| KeyTemplate::parse(key))
        .collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|error| Stop::new(Exit::Plan, &error))?;
    let store = FilesystemStore::new(ground.data_dir.join("cache"));
    let cache = Cache::new(store);
    let restored = prepare.step(
        "restore cache",
        RestoreCache::new(cache.clone(), keys.clone())
            .with_tool("python", &python)
            .with_tool("packages", &packages),
    );
    prepare.step(
        "install",
        Install {
            options: find.clone(),
            project: (&project).into(),
            restored: restored.into(),
        },
    );
    prepare.step(
        "save cache",
        SaveCache::new(cache, keys[0].clone(), [VENV, TOOLS])
            .with_tool("python", python)
            .with_tool("packages", packages),
    );

    let mut test = Job::new("test").folder(FOLDER).requires("prepare");
    test.step(
        "tests",
        RunTests {
            options: find.clone(),
            command: options.test_command.clone(),
        },
    );

    // Neither blocks: a finding is shown and the delivery goes on.
    let mut lint = Job::new("lint")
        .folder(FOLDER)
        .requires("prepare")
        .non_blocking();
    lint.step_with(
        "flake8",
        Lint {
            options: find.clone(),
            command: options.lint_command.clone(),
        },
        StepOptions::new().non_blocking(),
    );
    // After the tests, because the two would share a test database.
    let mut coverage = Job::new("coverage")
        .folder(FOLDER)
        .requires("test")
        .non_blocking();
    coverage.step_with(
        "coverage",
        Coverage {
            options: find.clone(),
            test_command: options.test_command.clone(),
        },
        StepOptions::new().non_blocking(),
    );

    let release_branch = options
        .release_branch
        .as_ref()
        .or(ground.commit.branch.as_ref());
    let mut image = Job::new("image")
        .folder(FOLDER)
        .requires("test")
        .only_branches(release_branch);
    if release_branch.is_none() {
        image = image.disabled("the commit is on no branch; name one with --release-branch");
    }
    let base = image.step(
        "base",
        MakeBase {
            wanted: options.base.clone(),
        },
    );
    let staged = image.step(
        "stage",
        Stage {
            options: find.clone(),
            project: (&project).into(),
            break_at: options.break_at,
        },
    );
    let spec = image.step(
        "describe",
        Describe {
            project: (&project).into(),
            base: base.into(),
            staged: (&staged).into(),
        },
    );
    let name = options
        .image
        .clone()
        .unwrap_or_else(|| pipeline_examples::slug(&ground.project));
    // A name that a registry would take is one that stays below the folder of images, too.
    let named: Result<ImageReference, _> = format!("localhost/{name}").parse();
    if !named.is_ok_and(|named| named.tag().is_none() && named.digest().is_none()) {
        let why = "use lower case letters, digits and single . _ - / between them";
        return Err(Stop(
            Exit::Plan,
            format!("--image {name:?} is no name for an image; {why}"),
        ));
    }
    let built = image.step(
        "build",
        BuildImage::new(spec, Path::new("images").join(&name))
            .with_tags(tag_policy()?)
            // The image says its revision itself; where the folder lies must not change it.
            .with_labels(OriginLabels::None),
    );
    if let Some(registry) = &options.registry {
        let target = format!("{registry}/{name}").parse().map_err(|error| {
            Stop(
                Exit::Plan,
                format!("--registry {registry}: {}", error_chain(&error)),
            )
        })?;
        let client = base::client()?;
        image.step(
            "push",
            PushImage::new(client, &built, target).with_tags(tag_policy()?),
        );
    }

    let mut deploy = Job::new("deploy").folder(FOLDER);
    if options.deploy == Deploy::None {
        deploy = deploy.disabled("--deploy none");
    }
    deploy.step(
        "local",
        DeployLocal {
            options: find,
            folder: deploy_folder(&ground.data_dir),
            supervisor: ground.supervisor.clone(),
            env: crate::variables(options)?,
            health_path: options.health_path.clone(),
            break_at: options.break_at,
            image: built.into(),
            staged: staged.into(),
            project: project.into(),
        },
    );

    Pipeline::builder("django-delivery")
        .job(prepare)
        .job(test)
        .job(lint)
        .job(coverage)
        .job(image)
        .job(deploy)
        .build()
        .map_err(|error| Stop::new(Exit::Plan, &error))
}

/// One part of what was found out, as a value of its own.
fn part(
    project: &Output<Inspected>,
    pick: fn(Inspected) -> String,
) -> impl Step<Output = String> + use<> {
    let handle = project.clone();
    step_fn(move |cx| {
        let value = cx.value(&handle).map(pick);
        async move {
            let value = value?;
            cx.summary(&value);
            Ok(value)
        }
    })
    .reads(project)
}

/// Unique for each commit and content, and the same when both are the same: then there is
/// nothing to push.
fn tag_policy() -> Result<TagPolicy, Stop> {
    TagPolicy::template("{branch}-{revision:7}-{digest:8}")
        .map_err(|error| Stop::new(Exit::Plan, &error))
}

pub(crate) fn deploy_folder(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("deploy")
}
