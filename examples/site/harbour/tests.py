from unittest import mock

from django.contrib.staticfiles import finders
from django.db import DatabaseError
from django.test import SimpleTestCase, TestCase, override_settings
from django.urls import reverse


class HomeTests(TestCase):
    def test_front_page_links_to_both_apps(self):
        response = self.client.get("/")
        self.assertContains(response, 'href="/lettings/"')
        self.assertContains(response, 'href="/profiles/"')

    def test_front_page_names_the_stylesheet(self):
        self.assertContains(self.client.get("/"), "/static/css/site.css")

    def test_front_page_counts_what_the_database_holds(self):
        response = self.client.get("/")
        self.assertContains(response, "6 homes")
        self.assertContains(response, "3 hosts")

    def test_unknown_address_is_a_friendly_404(self):
        response = self.client.get("/nowhere/")
        self.assertContains(response, "No such page", status_code=404)

    @override_settings(RELEASE="r42")
    def test_footer_names_the_release(self):
        self.assertContains(self.client.get("/"), "release r42")


class HealthTests(TestCase):
    def test_healthy_when_the_database_answers(self):
        response = self.client.get(reverse("healthz"))
        self.assertEqual(response.status_code, 200)
        self.assertEqual(response.json(), {"status": "ok"})

    def test_not_healthy_when_the_database_is_gone(self):
        with mock.patch("harbour.views.connection.cursor", side_effect=DatabaseError("gone")):
            response = self.client.get(reverse("healthz"))
        self.assertEqual(response.status_code, 503)

    @override_settings(ALLOWED_HOSTS=["lettings.example"])
    def test_a_foreign_host_name_is_refused(self):
        response = self.client.get("/healthz", headers={"host": "other.example"})
        self.assertEqual(response.status_code, 400)


class StaticTests(SimpleTestCase):
    def test_stylesheet_and_icon_are_found(self):
        self.assertIsNotNone(finders.find("css/site.css"))
        self.assertIsNotNone(finders.find("img/harbour.svg"))
