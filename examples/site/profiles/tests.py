from django.db import IntegrityError, transaction
from django.test import TestCase
from django.urls import reverse

from profiles.models import Profile


class ProfileModelTests(TestCase):
    def test_text_is_the_name(self):
        self.assertEqual(str(Profile(name="Tide House")), "Tide House")

    def test_slugs_are_unique(self):
        Profile.objects.create(name="Tide House", slug="tide-house", since=2020)
        with self.assertRaises(IntegrityError), transaction.atomic():
            Profile.objects.create(name="Tide House Two", slug="tide-house", since=2021)


class ProfilePageTests(TestCase):
    def test_list_counts_lettings(self):
        response = self.client.get(reverse("profiles:index"))
        self.assertEqual(sum(p.letting_count for p in response.context["profiles"]), 6)

    def test_detail_lists_the_hosts_lettings(self):
        profile = Profile.objects.get(slug="quayside-cooperative")
        response = self.client.get(profile.get_absolute_url())
        for letting in profile.lettings.all():
            self.assertContains(response, letting.get_absolute_url())

    def test_markup_in_a_text_is_escaped(self):
        profile = Profile.objects.create(
            name="Tide House", slug="tide-house", since=2020, about="<script>alert(1)</script>"
        )
        response = self.client.get(profile.get_absolute_url())
        self.assertNotContains(response, "<script>alert")

    def test_unknown_profile_is_404(self):
        self.assertEqual(self.client.get("/profiles/nobody/").status_code, 404)
