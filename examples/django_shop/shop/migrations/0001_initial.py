"""The table of orders, with a first one."""

from django.db import migrations, models


def first(apps, schema_editor):
    apps.get_model("shop", "Order").objects.create(item="apple", count=3)


class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("item", models.CharField(max_length=80)),
                ("count", models.PositiveIntegerField(default=1)),
            ],
        ),
        migrations.RunPython(first, migrations.RunPython.noop),
    ]
