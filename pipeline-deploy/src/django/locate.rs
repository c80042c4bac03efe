//! Where the parts of a Django project are.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::find_error::FindError;
use super::python_source::{Given, PythonSource};
use super::text::DecodedText;

pub(super) const SETTINGS_VARIABLE: &str = "DJANGO_SETTINGS_MODULE";

/// Requirements files by custom, for a deploy the production one first.
const REQUIREMENTS: [&str; 9] = [
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
    "requirements/common.txt",
    "requirements/requirements.txt",
    "requirements/main.txt",
    "requirements-prod.txt",
    "requirements/dev.txt",
];

/// Other ways to pin dependencies, with a command that makes a requirements file of them.
const OTHER_FORMS: [(&str, &str); 5] = [
    (
        "uv.lock",
        "uv export --format requirements-txt -o requirements.txt",
    ),
    (
        "poetry.lock",
        "poetry export -f requirements.txt -o requirements.txt",
    ),
    ("Pipfile.lock", "pipenv requirements > requirements.txt"),
    (
        "Pipfile",
        "pipenv lock && pipenv requirements > requirements.txt",
    ),
    (
        "pyproject.toml",
        "pip-compile -o requirements.txt pyproject.toml",
    ),
];

/// A path given by a person, relative to the root and without dots.
pub(super) fn inside(root: &Path, given: &Path) -> Result<PathBuf, FindError> {
    let outside = || FindError::Outside {
        path: given.to_owned(),
    };
    let relative = if given.is_absolute() {
        given.strip_prefix(root).map_err(|_| outside())?
    } else {
        given
    };
    let mut clean = PathBuf::new();
    for part in relative.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                if !clean.pop() {
                    return Err(outside());
                }
            }
            _ => return Err(outside()),
        }
    }
    Ok(clean)
}

/// The folder with `manage.py`, relative to the root.
pub(super) fn app_dir(root: &Path, given: Option<&Path>) -> Result<PathBuf, FindError> {
    if !root.is_dir() {
        return Err(FindError::NoRoot {
            root: root.to_owned(),
        });
    }
    if let Some(given) = given {
        let dir = inside(root, given)?;
        return if has_manage_py(root, &dir)? {
            Ok(dir)
        } else {
            Err(FindError::NoManagePyInAppDir {
                app_dir: given.to_owned(),
            })
        };
    }
    if has_manage_py(root, Path::new(""))? {
        return Ok(PathBuf::new());
    }
    let mut level = folders(root, Path::new(""))?;
    let mut candidates = with_manage_py(root, &level)?;
    match candidates.len() {
        1 => return Ok(candidates.remove(0)),
        0 => {}
        _ => {
            return Err(FindError::SeveralManagePy {
                root: root.to_owned(),
                candidates,
            });
        }
    }
    let mut deeper = Vec::new();
    for _ in 0..2 {
        let mut next = Vec::new();
        for dir in &level {
            next.extend(folders(root, dir)?);
        }
        deeper.extend(with_manage_py(root, &next)?);
        level = next;
    }
    Err(FindError::NoManagePy {
        root: root.to_owned(),
        deeper,
    })
}

fn with_manage_py(root: &Path, dirs: &[PathBuf]) -> Result<Vec<PathBuf>, FindError> {
    let mut found = Vec::new();
    for dir in dirs {
        if has_manage_py(root, dir)? {
            found.push(dir.clone());
        }
    }
    Ok(found)
}

/// Whether the folder has a `manage.py` of Django; other frameworks use the name as well.
fn has_manage_py(root: &Path, dir: &Path) -> Result<bool, FindError> {
    let Some(source) = python(root, &dir.join("manage.py"))? else {
        return Ok(false);
    };
    Ok(source.mentions("execute_from_command_line") || source.has_text(SETTINGS_VARIABLE))
}

