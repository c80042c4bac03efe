from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import TestCase
from django.urls import reverse

from lettings.models import Address, Letting
from profiles.models import Profile


class LettingModelTests(TestCase):
    def test_text_of_an_address(self):
        address = Address(street="Quay Street", number=4, town="Saltmouth", postcode="SM1 2AB")
        self.assertEqual(str(address), "4 Quay Street, Saltmouth SM1 2AB")

    def test_house_numbers_begin_at_one(self):
        address = Address(street="Quay Street", number=0, town="Saltmouth", postcode="SM1 2AB")
        with self.assertRaises(ValidationError):
            address.full_clean()

    def test_an_address_exists_once(self):
        place = {"street": "Mast Row", "number": 9, "postcode": "SM1 9ZZ"}
        Address.objects.create(town="Saltmouth", **place)
        with self.assertRaises(IntegrityError), transaction.atomic():
            Address.objects.create(town="Elsewhere", **place)

    def test_yearly_rent(self):
        self.assertEqual(Letting(monthly_rent=950).yearly_rent, 11400)


class LettingPageTests(TestCase):
    def test_first_rows_come_with_the_migrations(self):
        self.assertEqual(Letting.objects.count(), 6)

    def test_list_shows_every_letting(self):
        response = self.client.get(reverse("lettings:index"))
        for letting in Letting.objects.all():
            self.assertContains(response, letting.get_absolute_url())

    def test_list_can_ask_for_beds(self):
        response = self.client.get(reverse("lettings:index"), {"beds": "3"})
        self.assertTrue(response.context["lettings"])
        self.assertTrue(all(letting.beds >= 3 for letting in response.context["lettings"]))

    def test_a_meaningless_number_of_beds_is_ignored(self):
        response = self.client.get(reverse("lettings:index"), {"beds": "many"})
        self.assertEqual(len(response.context["lettings"]), 6)

    def test_detail_shows_address_host_and_rent(self):
        host = Profile.objects.create(name="Tide House", slug="tide-house", since=2020)
        address = Address.objects.create(
            street="Rope Walk", number=12, town="Saltmouth", postcode="SM3 4CD"
        )
        letting = Letting.objects.create(
            title="Sail loft", slug="sail-loft-test", address=address, host=host, monthly_rent=700
        )
        response = self.client.get(letting.get_absolute_url())
        self.assertContains(response, "12 Rope Walk, Saltmouth SM3 4CD")
        self.assertContains(response, host.get_absolute_url())
        self.assertContains(response, "£700")

    def test_unknown_letting_is_404(self):
        self.assertEqual(self.client.get("/lettings/castle/").status_code, 404)
