from django.db import migrations

HOSTS = [
    ("Quayside Cooperative", "quayside-cooperative", 1998, "Members own the houses they let."),
    ("Lighthouse Trust", "lighthouse-trust", 1974, "Keeps old keepers' cottages in use."),
    ("North Pier Homes", "north-pier-homes", 2015, "Flats in the former fish market."),
]


def add_hosts(apps, schema_editor):
    Profile = apps.get_model("profiles", "Profile")
    for name, slug, since, about in HOSTS:
        Profile.objects.get_or_create(
            slug=slug, defaults={"name": name, "since": since, "about": about}
        )


class Migration(migrations.Migration):
    dependencies = [("profiles", "0001_initial")]
    # Going back keeps the rows: by then they may be somebody's work.
    operations = [migrations.RunPython(add_hosts, migrations.RunPython.noop)]
