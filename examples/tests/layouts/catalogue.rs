//! The projects, each with the one thing that makes it different.

use super::layout::{Expect, Layout};
use super::site::site;

const PLAIN: &str = "Django==5.2.19\nwhitenoise==6.12.0\n";

/// Every layout.
pub(crate) fn all() -> Vec<Layout> {
    vec![
        utf16_requirements(),
        src_folder(),
        hashed_requirements(),
        setup_cfg(),
        pytest_ini(),
        no_pytest(),
        failing_test(),
        missing_requirements(),
        split_settings(),
        disallowed_host(),
        latin1_requirements(),
        two_projects(),
    ]
}

/// Flat; requirements in UTF-16 with a byte order mark and CRLF, as Windows PowerShell writes
/// them, with pytest-django and flake8 listed and no configuration for either.
pub(crate) fn utf16_requirements() -> Layout {
    let text = "# Dépendances du site\r\nDjango==5.2.19\r\nwhitenoise==6.12.0\r\n\
                pytest==9.2.0\r\npytest-django==4.14.0\r\nflake8==7.4.1\r\n";
    let bytes: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut layout = site("utf16-requirements", "library", "books", "Village library");
    layout.about = "requirements.txt in UTF-16 LE with byte order mark and CRLF";
    layout.static_path = Some("/static/books/style.css");
    layout.with("requirements.txt", bytes)
}

/// Everything in `src/`, the requirements at the root, tests in the style of pytest in a folder
/// of their own with a `conftest.py`.
pub(crate) fn src_folder() -> Layout {
    let mut layout = site("src-folder", "shop", "goods", "Corner shop");
    layout.about = "the project is in src/, its tests are pytest functions";
    layout.args = vec!["--app-dir", "src"];
    layout.static_path = Some("/static/goods/style.css");
    layout.tests = 4;
    layout
        .without("goods/tests.py")
        .with(
            "conftest.py",
            "import pytest\n\nfrom goods.models import Entry\n\n\n@pytest.fixture\ndef entry(db):\n    \
             return Entry.objects.create(title='Another')\n",
        )
        .with(
            "tests/test_pages.py",
            "import pytest\nfrom django.urls import reverse\n\n\n\
             @pytest.mark.django_db\ndef test_index(client):\n    \
             assert 'First of Corner shop' in client.get('/').content.decode()\n\n\n\
             def test_detail(client, entry):\n    \
             assert client.get(reverse('detail', args=[entry.pk])).content == b'Another'\n\n\n\
             @pytest.mark.parametrize('pk', [999, 1000])\ndef test_unknown(client, db, pk):\n    \
             assert client.get(f'/{pk}/').status_code == 404\n",
        )
        .moved_to("src")
        .with("requirements.txt", PLAIN)
        .with("README.md", "The site is in `src`.\n")
}

/// Requirements with a hash for every file, so pip checks them all.
pub(crate) fn hashed_requirements() -> Layout {
    let mut layout = site("hashed-requirements", "recipes", "dishes", "Family recipes");
    layout.about = "requirements.txt with hashes on continued lines";
    layout.static_path = Some("/static/dishes/style.css");
    layout.with("requirements.txt", HASHED)
}

/// pytest configured in `setup.cfg`, with options that need a plugin.
pub(crate) fn setup_cfg() -> Layout {
    let mut layout = site("setup-cfg", "events", "agenda", "Town events");
    layout.about = "setup.cfg with [tool:pytest], addopts that need pytest-cov, and [flake8]";
    layout.static_path = Some("/static/agenda/style.css");
    layout.with("requirements.txt", PLAIN).with(
        "setup.cfg",
        "[flake8]\nexclude = */migrations/*,venv\nmax-line-length = 120\n\n\
             [tool:pytest]\nDJANGO_SETTINGS_MODULE = events.settings\n\
             python_files = tests.py test_*.py\naddopts =\n    --strict-markers\n    \
             --cov=agenda\n    --cov-report=term\n",
    )
}

