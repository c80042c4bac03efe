from django.core.validators import MinValueValidator
from django.db import models
from django.urls import reverse


class Address(models.Model):
    """Where a home is."""

    street = models.CharField(max_length=80)
    number = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    town = models.CharField(max_length=60)
    postcode = models.CharField(max_length=12)

    class Meta:
        verbose_name_plural = "addresses"
        constraints = [
            models.UniqueConstraint(
                fields=["street", "number", "postcode"], name="one_row_per_address"
            ),
        ]

    def __str__(self):
        return f"{self.number} {self.street}, {self.town} {self.postcode}"


class Letting(models.Model):
    """A home to let."""

    title = models.CharField(max_length=120)
    slug = models.SlugField(max_length=120, unique=True)
    address = models.OneToOneField(Address, on_delete=models.PROTECT)
    host = models.ForeignKey(
        "profiles.Profile", on_delete=models.CASCADE, related_name="lettings"
    )
    beds = models.PositiveSmallIntegerField(default=1)
    monthly_rent = models.PositiveIntegerField(help_text="whole pounds a month")

    class Meta:
        ordering = ["title"]

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        return reverse("lettings:detail", args=[self.slug])

    @property
    def yearly_rent(self):
        return self.monthly_rent * 12
