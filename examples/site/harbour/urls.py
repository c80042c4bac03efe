"""Addresses of the site."""
from django.contrib import admin
from django.urls import include, path

from harbour import views

urlpatterns = [
    path("", views.home, name="home"),
    path("lettings/", include("lettings.urls")),
    path("profiles/", include("profiles.urls")),
    path("healthz", views.healthz, name="healthz"),
    path("admin/", admin.site.urls),
]
