#!/bin/sh
set -e
: "${SERVICE_PASSWORD:?is not set}"
echo "$1 with a password of ${#SERVICE_PASSWORD} letters in $SERVICE_DATA"
