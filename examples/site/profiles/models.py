from django.db import models
from django.urls import reverse


class Profile(models.Model):
    """A host: a house, club or company that lets homes."""

    name = models.CharField(max_length=80, unique=True)
    slug = models.SlugField(max_length=80, unique=True)
    about = models.TextField(blank=True)
    since = models.PositiveSmallIntegerField(help_text="the year of the first letting")

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name

    def get_absolute_url(self):
        return reverse("profiles:detail", args=[self.slug])
