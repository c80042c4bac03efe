from django.db.models import Count
from django.shortcuts import get_object_or_404, render

from profiles.models import Profile


def index(request):
    profiles = Profile.objects.annotate(letting_count=Count("lettings"))
    return render(request, "profiles/index.html", {"profiles": profiles})


def detail(request, slug):
    profile = get_object_or_404(Profile.objects.prefetch_related("lettings"), slug=slug)
    return render(request, "profiles/detail.html", {"profile": profile})
