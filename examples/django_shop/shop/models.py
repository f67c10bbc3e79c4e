"""What is stored."""

from django.db import models


class Order(models.Model):
    """Somebody wants something."""

    item = models.CharField(max_length=80)
    count = models.PositiveIntegerField(default=1)
