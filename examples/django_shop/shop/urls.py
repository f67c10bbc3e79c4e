"""``GET /orders/`` lists, ``POST /orders/`` adds."""

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from shop.models import Order


@csrf_exempt
def orders(request: HttpRequest) -> JsonResponse:
    if request.method == "POST":
        Order.objects.create(item=request.POST["item"], count=int(request.POST["count"]))
    return JsonResponse(list(Order.objects.order_by("id").values_list("item", "count")), safe=False)


urlpatterns = [path("orders/", orders)]
