"""The front page and the health page."""
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from lettings.models import Letting
from profiles.models import Profile


def home(request):
    return render(
        request,
        "home.html",
        {
            "letting_count": Letting.objects.count(),
            "profile_count": Profile.objects.count(),
            "cheapest": Letting.objects.order_by("monthly_rent").first(),
        },
    )


@never_cache
def healthz(request):
    """Healthy means: this process runs and its database answers."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except DatabaseError:
        return JsonResponse({"status": "database unavailable"}, status=503)
    answer = {"status": "ok"}
    if settings.RELEASE:
        answer["release"] = settings.RELEASE
    return JsonResponse(answer)
