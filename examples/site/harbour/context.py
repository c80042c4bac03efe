"""Values that every template can use."""
from django.conf import settings


def release(request):
    return {"release": settings.RELEASE}