/// pytest configured in `pytest.ini`; the settings are named there and not in `manage.py`.
pub(crate) fn pytest_ini() -> Layout {
    let mut layout = site("pytest-ini", "journal", "posts", "Garden journal");
    layout.about = "pytest.ini names settings for tests; requirements have a BOM and CRLF";
    layout.static_path = Some("/static/posts/style.css");
    layout
        .with(
            "requirements.txt",
            "\u{feff}Django>=5.2,<5.3\r\nwhitenoise~=6.9\r\n",
        )
        .with(
            "pytest.ini",
            "[pytest]\r\nDJANGO_SETTINGS_MODULE = journal.settings_test\r\npython_files = tests.py\r\n",
        )
        .with(
            "journal/settings_test.py",
            "from .settings import *  # noqa: F401,F403\n\n\
             PASSWORD_HASHERS = ['django.contrib.auth.hashers.MD5PasswordHasher']\n",
        )
}

/// A beginner's project: nothing of pytest, `DEBUG` on, no `STATIC_ROOT`, no hosts, the
/// database named relative to the folder the site starts in.
pub(crate) fn no_pytest() -> Layout {
    let mut layout = site("no-pytest", "mysite", "polls", "First polls");
    layout.about = "only django.test.TestCase, no STATIC_ROOT, DEBUG on";
    layout
        .edit("mysite/settings.py", "DEBUG = False", "DEBUG = True")
        .edit(
            "mysite/settings.py",
            "ALLOWED_HOSTS = os.environ.get('ALLOWED_HOSTS', 'localhost,127.0.0.1').split(',')",
            "ALLOWED_HOSTS = []",
        )
        .edit(
            "mysite/settings.py",
            "STATIC_ROOT = BASE_DIR / 'staticfiles'\n",
            "",
        )
        .edit(
            "mysite/settings.py",
            "    'whitenoise.middleware.WhiteNoiseMiddleware',\n",
            "",
        )
        .edit(
            "mysite/settings.py",
            "BASE_DIR / 'db.sqlite3'",
            "'db.sqlite3'",
        )
        .with("requirements.txt", "django==5.2.19\n")
}

/// One of its five tests fails.
pub(crate) fn failing_test() -> Layout {
    let mut layout = site("failing-test", "clinic", "visits", "Vet clinic");
    layout.about = "one test fails";
    layout.expect = Expect::TestsFail;
    layout.tests = 5;
    layout.with("requirements.txt", PLAIN).with(
        "visits/test_opening.py",
        "def test_open_on_sunday():\n    opening_days = ['Monday', 'Friday']\n    \
             assert 'Sunday' in opening_days\n",
    )
}

/// No requirements file in any form.
pub(crate) fn missing_requirements() -> Layout {
    let mut layout = site("missing-requirements", "archive", "papers", "Paper archive");
    layout.about = "no requirements file";
    layout.expect = Expect::PlanError("requirements.txt");
    layout
}

