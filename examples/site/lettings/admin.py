from django.contrib import admin

from lettings.models import Address, Letting

admin.site.register(Address)


@admin.register(Letting)
class LettingAdmin(admin.ModelAdmin):
    list_display = ["title", "host", "beds", "monthly_rent"]
    prepopulated_fields = {"slug": ["title"]}
