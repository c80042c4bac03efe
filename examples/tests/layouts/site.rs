//! The site that the layouts are variations of.

use super::layout::{Expect, Layout};

/// A project with one package for settings and one app, flat, served by WhiteNoise, with four
/// tests in `tests.py`; no pytest and no requirements file yet.
pub(super) fn site(name: &'static str, package: &str, app: &str, page: &'static str) -> Layout {
    let fill = |text: &str| {
        text.replace("@package@", package)
            .replace("@Config@", &capital(app))
            .replace("@app@", app)
            .replace("@title@", page)
    };
    let files = [
        ("manage.py", MANAGE),
        ("@package@/__init__.py", ""),
        ("@package@/settings.py", SETTINGS),
        ("@package@/urls.py", URLS),
        ("@package@/wsgi.py", WSGI),
        ("@app@/__init__.py", ""),
        ("@app@/apps.py", APPS),
        ("@app@/models.py", MODELS),
        ("@app@/views.py", VIEWS),
        ("@app@/tests.py", TESTS),
        ("@app@/migrations/__init__.py", ""),
        ("@app@/migrations/0001_initial.py", INITIAL),
        ("@app@/migrations/0002_rows.py", ROWS),
        ("@app@/templates/@app@/index.html", INDEX),
        ("@app@/static/@app@/style.css", STYLE),
        (
            ".gitignore",
            "*.sqlite3\n__pycache__/\nstaticfiles/\nvenv/\n",
        ),
    ];
    Layout {
        name,
        about: "",
        args: Vec::new(),
        expect: Expect::Live,
        page,
        static_path: None,
        tests: 4,
        files: files
            .iter()
            .map(|(path, text)| (fill(path), fill(text).into_bytes()))
            .collect(),
    }
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}

const MANAGE: &str = r#"#!/usr/bin/env python
"""Django's command-line utility for administrative tasks."""
import os
import sys


def main():
    """Run administrative tasks."""
    os.environ.setdefault('DJANGO_SETTINGS_MODULE', '@package@.settings')
    try:
        from django.core.management import execute_from_command_line
    except ImportError as exc:
        raise ImportError("Django is not installed in this environment.") from exc
    execute_from_command_line(sys.argv)


if __name__ == '__main__':
    main()
"#;

const SETTINGS: &str = r#"from pathlib import Path
import os

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get('SECRET_KEY', 'only-for-tests-and-trials')
DEBUG = False
ALLOWED_HOSTS = os.environ.get('ALLOWED_HOSTS', 'localhost,127.0.0.1').split(',')

INSTALLED_APPS = [
    'django.contrib.contenttypes',
    'django.contrib.auth',
    'django.contrib.staticfiles',
    '@app@.apps.@Config@Config',
]

MIDDLEWARE = [
    'django.middleware.security.SecurityMiddleware',
    'whitenoise.middleware.WhiteNoiseMiddleware',
    'django.middleware.common.CommonMiddleware',
    'django.middleware.csrf.CsrfViewMiddleware',
]

ROOT_URLCONF = '@package@.urls'

TEMPLATES = [
    {
        'BACKEND': 'django.template.backends.django.DjangoTemplates',
        'DIRS': [],
        'APP_DIRS': True,
        'OPTIONS': {'context_processors': ['django.template.context_processors.request']},
    },
]

WSGI_APPLICATION = '@package@.wsgi.application'

DATABASES = {
    'default': {
        'ENGINE': 'django.db.backends.sqlite3',
        'NAME': BASE_DIR / 'db.sqlite3',
    }
}

DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'
USE_TZ = True

STATIC_URL = '/static/'
STATIC_ROOT = BASE_DIR / 'staticfiles'
"#;

const URLS: &str = r#"from django.urls import path

from @app@ import views

urlpatterns = [
    path('', views.index, name='index'),
    path('<int:pk>/', views.detail, name='detail'),
]
"#;

const WSGI: &str = r#"import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault('DJANGO_SETTINGS_MODULE', '@package@.settings')

application = get_wsgi_application()
"#;

const APPS: &str = r#"from django.apps import AppConfig


class @Config@Config(AppConfig):
    name = '@app@'
"#;

const MODELS: &str = r#"from django.db import models


class Entry(models.Model):
    title = models.CharField(max_length=100)

    class Meta:
        ordering = ['title']

    def __str__(self):
        return self.title
"#;

const VIEWS: &str = r#"from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render

from @app@.models import Entry


def index(request):
    return render(request, '@app@/index.html', {'entries': Entry.objects.all()})


def detail(request, pk):
    return HttpResponse(get_object_or_404(Entry, pk=pk).title, content_type='text/plain')
"#;

const TESTS: &str = r#"from django.contrib.staticfiles import finders
from django.test import TestCase
from django.urls import reverse

from @app@.models import Entry


class EntryTests(TestCase):
    def test_rows_come_with_the_migrations(self):
        self.assertEqual(Entry.objects.count(), 2)

    def test_index_lists_entries(self):
        response = self.client.get(reverse('index'))
        self.assertContains(response, 'First of @title@')

    def test_detail(self):
        entry = Entry.objects.create(title='Another')
        self.assertContains(self.client.get(reverse('detail', args=[entry.pk])), 'Another')

    def test_style_is_found(self):
        self.assertIsNotNone(finders.find('@app@/style.css'))
"#;

const INITIAL: &str = r#"from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name='Entry',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('title', models.CharField(max_length=100)),
            ],
            options={'ordering': ['title']},
        ),
    ]
"#;

const ROWS: &str = r#"from django.db import migrations


def add_rows(apps, schema_editor):
    Entry = apps.get_model('@app@', 'Entry')
    for title in ('First of @title@', 'Second of @title@'):
        Entry.objects.get_or_create(title=title)


class Migration(migrations.Migration):

    dependencies = [('@app@', '0001_initial')]

    operations = [migrations.RunPython(add_rows, migrations.RunPython.noop)]
"#;

const INDEX: &str = r#"{% load static %}<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>@title@</title><link rel="stylesheet" href="{% static '@app@/style.css' %}"></head>
<body>
<h1>@title@</h1>
<ul>{% for entry in entries %}<li><a href="{% url 'detail' entry.pk %}">{{ entry }}</a></li>{% endfor %}</ul>
</body>
</html>
"#;

const STYLE: &str = "body { font-family: sans-serif; margin: 3rem; }\n";