/// The folders in a folder that may hold a project's code, sorted.
pub(super) fn folders(root: &Path, dir: &Path) -> Result<Vec<PathBuf>, FindError> {
    let path = root.join(dir);
    let read = |source| FindError::Read {
        path: path.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        let is_folder = entry.file_type().map_err(read)?.is_dir();
        let is_foreign = text.starts_with('.')
            || ["node_modules", "site-packages", "__pycache__"].contains(&text)
            || entry.path().join("pyvenv.cfg").exists();
        if is_folder && !is_foreign {
            found.push(dir.join(text));
        }
    }
    found.sort();
    Ok(found)
}

/// A Python file's tokens; nothing if there is no such file.
pub(super) fn python(root: &Path, file: &Path) -> Result<Option<PythonSource>, FindError> {
    let path = root.join(file);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|source| FindError::Read { path, source })?;
    // A file that is not text holds nothing to find.
    Ok(DecodedText::decode(&bytes)
        .ok()
        .map(|decoded| PythonSource::new(&decoded.text)))
}

/// The one constant that a file gives the settings variable, if it gives exactly one.
pub(super) fn settings_in(root: &Path, file: &Path) -> Result<Option<String>, FindError> {
    let Some(source) = python(root, file)? else {
        return Ok(None);
    };
    let given = source.environment(SETTINGS_VARIABLE);
    let constants: BTreeSet<_> = given
        .iter()
        .map(|given| match given {
            Given::Constant(module) => Some(module.as_str()),
            Given::Computed => None,
        })
        .collect();
    let mut constants = constants.into_iter();
    match (constants.next(), constants.next()) {
        (Some(Some(module)), None) => Ok(Some(module.to_owned())),
        _ => Ok(None),
    }
}

/// The file of a module, relative to the root, if the app folder has it.
pub(super) fn module_file(root: &Path, app_dir: &Path, module: &str) -> Option<PathBuf> {
    let path: PathBuf = app_dir.join(module.split('.').collect::<PathBuf>());
    let file = path.with_extension("py");
    if root.join(&file).is_file() {
        return Some(file);
    }
    let package = path.join("__init__.py");
    root.join(&package).is_file().then_some(package)
}

