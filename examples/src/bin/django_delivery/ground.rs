//! What a run stands on: data folder, repository, commit, facts.

use std::path::{Path, PathBuf};

use pipeline_core::{
    RunFacts, Runner,
    source::{Commit, Repository, SourceError},
};
use pipeline_deploy::local::SupervisorCommand;

use crate::{Exit, Stop, args::Options, inherited};

/// Branch of a plain folder when none is named.
const FOLDER_BRANCH: &str = "main";

pub(crate) struct Ground {
    pub(crate) repository: Repository,
    pub(crate) commit: Commit,
    pub(crate) project: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) supervisor: SupervisorCommand,
    pub(crate) facts: RunFacts,
}

impl Ground {
    pub(crate) async fn prepare(options: &Options, resume: Option<&str>) -> Result<Self, Stop> {
        let data_dir = std::path::absolute(&options.data_dir)
            .map_err(|error| Stop::new(Exit::Infrastructure, &error))?;
        let recorded = match resume {
            None => None,
            Some(run) => Some(
                Runner::facts_of(&data_dir, run).map_err(|error| Stop::new(Exit::Plan, &error))?,
            ),
        };
        let source = options.source.clone().unwrap_or_else(sample_site);
        let project = project_name(&source);
        let (repository, branch) = repository(options, &source, &data_dir).await?;
        let commit = match &recorded {
            // What is resumed is that commit, wherever the branch is now.
            Some(facts) => Commit::new(facts.revision.clone().unwrap_or_default())
                .with_branch(facts.branch.clone())
                .with_tag(facts.tag.clone()),
            None => repository
                .find(branch.as_deref())
                .await
                .map_err(|error| stop(&error))?,
        };
        let address = repository.display_address();
        if let Some(facts) = &recorded
            && facts.repository.as_ref() != Some(&address)
        {
            let then = facts.repository.as_deref().unwrap_or("another source");
            return Err(Stop(
                Exit::Plan,
                format!("that run built {then}, not {address}; start a new run"),
            ));
        }
        let facts = recorded.unwrap_or_else(|| {
            let mut facts = RunFacts::new()
                .with_revision(&commit.revision)
                .with_project(&project)
                .with_repository(repository.address());
            facts.branch = commit.branch.clone();
            facts.tag = commit.tag.clone();
            facts
        });
        let program =
            std::env::current_exe().map_err(|error| Stop::new(Exit::Infrastructure, &error))?;
        let supervisor = SupervisorCommand::new(program).with_arg("supervise");
        Ok(Self {
            repository,
            commit,
            project,
            data_dir,
            supervisor,
            facts,
        })
    }
}

/// The site that ships with the examples.
fn sample_site() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/site").to_owned()
}

/// The repository, and what to look for in it.
async fn repository(
    options: &Options,
    source: &str,
    data_dir: &Path,
) -> Result<(Repository, Option<String>), Stop> {
    let is_address =
        source.contains("://") || (!Path::new(source).exists() && source.contains(':'));
    if is_address {
        return Ok((Repository::new(source, inherited()), options.branch.clone()));
    }
    let folder = std::fs::canonicalize(source)
        .map_err(|error| Stop(Exit::Plan, format!("--source {source}: {error}")))?;
    if Repository::is_repository(&folder, &inherited()).await {
        let repository = Repository::new(folder.to_string_lossy(), inherited());
        if Repository::has_uncommitted_changes(&folder, &inherited()).await {
            crate::say(format!(
                "warning: {} has changes that are not committed; commits are built, so they are not in it\n",
                folder.display()
            ));
        }
        return Ok((repository, options.branch.clone()));
    }
    if !folder.is_dir() {
        return Err(Stop(
            Exit::Plan,
            format!("--source {source}: neither a folder nor a repository"),
        ));
    }
    // A repository of its own per folder and branch name.
    let key = pipeline_examples::short_hash(&[folder.to_string_lossy().as_bytes()]);
    let home = data_dir.join("sources");
    std::fs::create_dir_all(&home).map_err(|error| {
        Stop(
            Exit::Infrastructure,
            format!("could not make {}: {error}", home.display()),
        )
    })?;
    let inside = data_dir.strip_prefix(&folder).map(Path::to_owned).ok();
    let exclude: Vec<PathBuf> = inside.into_iter().collect();
    let branch = options.branch.as_deref().unwrap_or(FOLDER_BRANCH);
    Repository::import_folder(
        &folder,
        &home.join(format!("{key}.git")),
        branch,
        &exclude,
        inherited(),
    )
    .await
    .map(|repository| (repository, Some(branch.to_owned())))
    .map_err(|error| stop(&error))
}

fn stop(error: &SourceError) -> Stop {
    let exit = match error {
        SourceError::NoSuchReference { .. }
        | SourceError::Empty(_)
        | SourceError::BranchName(_)
        | SourceError::NestedRepository { .. } => Exit::Plan,
        _ => Exit::Infrastructure,
    };
    Stop::new(exit, error)
}

/// The last part of a path or an address, without `.git`.
fn project_name(source: &str) -> String {
    let path = source.trim_end_matches('/').trim_end_matches(".git");
    let name = path.rsplit(['/', ':']).next().unwrap_or_default();
    if matches!(name, "" | "." | "..") {
        let absolute = std::fs::canonicalize(source).ok();
        let name = absolute
            .as_ref()
            .and_then(|path| path.file_name()?.to_str());
        return name.unwrap_or("site").to_owned();
    }
    name.to_owned()
}