/// Settings in three files: `manage.py` uses those for development, `wsgi.py` those for
/// production, which take what is secret from the environment and fail without it.
pub(crate) fn split_settings() -> Layout {
    let mut layout = site("split-settings", "config", "tickets", "Help desk");
    layout.about = "config/settings/{base,dev,prod}.py and requirements/{base,dev,prod}.txt";
    layout.static_path = Some("/static/tickets/style.css");
    layout.args = vec![
        "--secret",
        "SECRET_KEY=a-key-for-this-trial-only",
        "--env",
        "ALLOWED_HOSTS=localhost,127.0.0.1",
    ];
    let base = layout
        .files
        .iter()
        .find(|(path, _)| path == "config/settings.py")
        .map(|(_, content)| String::from_utf8(content.clone()).expect("a text file"))
        .expect("settings");
    let base = base
        .replace("parent.parent", "parent.parent.parent")
        .replace(
            "SECRET_KEY = os.environ.get('SECRET_KEY', 'only-for-tests-and-trials')\nDEBUG = False\n\
             ALLOWED_HOSTS = os.environ.get('ALLOWED_HOSTS', 'localhost,127.0.0.1').split(',')\n",
            "",
        )
        .replace("import os\n", "");
    assert!(!base.contains("os.environ"), "base settings read nothing");
    layout
        .without("config/settings.py")
        .with("config/settings/__init__.py", "")
        .with("config/settings/base.py", base)
        .with(
            "config/settings/dev.py",
            "from .base import *  # noqa: F401,F403\n\nSECRET_KEY = 'dev'\nDEBUG = True\nALLOWED_HOSTS = ['*']\n",
        )
        .with(
            "config/settings/prod.py",
            "import os\n\nfrom .base import *  # noqa: F401,F403\n\n\
             SECRET_KEY = os.environ['SECRET_KEY']\nDEBUG = False\n\
             ALLOWED_HOSTS = os.environ['ALLOWED_HOSTS'].split(',')\n",
        )
        .edit("manage.py", "config.settings", "config.settings.dev")
        .edit("config/wsgi.py", "config.settings", "config.settings.prod")
        .with("requirements/base.txt", "Django==5.2.19\n")
        .with("requirements/prod.txt", "-r base.txt\nwhitenoise==6.12.0\n")
        .with("requirements/dev.txt", "-r prod.txt\npytest==9.2.0\npytest-django==4.14.0\n")
        .with(
            "pyproject.toml",
            "[tool.pytest.ini_options]\nDJANGO_SETTINGS_MODULE = \"config.settings.dev\"\n\
             python_files = [\"tests.py\"]\n",
        )
}

/// Only its public name is allowed as host, so a probe by address is refused.
pub(crate) fn disallowed_host() -> Layout {
    let mut layout = site("disallowed-host", "museum", "rooms", "Small museum");
    layout.about = "ALLOWED_HOSTS does not hold the address it is probed at";
    layout.expect = Expect::Unhealthy("DisallowedHost");
    layout
        .edit(
            "museum/settings.py",
            "os.environ.get('ALLOWED_HOSTS', 'localhost,127.0.0.1').split(',')",
            "['www.museum.example']",
        )
        .with("requirements.txt", PLAIN)
}

/// Requirements in Latin-1 with an accent in a comment: pip itself cannot read them where the
/// locale is UTF-8.
pub(crate) fn latin1_requirements() -> Layout {
    let mut layout = site("latin1-requirements", "cinema", "films", "Late cinema");
    layout.about = "requirements.txt in Latin-1";
    layout.static_path = Some("/static/films/style.css");
    layout.with(
        "requirements.txt",
        b"# cin\xe9ma\r\nDjango==5.2.19\r\nwhitenoise==6.12.0\r\n".to_vec(),
    )
}

/// Two projects side by side, so one has to be chosen.
pub(crate) fn two_projects() -> Layout {
    let mut layout = site("two-projects", "front", "pages", "Front office").moved_to("front");
    let back = site("", "back", "stock", "Back office").moved_to("back");
    layout.about = "two folders with manage.py";
    layout.expect = Expect::PlanError("--app-dir");
    layout.files.extend(back.files);
    layout.with("requirements.txt", PLAIN)
}

const HASHED: &str = "\
asgiref==3.12.1 \\
    --hash=sha256:fe386d1c2bff7259ea95929266d12a8cf9a8b5a1c2598402967d8792e7a7c094
    # via django
django==5.2.19 \\
    --hash=sha256:5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00
    # via -r requirements.in
sqlparse==0.6.1 \\
    --hash=sha256:3be5a72d04c873d690d7c6dedd33d6fae2ef82759881ceec02fc2efd0cba564f
    # via django
typing-extensions==4.16.0 ; python_version < \"3.11\" \\
    --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
    # via asgiref
whitenoise==6.12.0 \\
    --hash=sha256:fc5e8c572e33ebf24795b47b6a7da8da3c00cff2349f5b04c02f28d0cc5a3cc2
    # via -r requirements.in
";
