from django.db import migrations

LETTINGS = [
    ("Net loft above the quay", "net-loft", "quayside-cooperative", 2, 780,
     (4, "Quay Street", "Saltmouth", "SM1 2AB")),
    ("Ropemaker's terrace", "ropemakers-terrace", "quayside-cooperative", 3, 960,
     (17, "Rope Walk", "Saltmouth", "SM1 4CD")),
    ("Keeper's cottage", "keepers-cottage", "lighthouse-trust", 2, 850,
     (1, "Beacon Lane", "Skerry Head", "SK4 1AA")),
    ("Assistant keeper's cottage", "assistant-keepers-cottage", "lighthouse-trust", 1, 640,
     (2, "Beacon Lane", "Skerry Head", "SK4 1AA")),
    ("Fish market flat, south", "fish-market-south", "north-pier-homes", 1, 720,
     (31, "North Pier", "Saltmouth", "SM2 8EF")),
    ("Fish market flat, top floor", "fish-market-top", "north-pier-homes", 4, 1450,
     (33, "North Pier", "Saltmouth", "SM2 8EF")),
]


def add_lettings(apps, schema_editor):
    Profile = apps.get_model("profiles", "Profile")
    Address = apps.get_model("lettings", "Address")
    Letting = apps.get_model("lettings", "Letting")
    for title, slug, host, beds, rent, (number, street, town, postcode) in LETTINGS:
        if Letting.objects.filter(slug=slug).exists():
            continue
        address, _ = Address.objects.get_or_create(
            number=number, street=street, postcode=postcode, defaults={"town": town}
        )
        Letting.objects.create(
            title=title,
            slug=slug,
            host=Profile.objects.get(slug=host),
            address=address,
            beds=beds,
            monthly_rent=rent,
        )


class Migration(migrations.Migration):
    dependencies = [("lettings", "0001_initial"), ("profiles", "0002_first_hosts")]
    # Going back keeps the rows: by then they may be somebody's work.
    operations = [migrations.RunPython(add_lettings, migrations.RunPython.noop)]