/// `WSGI_APPLICATION` of a settings module, looked for through `from … import *` as well.
pub(super) fn wsgi_setting(
    root: &Path,
    app_dir: &Path,
    settings: &str,
) -> Result<Option<String>, FindError> {
    let mut modules = vec![settings.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(module) = modules.pop() {
        let Some(file) = module_file(root, app_dir, &module) else {
            continue;
        };
        if !seen.insert(file.clone()) {
            continue;
        }
        let Some(source) = python(root, &file)? else {
            continue;
        };
        match source.assigned("WSGI_APPLICATION") {
            Some(Given::Constant(application)) => return Ok(Some(application)),
            Some(Given::Computed) => return Ok(None),
            None => {}
        }
        let is_package = file.ends_with("__init__.py");
        let imports = source.star_imports();
        modules.extend(
            imports
                .iter()
                .filter_map(|import| absolute(&module, is_package, import)),
        );
    }
    Ok(None)
}

/// The full name of a module imported relatively.
fn absolute(importer: &str, is_package: bool, import: &str) -> Option<String> {
    let name = import.trim_start_matches('.');
    let dots = import.len() - name.len();
    if dots == 0 {
        return Some(name.to_owned());
    }
    let mut parts: Vec<&str> = importer.split('.').collect();
    for _ in 0..(if is_package { dots - 1 } else { dots }) {
        parts.pop()?;
    }
    parts.extend(name.split('.').filter(|part| !part.is_empty()));
    Some(parts.join("."))
}

/// The module of `wsgi.py`, by custom beside the settings or above them, else the only one.
pub(super) fn wsgi_by_custom(
    root: &Path,
    app_dir: &Path,
    settings: Option<&str>,
) -> Result<String, FindError> {
    let mut looked = Vec::new();
    let mut package: Vec<&str> = settings.unwrap_or_default().split('.').collect();
    while package.pop().is_some() {
        let mut parts = package.clone();
        parts.push("wsgi");
        let file = app_dir
            .join(parts.iter().collect::<PathBuf>())
            .with_extension("py");
        if root.join(&file).is_file() {
            return Ok(parts.join("."));
        }
        looked.push(file);
    }
    let mut candidates = Vec::new();
    for dir in folders(root, app_dir)? {
        for file in [dir.join("wsgi.py"), dir.join("config/wsgi.py")] {
            if root.join(&file).is_file() {
                candidates.push(file);
            }
        }
    }
    match candidates.as_slice() {
        [one] => {
            let relative = one.strip_prefix(app_dir).unwrap_or(one).with_extension("");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            Ok(parts.join("."))
        }
        [] => {
            looked.push(app_dir.join("*/wsgi.py"));
            Err(FindError::NoWsgi { looked })
        }
        _ => Err(FindError::SeveralWsgi { candidates }),
    }
}

/// The requirements file, relative to the root.
pub(super) fn requirements(
    root: &Path,
    app_dir: &Path,
    given: Option<&Path>,
) -> Result<PathBuf, FindError> {
    let is_file = |path: &Path| root.join(path).is_file();
    if let Some(given) = given {
        let in_root = inside(root, given)?;
        let in_app = app_dir.join(&in_root);
        return [in_root, in_app]
            .into_iter()
            .find(|path| is_file(path))
            .ok_or_else(|| FindError::NoSuchRequirements {
                path: given.to_owned(),
            });
    }
    let mut dirs = vec![app_dir];
    if !app_dir.as_os_str().is_empty() {
        dirs.push(Path::new(""));
    }
    let looked: Vec<PathBuf> = REQUIREMENTS
        .iter()
        .flat_map(|name| dirs.iter().map(move |dir| dir.join(name)))
        .collect();
    if let Some(found) = looked.iter().find(|path| is_file(path)) {
        return Ok(found.clone());
    }
    for dir in dirs {
        for (name, export) in OTHER_FORMS {
            let found = dir.join(name);
            if is_file(&found) && (name != "pyproject.toml" || has_dependencies(root, &found)) {
                return Err(FindError::UnsupportedDependencies { found, export });
            }
        }
    }
    Err(FindError::NoRequirements { looked })
}

/// Whether a `pyproject.toml` lists dependencies; many only configure tools.
fn has_dependencies(root: &Path, file: &Path) -> bool {
    let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let Ok(document) = toml::from_str::<toml::Table>(&text) else {
        return false;
    };
    let project = document
        .get("project")
        .and_then(|project| project.get("dependencies"));
    let poetry = document
        .get("tool")
        .and_then(|tool| tool.get("poetry"))
        .and_then(|poetry| poetry.get("dependencies"));
    project.is_some() || poetry.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_imports_become_absolute() {
        let name = |importer, is_package, import| absolute(importer, is_package, import);
        assert_eq!(
            name("config.settings.prod", false, ".base").as_deref(),
            Some("config.settings.base")
        );
        assert_eq!(
            name("config.settings", true, ".base").as_deref(),
            Some("config.settings.base")
        );
        assert_eq!(
            name("config.settings.prod", false, "..common").as_deref(),
            Some("config.common")
        );
        assert_eq!(name("a", false, "b.c").as_deref(), Some("b.c"));
        assert_eq!(name("a", false, "...b"), None);
    }

    #[test]
    fn given_paths_stay_inside() {
        let root = Path::new("/srv/shop");
        assert_eq!(
            inside(root, "./src/../src".as_ref()).unwrap(),
            Path::new("src")
        );
        assert_eq!(
            inside(root, "/srv/shop/src".as_ref()).unwrap(),
            Path::new("src")
        );
        assert_eq!(inside(root, ".".as_ref()).unwrap(), Path::new(""));
        assert!(inside(root, "../other".as_ref()).is_err());
        assert!(inside(root, "/etc".as_ref()).is_err());
    }
}
