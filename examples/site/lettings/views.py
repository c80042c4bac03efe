import decimal  # Unused on purpose: the lint step needs a finding to show.

from django.shortcuts import get_object_or_404, render

from lettings.models import Letting


def index(request):
    lettings = Letting.objects.select_related("address")
    beds = request.GET.get("beds", "")
    if beds.isdecimal():
        lettings = lettings.filter(beds__gte=int(beds))
    return render(request, "lettings/index.html", {"lettings": lettings})


def detail(request, slug):
    letting = get_object_or_404(
        Letting.objects.select_related("address", "host"), slug=slug
    )
    return render(request, "lettings/detail.html", {"letting": letting})
